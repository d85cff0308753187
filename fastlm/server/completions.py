"""/v1/completions"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from functools import partial
from typing import Any

from fastlm.arguments import shown
from fastlm.engine import Engine
from fastlm.parameters import CancelFlag
from fastlm.results import Chunk, Completion, TokenLogprob
from fastlm.server.fields import Fields
from fastlm.server.http import event, framed
from fastlm.server.limits import Limits
from fastlm.server.logprobs import of_text
from fastlm.server.refusals import Refusal, wrong
from fastlm.server.sampling import NAMES, check_logprobs, sampling, tokens
from fastlm.server.service import Service
from fastlm.server.stream_options import OPTIONS, ending, events_of, wants_usage
from fastlm.server.writing import FINGERPRINT, Job, finish_of, identity, made, usage_of
from fastlm.tasks.told import token_logprobs
from fastlm.tokenizer.prompts import Prompt

FIELDS = ("model", "prompt", "stream", "logprobs", "echo", "best_of", "suffix", "max_tokens", *NAMES, OPTIONS)
DEFAULT_TOKENS = 16  # what OpenAI's API takes where the request does not say; translations are as long as they are
MAX_TOP = 20


async def completions(service: Service, body: Any) -> dict[str, Any] | AsyncGenerator[bytes, None]:
    """Answer, or begin to."""
    fields = Fields(body, FIELDS)
    name, engine = service.engine(fields)
    params = sampling(fields, engine, service.limits)
    n = params.get("n", 1)
    fields.only("suffix", "")
    fields.only("best_of", n)
    given = prompts_of(fields.required("prompt"), service.limits.choices // n)
    usual = service.limits.default_tokens if engine.kind == "encoder-decoder" else DEFAULT_TOKENS
    params["max_tokens"] = tokens(fields, ("max_tokens",), usual, service.limits)
    params["echo"] = fields.flag("echo")
    if "logprobs" in fields:
        params["logprobs"] = fields.count("logprobs", 0, 0, MAX_TOP)
        if params["echo"] and fields.flag("stream"):
            text = "echo: a stream tells no log-probabilities of the prompt: leave out stream, echo or logprobs"
            raise Refusal(400, text, param="echo", code="unsupported_value")
    check_logprobs(engine, service.limits, params, n * len(given), params["echo"])
    usage = wants_usage(fields)
    prompts = _Prompts(engine, service.limits, given, params.get("logprobs") if params["echo"] else None)
    job = Job(name, engine, prompts.read, params, service.metrics, fields.names, "prompt", prompts.size)
    await job.begin()
    if fields.flag("stream"):
        return events_of(_stream(job, usage))
    return _whole(job, prompts, await job.completions())


class _Prompts:
    """The prompts of a request.

    Parameters
    ----------
    top
        How many of the most probable tokens to tell at each place of a prompt; None: its log-probabilities count for
        nothing.

    Attributes
    ----------
    told
        Of each prompt, if that is wanted: its first token, and what is known of the others.
    """

    def __init__(self, engine: Engine, limits: Limits, given: Sequence[Prompt], top: int | None) -> None:
        self._engine = engine
        self._limits = limits
        self._given = given
        self._top = top
        self.told: list[tuple[str, list[TokenLogprob]]] = []

    @property
    def size(self) -> int | None:
        """Of all; see `Job`."""
        return sum(len(one) for one in self._given if isinstance(one, (str, list))) if self._top is None else None

    def read(self, cancel: CancelFlag) -> Sequence[Prompt]:
        for prompt in self._given if self._top is not None or self._limits.prompt_tokens is not None else ():
            ids = self._limits.check_prompt(self._engine.prompts.ids(prompt), "prompt")
            if self._top is not None:
                known = token_logprobs(self._engine, ids, self._top, cancel)
                self.told.append((self._engine.prompts.needed_tokenizer().decode(ids[:1]), known))
        return self._given


def prompts_of(given: Any, most: int) -> list[Prompt]:
    """A text, token ids, or a list of them."""
    if isinstance(given, str):
        return [given]
    if not isinstance(given, list) or not given:
        raise wrong("prompt", f"prompt must be a string, a list of strings, or token ids, not {shown(given)}")
    if all(isinstance(item, int) for item in given):
        return [given]
    if len(given) > most:
        raise wrong("prompt", f"prompt has {len(given)} texts; this server takes {most} at a time")
    for i, item in enumerate(given):
        if not isinstance(item, (str, list)):
            raise wrong(f"prompt[{i}]", f"prompt[{i}] must be a string or a list of token ids, not {shown(item)}")
    return given


def _choice(index: int, one: Completion | Chunk, logprobs: Any) -> dict[str, Any]:
    finish = None if one.finish_reason is None else finish_of(one.finish_reason)
    return {"index": index, "text": one.text, "logprobs": logprobs, "finish_reason": finish}


def _head(job: Job) -> dict[str, Any]:
    return {
        "id": identity("cmpl-"),
        "object": "text_completion",
        "created": made(),
        "model": job.model,
        "system_fingerprint": FINGERPRINT,
    }


def _whole(job: Job, prompts: _Prompts, done: list[Completion]) -> dict[str, Any]:
    top, choices = bool(job.params.get("logprobs")), []
    for index, one in enumerate(done):
        first, before = prompts.told[index // job.params.get("n", 1)] if prompts.told else (None, [])
        tokens = None if one.logprobs is None else [*before, *one.logprobs]
        choices.append(_choice(index, one, of_text(tokens, 0, top, first)))
    usage = usage_of(job.usage([len(one.token_ids) for one in done]))
    return {**_head(job), "choices": choices, "usage": usage}


async def _stream(job: Job, usage: bool) -> AsyncGenerator[bytes, None]:
    head, top = _head(job), bool(job.params.get("logprobs"))
    extra: dict[str, Any] = {"usage": None} if usage else {}
    written, offsets = [0] * len(job.runs), [0] * len(job.runs)

    def chunk(index: int, piece: Chunk, logprobs: Any = None) -> bytes:
        return event({**head, "choices": [_choice(index, piece, logprobs)], **extra})

    def content(index: int, text: str) -> bytes:
        return chunk(index, Chunk(text, [], None, None))

    def told(index: int, piece: Chunk) -> bytes:
        written[index] += len(piece.token_ids)
        if piece.logprobs or piece.finish_reason:
            offset, offsets[index] = offsets[index], offsets[index] + len(piece.text)
            return chunk(index, piece, of_text(piece.logprobs, offset, top))
        return plain[index](piece.text) if piece.text else b""

    plain = [framed(partial(content, index)) for index in range(len(job.runs))]
    async for turn in job.turns(whole=False):
        if data := b"".join(told(index, piece) for index, piece in turn):
            yield data
    total = usage_of(job.usage(written))
    for data in ending(head, total, usage):
        yield data
