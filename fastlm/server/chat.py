"""/v1/chat/completions"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

from fastlm.engine import Engine
from fastlm.generation import Request
from fastlm.parameters import CancelFlag
from fastlm.results import Chunk, Completion, ToolCall
from fastlm.server.fields import Fields
from fastlm.server.formats import answer_format, tool_choice
from fastlm.server.http import event, framed
from fastlm.server.limits import Limits
from fastlm.server.logprobs import of_chat
from fastlm.server.messages import messages_of
from fastlm.server.refusals import Refusal, wrong
from fastlm.server.sampling import NAMES, check_logprobs, sampling, tokens
from fastlm.server.service import Service
from fastlm.server.stream_options import OPTIONS, ending, events_of, wants_usage
from fastlm.server.writing import FINGERPRINT, Job, finish_of, identity, made, usage_of
from fastlm.tasks.calls import format_of
from fastlm.tasks.chat import request_of
from fastlm.tasks.replies import Part, Way

LENGTHS = ("max_completion_tokens", "max_tokens")
OTHERS = ("model", "messages", "stream", "logprobs", "top_logprobs", "tools", "chat_template_kwargs", "documents")
REFUSED: dict[str, tuple[Any, ...]] = {  # but for these values, which ask for nothing
    "modalities": (["text"],),
    "parallel_tool_calls": (True,),
    "service_tier": ("auto", "default"),
    "store": (False,),
}
FIELDS = (*OTHERS, "response_format", "tool_choice", *LENGTHS, *NAMES, *REFUSED, OPTIONS)
MAX_TOP = 20
MAX_TOOLS = 128


async def chat(service: Service, body: Any) -> dict[str, Any] | AsyncGenerator[bytes, None]:
    """Answer, or begin to."""
    fields = Fields(body, FIELDS)
    name, engine = service.engine(fields)
    for refused, values in REFUSED.items():
        fields.only(refused, *values)
    messages = messages_of(fields.required("messages"), engine)
    params = sampling(fields, engine, service.limits)
    params["max_tokens"] = tokens(fields, LENGTHS, service.limits.default_tokens, service.limits)
    if (top := _top(fields)) is not None:
        params["logprobs"] = top
    if "response_format" in fields:
        answer_format(fields.values["response_format"], "response_format", params, nested=True)
    check_logprobs(engine, service.limits, params, params.get("n", 1))
    variables = {**fields.table("chat_template_kwargs"), **fields.given(("documents",)), **_tools(fields, engine)}
    usage = wants_usage(fields)
    talk = Talk(engine, service.limits, messages, variables, params, tool_choice(fields))
    forced = tool_choice(fields) not in (None, "auto", "none")
    job = Job(name, engine, talk.prompts, params, service.metrics, fields.names, "messages", talk.size, forced)
    await job.begin()
    if fields.flag("stream"):
        return events_of(_stream(job, talk, usage))
    return _whole(job, list(map(talk.apart, await job.completions())))


class Talk:
    """A conversation that is to be answered.

    Attributes
    ----------
    way
        How answers are taken apart, once the prompt is made; None: they are nothing but text.
    """

    def __init__(
        self,
        engine: Engine,
        limits: Limits,
        messages: Sequence[Any],
        variables: Mapping[str, Any],
        params: Mapping[str, Any],
        tool_choice: str | None = None,
    ) -> None:
        self._engine = engine
        self._params = params
        self._choice = tool_choice
        self._limits = limits
        self._messages = messages
        self._variables = variables
        self.way: Way | None = None

    @property
    def size(self) -> int | None:
        """Of the messages; see `Job`."""
        return None if self._variables else len(str(self._messages))

    def prompts(self, cancel: CancelFlag) -> list[Request]:
        """What it asks of `generate`, in a list."""
        request, self.way = request_of(self._engine, self._messages, self._variables, self._params, self._choice)
        assert isinstance(request.prompt, list)
        self._limits.check_prompt(request.prompt, "messages")
        return [request]

    def apart(self, done: Completion) -> Completion:
        return done if self.way is None else self.way.apart(done)

    def texts(self) -> Callable[[Chunk], str]:
        """What of the pieces of an answer is text, and neither reasoning nor a call."""
        if self.way is None:
            return lambda piece: piece.text
        way, reply = self.way, self.way.reply()
        return lambda piece: "".join(part.text for part in reply.push(way.text_of(piece), bool(piece.finish_reason)))


def _tools(fields: Fields, engine: Engine) -> dict[str, Any]:
    """The functions that the answer may call."""
    if "tools" not in fields or fields.values.get("tool_choice") == "none":
        return {}
    tools = {"tools": fields.items("tools", MAX_TOOLS)}
    if engine.templates is not None and format_of(engine.templates.source(tools)) is None:
        text = "tools: it is not known how this model writes calls of functions"
        raise Refusal(400, text, param="tools", code="unsupported_value")
    return tools


def _top(fields: Fields) -> int | None:
    """How many of the most probable tokens to tell; None: no log-probabilities at all."""
    top = fields.count("top_logprobs", 0, 0, MAX_TOP)
    if fields.flag("logprobs"):
        return top
    if "top_logprobs" in fields:
        raise wrong("top_logprobs", "top_logprobs needs logprobs: true")
    return None


def _whole(job: Job, done: list[Completion]) -> dict[str, Any]:
    choices = [
        {
            "index": index,
            "message": _message(one),
            "logprobs": of_chat(job.engine.tokenizer, one.logprobs),
            "finish_reason": "tool_calls" if one.tool_calls else finish_of(one.finish_reason),
        }
        for index, one in enumerate(done)
    ]
    usage = usage_of(job.usage([len(one.token_ids) for one in done]))
    return {**_head("chat.completion"), "model": job.model, "choices": choices, "usage": usage}


def _message(one: Completion) -> dict[str, Any]:
    found: dict[str, Any] = {"role": "assistant", "content": one.text, "refusal": None}
    if one.reasoning is not None:
        found["reasoning_content"] = one.reasoning
    if one.tool_calls:
        found["content"] = one.text.strip() or None
        found["tool_calls"] = [_call(call) for call in one.tool_calls]
    return found


def _call(call: ToolCall) -> dict[str, Any]:
    return {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}


def _head(kind: str) -> dict[str, Any]:
    return {"id": identity("chatcmpl-"), "object": kind, "created": made(), "system_fingerprint": FINGERPRINT}


async def _stream(job: Job, talk: Talk, usage: bool) -> AsyncGenerator[bytes, None]:
    head = {**_head("chat.completion.chunk"), "model": job.model}
    extra: dict[str, Any] = {"usage": None} if usage else {}
    written = [0] * len(job.runs)
    tellers = [_Teller(talk.way) for _ in job.runs]

    def chunk(index: int, delta: dict[str, Any], piece: Chunk | None = None, finish: str | None = None) -> bytes:
        logprobs = None if piece is None else of_chat(job.engine.tokenizer, piece.logprobs)
        choice = {"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": finish}
        return event({**head, "choices": [choice], **extra})

    def told(index: int, piece: Chunk) -> Iterator[bytes]:
        written[index] += len(piece.token_ids)
        *deltas, last = tellers[index].deltas(piece) or [{}]
        for delta in deltas:
            yield chunk(index, delta)
        if piece.logprobs is None and last.keys() == {"content"}:
            yield plain[index](last["content"])
        elif last or piece.logprobs:
            yield chunk(index, last, piece)
        if piece.finish_reason is not None:
            called = tellers[index].calls > 0
            yield chunk(index, {}, finish="tool_calls" if called else finish_of(piece.finish_reason))

    def content(index: int, text: str) -> bytes:
        return chunk(index, {"content": text})

    plain = [framed(partial(content, index)) for index in range(len(job.runs))]
    begins: dict[str, Any] = {"role": "assistant", "content": "", "refusal": None}
    yield b"".join(chunk(index, begins) for index in range(len(job.runs)))
    async for turn in job.turns(whole=False):
        if data := b"".join(data for index, piece in turn for data in told(index, piece)):
            yield data
    total = usage_of(job.usage(written))
    for data in ending(head, total, usage):
        yield data


class _Teller:
    """The pieces of one choice as deltas."""

    def __init__(self, way: Way | None) -> None:
        self._way = way
        self._reply = None if way is None else way.reply()
        self.calls = 0

    def deltas(self, piece: Chunk) -> list[dict[str, Any]]:
        if self._way is None or self._reply is None:
            return [{"content": piece.text}] if piece.text else []
        parts = self._reply.push(self._way.text_of(piece), last=piece.finish_reason is not None)
        return [self._delta(part) for part in parts]

    def _delta(self, part: Part) -> dict[str, Any]:
        if part.call is None:
            return {"content": part.text} if part.text else {"reasoning_content": part.reasoning}
        self.calls += 1
        return {"tool_calls": [{"index": self.calls - 1, **_call(part.call)}]}
