"""How models write calls of functions: a table of formats, told apart by what their chat templates hold."""

from __future__ import annotations

import json
import os
import re
import string
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from fastlm.results import ToolCall

ID_LETTERS = string.ascii_letters + string.digits
ID_LENGTH = 9  # which some templates demand


@dataclass(frozen=True, slots=True)
class Format:
    """How calls stand in a text.

    Attributes
    ----------
    marks
        What a template of this format holds: all of them.
    begin, end
        What a call, or a list of them, stands between; an end of "" is that of the text. begin "": the text is nothing
        but calls if it begins with a brace.
    style
        How forcing.py writes one: an "object", with its arguments under `key` and what stands `around` it between the
        marks; or "named", "tagged", "escaped".
    inner
        Other marks, in the midst of calls.
    parse
        The name and the arguments of each call in what stands there; raises ValueError where it is none.
    """

    marks: tuple[str, ...]
    begin: str
    end: str
    parse: Callable[[str], Iterator[tuple[str, Any]]]
    style: str = "object"
    key: str = "arguments"
    around: tuple[str, str] = ("", "")
    inner: tuple[str, ...] = ()


def calls_of(body: str, form: Format) -> list[ToolCall]:
    """The calls that stand in a part of a text; none where they are malformed, or cut off."""
    try:
        found = list(form.parse(body.strip()))
    except (ValueError, TypeError, KeyError, RecursionError):
        return []
    return [ToolCall(_identity(), name, _json(arguments)) for name, arguments in found]


def _identity() -> str:
    return "".join(ID_LETTERS[byte % len(ID_LETTERS)] for byte in os.urandom(ID_LENGTH))


def _json(arguments: Any) -> str:
    return arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False)


def _objects(body: str) -> Iterator[tuple[str, Any]]:
    """{"name": ..., "arguments": {...}}, a list of them, or several one after another with ; or a line in between."""
    decoder, at = json.JSONDecoder(), 0
    while at < len(body):
        value, at = decoder.raw_decode(body, at)
        for call in value if isinstance(value, list) else [value]:
            name, arguments = call["name"], call.get("arguments", call.get("parameters", {}))
            if not isinstance(name, str):
                raise ValueError("a name that is no string")
            yield name, arguments
        while at < len(body) and body[at] in "; \n\r\t":
            at += 1


def _tagged(body: str) -> Iterator[tuple[str, Any]]:
    """<function=name> <parameter=key> value </parameter> ... </function>"""
    functions = re.findall(r"<function=([^>]+)>(.*?)(?:</function>|\Z)", body, re.DOTALL)
    if not functions:
        raise ValueError("no function")
    for name, inside in functions:
        pairs = re.findall(r"<parameter=([^>]+)>\n?(.*?)\n?(?:</parameter>|\Z)", inside, re.DOTALL)
        yield name.strip(), {key.strip(): _value(text) for key, text in pairs}


def _named(body: str) -> Iterator[tuple[str, Any]]:
    """name[ARGS]{...}, or a list of objects; several behind a mark each."""
    for part in filter(None, map(str.strip, body.split("[TOOL_CALLS]"))):
        name, mark, arguments = part.partition("[ARGS]")
        if not mark:
            yield from _objects(part)
        else:
            json.loads(arguments)
            yield name.partition("[CALL_ID]")[0].strip(), arguments.strip()


def _escaped(body: str) -> Iterator[tuple[str, Any]]:
    """call:name{key:<escape>text<escape>,other:5}"""
    found = re.fullmatch(r"call:([\w.-]+)\s*\{(.*)\}", body, re.DOTALL)
    if found is None:
        raise ValueError("no call")
    pairs = re.findall(r"([\w-]+):(?:<escape>(.*?)<escape>|([^,<]*))", found[2], re.DOTALL)
    yield found[1], {key: text if text or not plain else _value(plain) for key, text, plain in pairs}


def _value(text: str) -> Any:
    """A value of JSON, else the text itself."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


# The first whose marks a template holds.
FORMATS = {
    "functiongemma": Format(
        ("<start_function_call>",),
        "<start_function_call>",
        "<end_function_call>",
        _escaped,
        "escaped",
        inner=("<escape>",),
    ),
    "qwen3_coder": Format(("<tool_call>", "<function="), "<tool_call>", "</tool_call>", _tagged, "tagged"),
    "mistral_named": Format(("[TOOL_CALLS]", "[ARGS]"), "[TOOL_CALLS]", "", _named, "named", inner=("[ARGS]",)),
    "mistral": Format(("[TOOL_CALLS]",), "[TOOL_CALLS]", "", _named, around=("[", "]")),
    "phi4": Format(("<|tool_call|>", "<|/tool_call|>"), "<|tool_call|>", "<|/tool_call|>", _objects, around=("[", "]")),
    "granite": Format(("<|tool_call|>",), "<|tool_call|>", "", _objects, around=("[", "]")),
    "hermes": Format(("<tool_call>",), "<tool_call>", "</tool_call>", _objects, around=("\n", "\n")),
    "llama3": Format(('"parameters"', "tools"), "", "", _objects, key="parameters"),
}


def format_of(template: str) -> Format | None:
    """The format of a template's calls; None: it is not known here."""
    return next((form for form in FORMATS.values() if all(mark in template for mark in form.marks)), None)
