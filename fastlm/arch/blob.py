"""Frozen dataclasses as little-endian 32-bit words, and back: the alphabet of a spec's blob.

- An int, a bool or a member of an enumeration is one word. A float is one word, a float32.
- A tuple is the number of its elements, then each of them.
- A record is the number of words that follow, then its fields in the order of their declaration. No words: None.
- Where a record may be of several classes (`Dense | Norm`), its place among them, from 1, comes before its fields.

A reader takes fields that are missing at the end of a record as 0, and refuses words after the last field that it
knows unless they are 0. So a class can get a further field, last, whose zero means what there was before, and files
of both ages stay readable.
"""

from __future__ import annotations

import struct
from dataclasses import fields
from functools import cache
from types import NoneType
from typing import Any, NoReturn, get_args, get_origin, get_type_hints

from fastlm.errors import ModelFormatError, UnsupportedError


class Record:
    """Base of the dataclasses. Numbers are rounded to float32, so that a blob gives back an equal record."""

    __slots__ = ()

    def __post_init__(self) -> None:
        cls: Any = type(self)
        for name, kind in _fields(cls):
            if kind is float:
                object.__setattr__(self, name, _singles([getattr(self, name)])[0])
            elif kind == tuple[float, ...]:
                object.__setattr__(self, name, _singles(getattr(self, name)))


def _singles(values: Any) -> tuple[float, ...]:
    layout = f"<{len(values)}f"
    return struct.unpack(layout, struct.pack(layout, *values))


@cache
def _fields(cls: Any) -> tuple[tuple[str, Any], ...]:
    """Names and types of a record's fields."""
    hints = get_type_hints(cls)
    return tuple((field.name, hints[field.name]) for field in fields(cls))


@cache
def _classes(kind: Any) -> tuple[type, ...]:
    """The classes that a record of this type may have."""
    return tuple(cls for cls in get_args(kind) if cls is not NoneType) or (kind,)


def _is_word(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, int)


def _word(value: int) -> bytes:
    return struct.pack("<I", value)


def encode(value: Any, kind: Any) -> bytes:
    """The words of `value`, which is of the type `kind`."""
    if kind is float:
        return struct.pack("<f", value)
    if _is_word(kind):
        return _word(value)
    if get_origin(kind) is tuple:
        element = get_args(kind)[0]
        if element is float:
            return struct.pack(f"<I{len(value)}f", len(value), *value)
        different = {id(item): item for item in value}  # the layers of most models are one object
        encoded = {place: encode(item, element) for place, item in different.items()}
        return _word(len(value)) + b"".join(encoded[id(item)] for item in value)
    if value is None:
        return _word(0)
    classes, cls = _classes(kind), value.__class__
    words = b"".join(encode(getattr(value, name), field) for name, field in _fields(cls))
    if len(classes) > 1:
        words = _word(1 + classes.index(cls)) + words
    return _word(len(words) // 4) + words


def decode(data: bytes, kind: Any) -> Any:
    """What `encode` made `data` of.

    Raises
    ------
    ModelFormatError
        It is no such record. No more is made of it than `data` has words for.
    UnsupportedError
        It has fields, classes or members that a later version added.
    """
    if len(data) % 4:
        raise ModelFormatError("has an odd size")
    reader = _Reader(struct.unpack(f"<{len(data) // 4}I", data))
    found = reader.take(kind)
    if reader.at != reader.end:
        reader.bad(kind, "is followed by more words")
    return found


class _Reader:
    """Walks over the words; `end` is that of the record that is being read."""

    def __init__(self, words: tuple[int, ...]) -> None:
        self.words = words
        self.at, self.end = 0, len(words)
        self.seen: dict[tuple[Any, tuple[int, ...]], Any] = {}  # records by their words: most layers are alike

    def bad(self, kind: Any, why: str) -> NoReturn:
        raise ModelFormatError(f"{getattr(kind, '__name__', kind)} {why}")

    def newer(self, kind: Any, what: str) -> NoReturn:
        raise UnsupportedError(f"{kind.__name__} has {what} that this fastlm does not know: update it")

    def word(self) -> int:
        if self.at == self.end:
            return 0
        self.at += 1
        return self.words[self.at - 1]

    def take(self, kind: Any) -> Any:
        if kind is float:
            return self.floats(1)[0]
        if _is_word(kind):
            return self.number(kind)
        if get_origin(kind) is not tuple:
            return self.record(kind)
        element, n = get_args(kind)[0], self.word()
        if n > self.end - self.at:
            self.bad(kind, "has more elements than words")
        return self.floats(n) if element is float else tuple(self.take(element) for _ in range(n))

    def floats(self, n: int) -> tuple[float, ...]:
        return struct.unpack(f"<{n}f", struct.pack(f"<{n}I", *(self.word() for _ in range(n))))

    def number(self, kind: type[int]) -> int:
        value = self.word()
        if kind is bool and value > 1:
            self.bad(kind, f"cannot be {value}")
        try:
            return kind(value)
        except ValueError:  # of an enumeration
            self.newer(kind, f"a member {value}")

    def record(self, kind: Any) -> Any:
        n, end = self.word(), self.end
        if n > end - self.at:
            self.bad(kind, "is longer than what it is a part of")
        if n == 0:
            if NoneType not in get_args(kind):
                self.bad(kind, "is missing")
            return None
        key = kind, self.words[self.at : self.at + n]
        if key in self.seen:
            self.at += n
            return self.seen[key]
        self.end = self.at + n
        classes = _classes(kind)
        number = self.word() if len(classes) > 1 else 1
        if not 1 <= number <= len(classes):
            self.newer(classes[0], f"an alternative {number}")
        cls = classes[number - 1]
        found = cls(*(self.take(field) for _, field in _fields(cls)))
        if any(self.words[self.at : self.end]):
            self.newer(cls, "a field")
        self.at, self.end = self.end, end
        self.seen[key] = found
        return found
