"""JSON of up to a million entries (tokenizer.json, vocab.json), parsed in pieces so that other threads run in between.

Python's parser is one call that keeps the interpreter's lock. Here it gets a piece at a time: the objects and arrays
around are walked in Python, and a run of plain entries (names with numbers, strings, pairs, flat objects), found by a
regular expression, goes to it in one call of some 2,000 entries, under a millisecond.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

from fastlm.errors import ModelFormatError

MAX_DEPTH = 64
MAX_LOOSE = 100_000  # values that are no part of a run: real files have some hundred

_SPACE = r"[ \t\n\r]*"
_STRING = r'"[^"\\\x00-\x1f]*(?:\\.[^"\\\x00-\x1f]*)*"'
_NUMBER = r"-?[0-9][0-9.eE+-]*"
_SCALAR = rf"(?:{_STRING}|{_NUMBER}|true|false|null)"
_MEMBER = rf"{_STRING}{_SPACE}:{_SPACE}{_SCALAR}"
_PAIR = rf"\[{_SPACE}{_STRING}{_SPACE},{_SPACE}{_SCALAR}{_SPACE}\]"
_FLAT = rf"\{{{_SPACE}(?:{_MEMBER}{_SPACE}(?:,{_SPACE})?)*\}}"
_MEMBERS = re.compile(rf"(?:{_SPACE}{_MEMBER}{_SPACE},){{1,2000}}")
_ELEMENTS = re.compile(rf"(?:{_SPACE}(?:{_SCALAR}|{_PAIR}|{_FLAT}){_SPACE},){{1,2000}}")
_BLANK = re.compile(_SPACE)
_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")


def parse_large(data: bytes, where: str) -> dict[str, Any]:
    """The JSON object that `data` holds; of a name that occurs twice, the last one counts.

    Parameters
    ----------
    data
        UTF-8 text.
    where
        The file that it comes from, for error texts.

    Raises
    ------
    ModelFormatError
        Not UTF-8, not JSON, not an object, nesting deeper than 64, more than 100,000 values that are no plain entries of
        a large object or array, or half of a surrogate pair in a string.
    """
    try:
        text = data.decode("utf-8")
        value = _Reader(text).document()
    except UnicodeDecodeError as error:
        raise ModelFormatError(f"{where}: not UTF-8 text (byte {error.start})") from None
    except UnicodeEncodeError:
        raise ModelFormatError(f"{where}: a string holds half of a surrogate pair") from None
    except ValueError as error:
        raise ModelFormatError(f"{where}: not JSON: {error}") from None
    if not isinstance(value, dict):
        raise ModelFormatError(f"{where}: expected a JSON object, found {type(value).__name__}")
    return value


def _refuse(name: str) -> None:
    raise ValueError(f"{name} is no JSON number")


class _Reader:
    def __init__(self, text: str) -> None:
        self._text = text
        self._parser = json.JSONDecoder(parse_constant=_refuse)
        self._has_surrogates = _SURROGATE.search(text) is not None
        self._loose = 0

    def document(self) -> Any:
        value, at = self._value(self._skip(0), 0)
        if self._skip(at) != len(self._text):
            raise ValueError(f"more follows the value that ends at character {at}")
        return value

    def _skip(self, at: int) -> int:
        found = _BLANK.match(self._text, at)
        return found.end() if found else at

    def _value(self, at: int, depth: int) -> tuple[Any, int]:
        self._loose += 1
        if depth > MAX_DEPTH:
            raise ValueError("nested too deeply")
        if self._loose > MAX_LOOSE:
            raise ValueError("too many parts for a file of this kind")
        first = self._text[at : at + 1]
        if first == "{":
            members: dict[str, Any] = {}
            return members, self._container(at + 1, "}", _MEMBERS, members.update, lambda a: self._member(members, a, depth))
        if first == "[":
            elements: list[Any] = []
            return elements, self._container(at + 1, "]", _ELEMENTS, elements.extend, lambda a: self._element(elements, a, depth))
        return self._parsed(*self._parser.raw_decode(self._text, at))

    def _parsed(self, value: Any, end: int) -> tuple[Any, int]:
        if self._has_surrogates:
            json.dumps(value, ensure_ascii=False).encode("utf-8")
        return value, end

    def _container(
        self, at: int, close: str, run: re.Pattern[str], take: Callable[[Any], object], one: Callable[[int], int]
    ) -> int:
        """Read to the closing bracket, runs by `take` and other entries by `one`; returns the place after it."""
        at = self._skip(at)
        if self._text[at : at + 1] == close:
            return at + 1
        while True:
            while found := run.match(self._text, at):
                piece = self._text[at : found.end() - 1]
                take(self._parsed(self._parser.decode(piece.join("{}" if close == "}" else "[]")), 0)[0])
                at = found.end()
            at = self._skip(one(self._skip(at)))
            mark = self._text[at : at + 1]
            at += 1
            if mark == close:
                return at
            if mark != ",":
                raise ValueError(f"expected ',' or '{close}' at character {at - 1}")

    def _member(self, members: dict[str, Any], at: int, depth: int) -> int:
        if self._text[at : at + 1] != '"':
            raise ValueError(f"expected a name in double quotes at character {at}")
        name, at = self._parsed(*self._parser.raw_decode(self._text, at))
        at = self._skip(at)
        if self._text[at : at + 1] != ":":
            raise ValueError(f"expected ':' at character {at}")
        members[name], at = self._value(self._skip(at + 1), depth + 1)
        return at

    def _element(self, elements: list[Any], at: int, depth: int) -> int:
        value, at = self._value(at, depth + 1)
        elements.append(value)
        return at
