"""What a caller may ask a text to be: the parameters json_schema, regex and grammar."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from fastlm.arguments import has_surrogate, shown
from fastlm.errors import ParameterError
from fastlm.structured.schemas import schema_of_dataclass

JSON_SCHEMA, REGEX, LARK = "json_schema", "regex", "grammar"
NAMES = (JSON_SCHEMA, REGEX, LARK)


@dataclass(frozen=True, slots=True)
class Grammar:
    """What a whole text must be.

    Attributes
    ----------
    kind
        JSON_SCHEMA, REGEX or LARK.
    text
        The schema as JSON, the expression, or the grammar.
    name
        What asks for it, in error texts.
    before
        Rules of Lark, the first of which, `before`, is what stands before that text; "": nothing.
    instead
        A grammar of Lark, of which the text may be instead; "": it may not.
    """

    kind: str
    text: str
    name: str
    before: str = ""
    instead: str = ""

    def after(self, rules: str) -> Grammar:
        """The same behind something else."""
        return replace(self, before=rules)

    def or_else(self, other: Grammar) -> Grammar:
        """The same, or the other, which is of Lark."""
        return replace(self, instead=other.text)


def grammar_of(given: Mapping[str, Any]) -> Grammar | None:
    """What the parameters of a call ask for; None: nothing.

    Raises
    ------
    ParameterError
        There are two of them, or one is no schema, no JSON, no text.
    """
    named = [name for name in NAMES if given.get(name) is not None]
    if not named:
        return None
    if len(named) > 1:
        raise ParameterError(f"{named[0]} and {named[1]} both say what the text must be: give one of them")
    (name,) = named
    value = given[name]
    if isinstance(value, Grammar):
        return value
    return Grammar(name, schema_text(value, name) if name == JSON_SCHEMA else _text(value, name), name)


def _text(value: object, name: str) -> str:
    if not isinstance(value, str) or not value:
        raise ParameterError(f"{name} must be a string that is not empty, not {shown(value)}")
    if has_surrogate(value):
        raise ParameterError(f"{name} holds a lone surrogate, which UTF-8 cannot say")
    return value


def schema_text(value: object, name: str) -> str:
    """A JSON schema as JSON.

    Parameters
    ----------
    value
        A mapping, a JSON text, a dataclass, or a class with pydantic's `model_json_schema`.
    name
        The argument's, in error texts.
    """
    schema = _schema(value, name)
    if schema is True:
        schema = {}
    if not isinstance(schema, Mapping):
        raise ParameterError(f"{name}: a schema is an object (or true), not {shown(schema)}")
    try:
        return _text(json.dumps(schema, ensure_ascii=False, allow_nan=False), name)
    except (TypeError, ValueError, RecursionError) as error:
        if isinstance(error, ParameterError):
            raise
        raise ParameterError(f"{name}: cannot be written as JSON: {error}") from error


def _schema(value: object, name: str) -> object:
    if isinstance(value, str):
        try:
            return json.loads(value)
        except (ValueError, RecursionError) as error:
            raise ParameterError(f"{name}: not JSON: {error}") from error
    if isinstance(value, type):
        if callable(made := getattr(value, "model_json_schema", None)):
            try:
                return made()
            except Exception as error:  # pydantic's, which is not imported here
                raise ParameterError(f"{name}: {value.__name__} has no schema: {error}") from error
        return schema_of_dataclass(value, name)
    if isinstance(value, (Mapping, bool)):
        return value
    raise ParameterError(
        f"{name} must be a schema (a dict), JSON that holds one, a dataclass or a pydantic model, not {shown(value)}"
    )


def has_grammar(params: Mapping[str, Any]) -> bool:
    """Whether parameters say what the text must be."""
    return any(params.get(name) is not None for name in NAMES)
