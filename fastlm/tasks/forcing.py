"""What an answer must be: a call of a function, in the model's own format, or a text by a grammar behind its reasoning.

Rules are those of Lark as llguidance reads them.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fastlm.arguments import shown
from fastlm.errors import ParameterError, UnsupportedError
from fastlm.structured.grammar import LARK, Grammar
from fastlm.tasks.calls import Format
from fastlm.tasks.replies import THINKS, THOUGHT, Way
from fastlm.tokenizer.conversation import fields_of

Mark = Callable[[str], str]  # a text, or the special token that is written so, in a rule
# Arguments as json.dumps writes them, which is how templates show them to models.
AS_WRITTEN = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}


@dataclass(frozen=True, slots=True)
class Function:
    """A function that may be called: its name, and the JSON schema of its arguments."""

    name: str
    parameters: Mapping[str, Any]


def functions_of(tools: Sequence[Any], choice: str) -> list[Function]:
    """Those that an answer must call one of.

    Parameters
    ----------
    choice
        "required", or the name of one.

    Raises
    ------
    ParameterError
        There is no such function, or one of `tools` is none.
    """
    found = [_function(tool, f"tools[{i}]") for i, tool in enumerate(tools)]
    chosen = [one for one in found if choice in ("required", one.name)]
    if not chosen:
        known = ", ".join(one.name for one in found) or "none"
        raise ParameterError(f"tool_choice: there is no function {choice!r:.80} in tools; there are: {known}")
    return chosen


def _function(tool: Any, where: str) -> Function:
    held = fields_of(tool)
    given = None if held is None else fields_of(held.get("function", held))
    if given is None or not isinstance(given.get("name"), str) or not given["name"]:
        raise ParameterError(f"{where} must be a function with a name, not {shown(tool)}")
    parameters = given.get("parameters")
    if parameters is None:
        parameters = {"type": "object", "properties": {}}
    if not isinstance(parameters, Mapping):
        raise ParameterError(f"{where}: parameters must be a JSON schema, not {shown(parameters)}")
    return Function(given["name"], parameters)


def call_of(functions: Sequence[Function], form: Format, mark: Mark) -> Grammar:
    """One call of one of these functions.

    Raises
    ------
    UnsupportedError
        The format has no way to write such arguments.
    """
    names = [f"call_{i}" for i in range(len(functions))]
    rules = [f"start: {' | '.join(names)}"]
    for name, function in zip(names, functions, strict=True):
        rules += _WRITERS[form.style](name, function, form, mark)
    return Grammar(LARK, "\n".join(rules) + "\n", "tool_choice")


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


def _json(schema: Any) -> str:
    """The rule of a value."""
    written = {**schema, "x-guidance": AS_WRITTEN} if isinstance(schema, Mapping) else schema
    try:
        return "%json " + json.dumps(written)
    except (TypeError, ValueError, RecursionError) as error:
        raise ParameterError(f"tools: a schema cannot be written as JSON: {error}") from error


def _between(form: Format, mark: Mark, *inside: str) -> str:
    return " ".join([*([mark(form.begin)] if form.begin else []), *inside, *([mark(form.end)] if form.end else [])])


def _object(name: str, function: Function, form: Format, mark: Mark) -> list[str]:
    """{"name": ..., "arguments": {...}} between the marks, and what else stands there."""
    before, after = form.around
    head = f'{before}{{"name": {json.dumps(function.name)}, "{form.key}": '
    return [
        f"{name}: " + _between(form, mark, _quoted(head), f"{name}_args", _quoted("}" + after)),
        f"{name}_args: {_json(function.parameters)}",
    ]


def _named(name: str, function: Function, form: Format, mark: Mark) -> list[str]:
    """name[ARGS]{...}"""
    return [
        f"{name}: " + _between(form, mark, _quoted(function.name), mark("[ARGS]"), f"{name}_args"),
        f"{name}_args: {_json(function.parameters)}",
    ]


def _tagged(name: str, function: Function, form: Format, mark: Mark) -> list[str]:
    """<function=name> and <parameter=key> around each value; strings stand there as they are."""
    end = "\n</parameter>\n"
    rules, parts = [], []
    for i, (key, schema, required) in enumerate(_properties(function)):
        value = f"{name}_{i}"
        if _is_free_text(schema):
            rules += [f"{value}: {value}_text", f"{value}_text[suffix={_quoted(end)}]: /(.|\\n)*/"]
        else:
            rules += [f"{value}: {value}_json {_quoted(end)}", f"{value}_json: {_json(schema)}"]
        part = f"{_quoted(f'<parameter={key}>' + chr(10))} {value}"
        parts.append(part if required else f"({part})?")
    head, tail = _quoted(f"\n<function={function.name}>\n"), _quoted("</function>\n")
    return [f"{name}: " + _between(form, mark, head, *parts, tail), *rules]


def _escaped(name: str, function: Function, form: Format, mark: Mark) -> list[str]:
    """call:name{key:<escape>text<escape>,other:5}"""
    rules: list[str] = []
    needed: list[str] = []
    other: list[str] = []
    for i, (key, schema, required) in enumerate(_properties(function)):
        value = f"{name}_{i}"
        if _is_free_text(schema):
            rules += [f"{value}: {mark('<escape>')} {value.upper()} {mark('<escape>')}", f"{value.upper()}: /[^<]*/"]
        elif isinstance(schema, Mapping) and schema.get("type") in ("integer", "number", "boolean"):
            rules.append(f"{value}: {_json(schema)}")
        else:
            raise UnsupportedError(
                f"tool_choice: this model's format has no way to force {function.name}'s {key!r:.40}: its calls hold "
                "strings, numbers, true and false"
            )
        (needed if required else other).append(f"{_quoted(key + ':')} {value}")
    inside = [_quoted(f"call:{function.name}{{"), *([_with_commas(needed, other)] if rules else []), _quoted("}")]
    return [f"{name}: " + _between(form, mark, *inside), *rules]


def _with_commas(needed: Sequence[str], other: Sequence[str]) -> str:
    """Parts in a row, those that may be missing last."""
    if needed:
        return " ".join([' "," '.join(needed), *(f'("," {part})?' for part in other)])
    rows = [" ".join([part, *(f'("," {later})?' for later in other[i + 1 :])]) for i, part in enumerate(other)]
    return f"({' | '.join(rows)})?"


def _properties(function: Function) -> list[tuple[str, Any, bool]]:
    """Names, schemas, and whether they are required."""
    given, required = function.parameters.get("properties") or {}, function.parameters.get("required") or ()
    if not isinstance(given, Mapping):
        raise ParameterError(f"tools: the properties of {function.name} must be an object, not {shown(given)}")
    shared = {name: function.parameters[name] for name in ("$defs", "definitions") if name in function.parameters}
    return [
        (key, {**shared, **schema} if isinstance(schema, Mapping) else schema, key in required)
        for key, schema in given.items()
    ]


def _is_free_text(schema: Any) -> bool:
    bounds = ("enum", "const", "pattern", "format", "minLength", "maxLength")
    return isinstance(schema, Mapping) and schema.get("type") == "string" and not any(b in schema for b in bounds)


_WRITERS = {"object": _object, "named": _named, "tagged": _tagged, "escaped": _escaped}


def behind_reasoning(grammar: Grammar, way: Way | None) -> Grammar:
    """The grammar of an answer behind what the model may think first, or is thinking already."""
    if way is None or not way.thinks:
        return grammar
    end = way.mark(THOUGHT)
    if end.startswith("<"):
        thought = f"thought: THOUGHT {end}\nTHOUGHT: /(.|\\n)*/"
    else:
        thought = f"thought[suffix={end}]: /(.|\\n)*/"
    first = "thought" if way.begun else f"({way.mark(THINKS)} thought)?"
    return grammar.after(f"before: {first} SPACE\n{thought}\nSPACE: /[ \\n]{{0,4}}/\n")
