"""What callers give a chat template: messages, tools, documents and variables, as plain values."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from fastlm.arguments import has_surrogate, shown
from fastlm.errors import ParameterError

_MAX_DEPTH = 64  # of values in values
_MAX_BITS = 14_000  # of an integer: what Python prints
_REASONING = (
    "reasoning_content",
    "thinking",
    "reasoning",
)  # what messages call it; templates read the first, or the second


class Plain:
    """Makes plain copies of values: texts, numbers, None, and lists, tuples and tables of them.

    What a template sees has no methods but those of plain values, and the caller's own objects stay as they are.

    Attributes
    ----------
    characters, items
        Of all that was copied: the texts, and the lists, tables and what is in them.
    """

    def __init__(self) -> None:
        self.characters = 0
        self.items = 0
        self._made: dict[int, tuple[object, Any]] = {}  # by id: shared parts stay shared

    def copy(self, value: object, where: str) -> Any:
        """A plain copy of a value.

        Raises
        ------
        ParameterError
            A part of it is nothing that a template could show; `where` is how the error calls the value.
        """
        return self._copy(value, (where,))

    def _copy(self, value: object, path: tuple[Any, ...]) -> Any:
        """As `copy`; `path` has the name of the argument, and the keys by which the value is found in it."""
        self.items += 1
        kind = type(value)
        if kind is str:
            return self._text(value, path)  # type: ignore[arg-type]
        if value is None or kind is bool or kind is float:
            return value
        if isinstance(value, (str, int, float, np.bool_, np.integer, np.floating)):
            return self._scalar(value, path)
        if len(path) > _MAX_DEPTH:
            raise ParameterError(f"{_name(path)}: is nested deeper than {_MAX_DEPTH} levels, or holds itself")
        if id(value) not in self._made:
            self._made[id(value)] = value, self._container(value, path)
        return self._made[id(value)][1]

    def _text(self, value: str, path: tuple[Any, ...]) -> str:
        if has_surrogate(value):
            raise ParameterError(f"{_name(path)}: the text holds a lone surrogate, which UTF-8 cannot say")
        self.characters += len(value)
        return value

    def _scalar(self, value: Any, path: tuple[Any, ...]) -> Any:
        if isinstance(value, str):
            return self._text(str.__str__(value), path)
        if isinstance(value, (bool, np.bool_)):
            return bool(value)
        if isinstance(value, (float, np.floating)):
            return float(value)
        number = int(value)
        if number.bit_length() > _MAX_BITS:
            raise ParameterError(f"{_name(path)}: the number has too many digits to be written")
        return number

    def _container(self, value: object, path: tuple[Any, ...]) -> Any:
        fields = fields_of(value)
        if fields is not None:
            wrong = [name for name in fields if not isinstance(name, (str, int, float, type(None)))]
            if wrong:
                raise ParameterError(f"{_name(path)}: names in it must be texts, not {shown(wrong[0])}")
            return {self._copy(name, path): self._copy(part, (*path, name)) for name, part in fields.items()}
        if isinstance(value, (list, tuple)):
            parts = [self._copy(part, (*path, i)) for i, part in enumerate(value)]
            return parts if isinstance(value, list) else tuple(parts)
        raise ParameterError(f"{_name(path)}: a template takes texts, numbers, lists and mappings, not {shown(value)}")


def _name(path: tuple[Any, ...]) -> str:
    """How errors call a part of an argument: messages[0]['content']."""
    return str(path[0]) + "".join(f"[{shown(key)}]" for key in path[1:])


def fields_of(value: object) -> Mapping[Any, Any] | None:
    """What a mapping, a dataclass or a pydantic model holds by name; None of anything else."""
    if isinstance(value, Mapping):
        return value
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    dump = getattr(value, "model_dump", None)
    found = dump() if callable(dump) and not isinstance(value, type) else None
    return found if isinstance(found, Mapping) else None


def plain_messages(plain: Plain, messages: object) -> list[dict[str, Any]]:
    """Messages as templates see them: what is None is left out, and reasoning goes by the names that they read."""
    messages = getattr(messages, "messages", messages)
    if isinstance(messages, (str, bytes, Mapping)) or not isinstance(messages, Sequence) or not messages:
        raise ParameterError("messages must be a list like [{'role': 'user', 'content': 'Hello'}]")
    found = []
    for i, message in enumerate(messages):
        made = plain.copy(message, f"messages[{i}]")
        if not isinstance(made, dict) or made.get("role") is None:
            raise ParameterError(f"messages[{i}] must be a mapping with 'role' and 'content', not {shown(message)}")
        given = {name: value for name, value in made.items() if value is not None}
        reasoning = next((given[name] for name in _REASONING if name in given), None)
        if reasoning is not None:
            given = {"thinking": reasoning, **given, "reasoning_content": reasoning}
        found.append(given)
    return found


def plain_records(plain: Plain, name: str, values: object) -> list[dict[str, Any]] | None:
    """tools or documents: mappings, or None."""
    if values is None:
        return None
    if isinstance(values, (str, bytes, Mapping)) or not isinstance(values, Sequence):
        raise ParameterError(f"{name} must be a list of mappings, not {shown(values)}")
    for i, value in enumerate(values):
        if callable(value):
            raise ParameterError(f"{name}[{i}]: give the JSON schema of the function, not the function itself")
        if fields_of(value) is None:
            raise ParameterError(f"{name}[{i}] must be a mapping, not {shown(value)}")
    return [plain.copy(value, f"{name}[{i}]") for i, value in enumerate(values)]


def flag(name: str, value: object) -> bool | None:
    """An argument that is true, false, or left out."""
    if value is None:
        return None
    if isinstance(value, (bool, np.bool_)):
        return bool(value)
    raise ParameterError(f"{name} must be True or False, not {shown(value)}")


# ---- going on with the last message -------------------------------------------------------------

_MARK = "FASTLM_GOES_ON_HERE"


def field_to_continue(value: object) -> str | None:
    """The field of the last message that continue_final_message names; None: the message is whole."""
    if isinstance(value, str):
        return value
    if value is None or isinstance(value, (bool, np.bool_)):
        return "content" if value else None
    raise ParameterError(
        f"continue_final_message must be True, or the name of a field of the last message, not {shown(value)}"
    )


def mark_end(messages: list[dict[str, Any]], field: str, source: str) -> str:
    """Mark the end of the last message's text, so that `cut` finds it in what the template makes; returns the text.

    A space follows the mark: one that is gone afterwards says that the template trims.
    """
    last = messages[-1]
    where = f"continue_final_message: the last message's {field!r}"
    names = [name for name in _REASONING if last.get(name) == last.get(field)] if field in _REASONING else [field]
    value = last.get(field)
    if value is None:
        raise ParameterError(f"{where} is missing")
    if not any(name in source for name in names):
        raise ParameterError(f"{where} is not read by the chat template")
    if isinstance(value, (list, tuple)):
        at = [i for i, block in enumerate(value) if isinstance(block, dict) and isinstance(block.get("text"), str)]
        if not at:
            raise ParameterError(f"{where} holds no text to go on with")
        text = str(value[at[-1]]["text"])
        blocks = list(value)  # a copy, since other messages may share the list and the block
        blocks[at[-1]] = {**blocks[at[-1]], "text": f"{text}{_MARK} "}
        last.update(dict.fromkeys(names, type(value)(blocks)))
        return text
    if not isinstance(value, str):
        raise ParameterError(f"{where} must be text, not {shown(value)}")
    last.update(dict.fromkeys(names, f"{value}{_MARK} "))
    return value


def cut(rendered: str, text: str) -> str:
    """What a template made of marked messages, up to the mark."""
    head, mark, tail = rendered.rpartition(_MARK)
    if not mark or _MARK in head or text.strip() not in head:
        raise ParameterError("continue_final_message: the chat template changes or leaves out the last message")
    return head if tail.startswith(" ") else head.rstrip()
