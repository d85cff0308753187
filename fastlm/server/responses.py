"""/v1/responses: texts, whole or as a stream of events. Nothing is stored."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator
from typing import Any

from fastlm.arguments import shown
from fastlm.server.chat import Talk
from fastlm.server.fields import Fields
from fastlm.server.formats import answer_format
from fastlm.server.http import event
from fastlm.server.messages import messages_of
from fastlm.server.refusals import Refusal, wrong
from fastlm.server.sampling import OWN, sampling, tokens
from fastlm.server.service import Service
from fastlm.server.stream_options import events_of
from fastlm.server.writing import Job, identity, made

SAMPLING = ("temperature", "top_p", *OWN)
OTHERS = ("model", "input", "instructions", "max_output_tokens", "stream", "chat_template_kwargs", "text")
REFUSED: dict[str, tuple[Any, ...]] = {  # but for these values, which ask for nothing that is not there
    "store": (False,),
    "background": (False,),
    "previous_response_id": (),
    "conversation": (),
    "tools": ([],),
    "tool_choice": ("auto", "none"),
    "truncation": ("disabled",),
    "include": ([],),
    "service_tier": ("auto", "default"),
}
FIELDS = (*OTHERS, *SAMPLING, *REFUSED)


async def responses(service: Service, body: Any) -> dict[str, Any] | AsyncGenerator[bytes, None]:
    """Answer, or begin to."""
    fields = Fields(body, FIELDS)
    name, engine = service.engine(fields)
    for refused, values in REFUSED.items():
        fields.only(refused, *values)
    given = fields.required("input")
    messages = messages_of([_user(given)] if isinstance(given, str) else _items(given), engine, "input")
    if "instructions" in fields:
        messages.insert(0, {"role": "system", "content": fields.text("instructions")})
    params = sampling(fields, engine, service.limits)
    params["max_tokens"] = tokens(fields, ("max_output_tokens",), service.limits.default_tokens, service.limits)
    _take_format(fields, params)
    talk = Talk(engine, service.limits, messages, fields.table("chat_template_kwargs"), params)
    job = Job(name, engine, talk.prompts, params, service.metrics, fields.names, "input", talk.size)
    await job.begin()
    head = _head(fields, params)
    if fields.flag("stream"):
        return events_of(_stream(job, talk, head))
    done = talk.apart(*await job.completions())
    return _finished(job, head, identity("msg_"), done.text, len(done.token_ids), done.finish_reason)


def _take_format(fields: Fields, params: dict[str, Any]) -> None:
    text = fields.table("text")
    if (other := next((name for name in text if name != "format"), None)) is not None:
        raise Refusal(400, f"text has no field {shown(other)} here", param="text", code="unsupported_value")
    if text.get("format") is not None:
        answer_format(text["format"], "text", params, nested=False)


def _user(text: str) -> dict[str, Any]:
    return {"role": "user", "content": text}


def _items(given: Any) -> Any:
    """Messages; items of other types are refused."""
    for i, item in enumerate(given if isinstance(given, list) else ()):
        kind = item.get("type", "message") if isinstance(item, dict) else "message"
        if kind != "message":
            raise Refusal(400, f"input[{i}]: this server takes messages only", param="input", code="unsupported_value")
    if not isinstance(given, list):
        raise wrong("input", "input must be a string or a list of messages")
    return [
        {k: v for k, v in item.items() if k in ("role", "content")} if isinstance(item, dict) else item
        for item in given
    ]


def _head(fields: Fields, params: dict[str, Any]) -> dict[str, Any]:
    return {
        "id": identity("resp_"),
        "object": "response",
        "created_at": made(),
        "status": "in_progress",
        "error": None,
        "incomplete_details": None,
        "instructions": fields.values.get("instructions"),
        "max_output_tokens": params["max_tokens"],
        "model": fields.text("model"),
        "output": [],
        "parallel_tool_calls": False,
        "previous_response_id": None,
        "reasoning": None,
        "store": False,
        "temperature": fields.values.get("temperature"),
        "text": {"format": {"type": "text"}, **fields.table("text")},
        "tool_choice": "auto",
        "tools": [],
        "top_p": fields.values.get("top_p"),
        "truncation": "disabled",
        "usage": None,
        "metadata": dict(fields.table("metadata")),
    }


def _part(text: str) -> dict[str, Any]:
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}


def _message(identity: str, status: str, *parts: dict[str, Any]) -> dict[str, Any]:
    return {"id": identity, "type": "message", "status": status, "role": "assistant", "content": list(parts)}


def _finished(job: Job, head: dict[str, Any], name: str, text: str, written: int, reason: str) -> dict[str, Any]:
    """The response when all is written."""
    used = job.usage([written])
    whole = reason != "length"
    status = "completed" if whole else "incomplete"
    return {
        **head,
        "status": status,
        "completed_at": time.time(),
        "incomplete_details": None if whole else {"reason": "max_output_tokens"},
        "output": [_message(name, status, _part(text))],
        "usage": {
            "input_tokens": used.prompt_tokens,
            "input_tokens_details": {"cached_tokens": used.cached_tokens},
            "output_tokens": used.completion_tokens,
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": used.prompt_tokens + used.completion_tokens,
        },
    }


async def _stream(job: Job, talk: Talk, head: dict[str, Any]) -> AsyncGenerator[bytes, None]:
    name, number = identity("msg_"), 0
    text, written, reason = "", 0, "stop"
    said_in = talk.texts()
    place = {"item_id": name, "output_index": 0, "content_index": 0}

    def said(kind: str, **more: Any) -> bytes:
        nonlocal number
        number += 1
        return event({"type": f"response.{kind}", "sequence_number": number - 1, **more}, f"response.{kind}")

    yield said("created", response=head)
    yield said("in_progress", response=head)
    yield said("output_item.added", output_index=0, item=_message(name, "in_progress"))
    yield said("content_part.added", **place, part=_part(""))
    try:
        async for ((_, piece),) in job.turns(whole=False):
            written += len(piece.token_ids)
            reason = piece.finish_reason or reason
            if delta := said_in(piece):
                text += delta
                yield said("output_text.delta", **place, delta=delta, logprobs=[])
    except Refusal as refusal:
        error = {"code": refusal.code or "server_error", "message": str(refusal)}
        yield said("failed", response={**head, "status": "failed", "error": error})
        return
    done = _finished(job, head, name, text, written, reason)
    yield said("output_text.done", **place, text=text, logprobs=[])
    yield said("content_part.done", **place, part=_part(text))
    yield said("output_item.done", output_index=0, item=done["output"][0])
    yield said(done["status"], response=done)
