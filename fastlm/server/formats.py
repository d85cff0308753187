"""What an answer must be: response_format of chats, text.format of responses, and a call that tool_choice forces."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fastlm.arguments import shown
from fastlm.server.fields import Fields
from fastlm.server.refusals import Refusal, refusing, wrong
from fastlm.structured.grammar import JSON_SCHEMA, NAMES, Grammar, schema_text

OBJECT = '{"type": "object"}'
ABOUT = ("name", "description", "strict")  # which change nothing: every schema is kept to


def answer_format(given: Any, where: str, params: dict[str, Any], nested: bool) -> None:
    """Take a format into the parameters of `generate`.

    Parameters
    ----------
    where
        The field, in error texts.
    nested
        Whether a schema stands in an object of its own, as chats have it, or beside the type, as responses have it.
    """
    kind = given.get("type") if isinstance(given, dict) else None
    if not isinstance(given, dict) or not isinstance(kind, str):
        raise wrong(where, f"{where} must be an object with a type, not {shown(given)}")
    if kind not in ("text", "json_object", "json_schema"):
        raise Refusal(400, f"{where}: there is no type {shown(kind)}", param=where, code="unsupported_value")
    known = ("type",) if kind != "json_schema" else ("type", "json_schema") if nested else ("type", "schema", *ABOUT)
    _check_names(given, known, where)
    if kind == "text":
        return
    if (other := next((name for name in NAMES if name in params), None)) is not None:
        raise wrong(other, f"{other} and {where} both say what the answer must be: give one of them")
    text = OBJECT if kind == "json_object" else _schema(given["json_schema"] if nested else given, where, nested)
    params[JSON_SCHEMA] = Grammar(JSON_SCHEMA, text, where)


def _schema(given: Any, where: str, nested: bool) -> str:
    if nested:
        if not isinstance(given, dict):
            raise wrong(where, f"{where}.json_schema must be an object, not {shown(given)}")
        _check_names(given, ("schema", *ABOUT), f"{where}.json_schema")
    if not isinstance(given.get("name"), str):
        raise wrong(where, f"{where}: a schema needs a name")
    if not isinstance(given.get("schema"), dict):
        raise wrong(where, f"{where}: a schema is an object, not {shown(given.get('schema'))}")
    with refusing((where,)):
        return schema_text(given["schema"], where)


def _check_names(given: Mapping[str, Any], known: tuple[str, ...], where: str) -> None:
    for name in given:
        if name not in known:
            text = f"{where} has no field {shown(name)}"
            raise Refusal(400, text, param=where, code="unknown_parameter")
    if "json_schema" in known and "json_schema" not in given:
        raise wrong(where, f"{where}: json_schema is missing")


MODES = ("auto", "none", "required")  # of tool_choice, beside names


def tool_choice(fields: Fields) -> str | None:
    """As `Model.chat` takes it."""
    given = fields.values.get("tool_choice")
    if given is None or given in ("auto", "none"):
        return given
    name = given
    if given != "required":
        function = given.get("function") if isinstance(given, dict) and given.get("type") == "function" else None
        name = function.get("name") if isinstance(function, dict) else None
        if not isinstance(name, str):
            text = f'tool_choice must be "auto", "none", "required" or a function with its name, not {shown(given)}'
            raise wrong("tool_choice", text)
        if name in MODES:
            raise wrong("tool_choice", f"tool_choice: a function that is called {name!r} cannot be chosen by its name")
    if "tools" not in fields:
        raise wrong("tool_choice", "tool_choice asks for a call, but there are no tools")
    return str(name)
