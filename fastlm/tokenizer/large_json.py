"""JSON of up to a million entries (tokenizer.json, vocab.json), parsed in pieces so that other threads run in between.

Python's parser is one call that keeps the interpreter's lock. Here it gets a piece at a time, of about a millisecond:
the objects and arrays around are walked in Python, and a run of entries of a large one goes to the parser in one call.
Where each entry begins a line, after the same spaces, a run ends between two lines: strings hold no line ends. Else a
regular expression finds runs of plain entries (names with numbers, strings, pairs, flat objects).
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from functools import partial
from typing import Any

from fastlm.errors import ModelFormatError

MAX_DEPTH = 64
MAX_LOOSE = 100_000  # values that are no part of a run: real files have some hundred
FRUITLESS = 8  # values that a look for runs costs which finds none
RUN = 1 << 15  # bytes
ENTRY = 1 << 9  # bytes of an entry that is read in runs of lines

_SPACE = rb"[ \t\n\r]*"
_STRING = rb'"[^"\\\x00-\x1f]*(?:\\.[^"\\\x00-\x1f]*)*"'
_SCALAR = rb"(?:%b|-?[0-9][0-9.eE+-]*|true|false|null)" % _STRING
_MEMBER = rb"%b%b:%b%b" % (_STRING, _SPACE, _SPACE, _SCALAR)
_PAIR = rb"\[%b%b%b,%b%b%b\]" % (_SPACE, _STRING, _SPACE, _SPACE, _SCALAR, _SPACE)
_FLAT = rb"\{%b(?:%b%b(?:,%b)?)*\}" % (_SPACE, _MEMBER, _SPACE, _SPACE)
_MEMBERS = re.compile(rb"(?:%b%b%b,){1,2000}" % (_SPACE, _MEMBER, _SPACE))
_ELEMENTS = re.compile(rb"(?:%b(?:%b|%b|%b)%b,){1,2000}" % (_SPACE, _SCALAR, _PAIR, _FLAT, _SPACE))
_BLANK = re.compile(_SPACE)
_ONE = re.compile(_SCALAR)
_LINE = re.compile(rb"\n[ \t]*")
_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")


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
        Not UTF-8, not JSON, not an object, nesting deeper than 64, more than 100,000 values that are no plain entries
        of a large object or array, or half of a surrogate pair in a string.
    """
    try:
        value = _Reader(data).document()
    except UnicodeDecodeError:
        raise ModelFormatError(f"{where}: not UTF-8 text") from None
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
    def __init__(self, data: bytes) -> None:
        self._data = data
        self._parser = json.JSONDecoder(parse_constant=_refuse)
        self._loose = 0

    def document(self) -> Any:
        value, at = self._value(self._skip(0), 0)
        if self._skip(at) != len(self._data):
            raise ValueError(f"more follows the value that ends at byte {at}")
        return value

    def _skip(self, at: int) -> int:
        found = _BLANK.match(self._data, at)
        return found.end() if found else at

    def _value(self, at: int, depth: int) -> tuple[Any, int]:
        self._loose += 1
        if depth > MAX_DEPTH:
            raise ValueError("nested too deeply")
        if self._loose > MAX_LOOSE:
            raise ValueError("too many parts for a file of this kind")
        first = self._data[at : at + 1]
        if first == b"{":
            members: dict[str, Any] = {}
            take_one = partial(self._member, members, depth)
            return members, self._container(at + 1, b"{}", _MEMBERS, members.update, take_one)
        if first == b"[":
            elements: list[Any] = []
            take_one = partial(self._element, elements, depth)
            return elements, self._container(at + 1, b"[]", _ELEMENTS, elements.extend, take_one)
        return self._scalar(at)

    def _scalar(self, at: int) -> tuple[Any, int]:
        found = _ONE.match(self._data, at)
        if not found:
            raise ValueError(f"no value begins at byte {at}")
        return self._parsed(found[0]), found.end()

    def _parsed(self, piece: bytes) -> Any:
        value = self._parser.decode(piece.decode("utf-8"))
        if b"\\" in piece and _SURROGATE.search(piece):
            json.dumps(value, ensure_ascii=False).encode("utf-8")
        return value

    def _container(
        self, at: int, brackets: bytes, run: re.Pattern[bytes], take: Callable[[Any], object], one: Callable[[int], int]
    ) -> int:
        """Read to the closing bracket, runs by `take` and other entries by `one`; returns the place after it."""
        at = self._skip(at)
        close = brackets[1:]
        if self._data[at : at + 1] == close:
            return at + 1
        at = self._lines(at, brackets, take)
        while True:
            while found := run.match(self._data, at):
                take(self._parsed(self._data[at : found.end() - 1].join([brackets[:1], close])))
                at = found.end()
            at = self._skip(one(self._skip(at)))
            mark = self._data[at : at + 1]
            at += 1
            if mark == close:
                return at
            if mark != b",":
                raise ValueError(f"expected ',' or '{close.decode()}' at byte {at - 1}")

    def _lines(self, first: int, brackets: bytes, take: Callable[[Any], object]) -> int:
        """Read runs of entries that begin lines, the first of them at `first`; returns the place after the last run."""
        line = _LINE.match(self._data, max(self._data.rfind(b"\n", max(first - 200, 0), first), 0))
        if not line or line.end() != first:
            return first
        between = b"," + line[0] + self._data[first : first + 1]
        at = first
        several = self._data.find(between, at + 1, at + ENTRY) >= 0  # else there is no run to look for in what follows
        while several and (end := self._data.rfind(between, at + 1, at + RUN)) >= 0:
            try:
                found = self._parsed(self._data[at:end].join([brackets[:1], brackets[1:]]))
            except json.JSONDecodeError:  # the end is within an entry
                break
            take(found)
            at = end + 1
        if at == first:
            self._loose += FRUITLESS
        return at

    def _member(self, members: dict[str, Any], depth: int, at: int) -> int:
        name, at = self._scalar(at)
        at = self._skip(at)
        if not isinstance(name, str) or self._data[at : at + 1] != b":":
            raise ValueError(f"expected a name and ':' before byte {at}")
        members[name], at = self._value(self._skip(at + 1), depth + 1)
        return at

    def _element(self, elements: list[Any], depth: int, at: int) -> int:
        value, at = self._value(at, depth + 1)
        elements.append(value)
        return at
