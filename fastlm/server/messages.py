"""Conversations as OpenAI writes them, as chat templates read them."""

from __future__ import annotations

import json
from typing import Any

from fastlm.arguments import shown
from fastlm.engine import Engine
from fastlm.server.refusals import Refusal, wrong

TEXTS = ("text", "input_text", "output_text")
ROLES = {"developer": "system", "function": "tool"}  # newer and older names


def messages_of(given: Any, engine: Engine, name: str = "messages") -> list[dict[str, Any]]:
    """The messages of a request; the template checks what it takes."""
    if not isinstance(given, list) or not given:
        raise wrong(name, f"{name} must be a list that is not empty, not {shown(given)}")
    parts = engine.templates is not None and engine.templates.reads_parts
    return [_message(message, f"{name}[{i}]", parts) for i, message in enumerate(given)]


def _message(given: Any, where: str, parts: bool) -> dict[str, Any]:
    if not isinstance(given, dict) or not isinstance(given.get("role"), str):
        raise wrong(where, f"{where} must be an object with a role, not {shown(given)}")
    found = {key: value for key, value in given.items() if value is not None}
    found["role"] = ROLES.get(given["role"], given["role"])
    content = given.get("content")
    if isinstance(content, list):
        texts = [_text(part, f"{where}.content[{i}]") for i, part in enumerate(content)]
        found["content"] = [{"type": "text", "text": text} for text in texts] if parts else "".join(texts)
    elif content is None:
        found["content"] = ""
    elif not isinstance(content, str):
        raise wrong(f"{where}.content", f"{where}.content must be a string or a list of parts, not {shown(content)}")
    if isinstance(given.get("tool_calls"), list):
        found["tool_calls"] = [_call(call) for call in given["tool_calls"]]
    return found


def _text(part: Any, where: str) -> str:
    kind = part.get("type") if isinstance(part, dict) else None
    if kind in TEXTS and isinstance(part.get("text"), str):
        text: str = part["text"]
        return text
    if isinstance(kind, str) and kind not in TEXTS:
        text = f"{where}: this server reads texts only, not {shown(kind)}"
        raise Refusal(400, text, param=where, code="unsupported_value")
    raise wrong(where, f"{where} must be a part with a type and a text, not {shown(part)}")


def _call(given: Any) -> Any:
    """A call whose arguments are an object, as templates read them; OpenAI writes JSON in a string."""
    function = given.get("function") if isinstance(given, dict) else None
    if not isinstance(function, dict) or not isinstance(function.get("arguments"), str):
        return given
    try:
        arguments = json.loads(function["arguments"])
    except (ValueError, RecursionError):
        return given
    return {**given, "function": {**function, "arguments": arguments}}
