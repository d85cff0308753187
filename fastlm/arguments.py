"""Arguments of public calls: the checks that several of them share, and short texts of values for their errors."""

from __future__ import annotations

import operator
import reprlib
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from fastlm.errors import ParameterError

UNBOUNDED = 2**31 - 1  # upper limits from here on are those of integers, of which no error need tell


def shown(value: object) -> str:
    """A short text of any value."""
    try:
        return reprlib.repr(value)
    except ValueError:  # an integer with more digits than Python prints
        return "a number too long to print"


def has_surrogate(text: str) -> bool:
    """Whether a text holds half of a code point, which UTF-8 cannot say."""
    if not text.isascii():
        try:
            text.encode("utf-8")
        except UnicodeEncodeError:
            return True
    return False


def whole(value: object, name: str, low: int, high: int) -> int:
    """An integer from `low` to `high`; NumPy's integers are integers, bools and floats are not."""
    number = _index(value)
    if number is None:
        raise ParameterError(f"{name} must be an integer, not {shown(value)}")
    if number < low and high >= UNBOUNDED:
        raise ParameterError(f"{name} must be at least {low}, not {shown(value)}")
    if not low <= number <= high:
        raise ParameterError(f"{name} must be from {low} to {high}, not {shown(value)}")
    return number


def counting(progress: object) -> None:
    """Refuse what cannot be called with how many are done and of how many."""
    if progress is not None and not callable(progress):
        raise ParameterError(f"progress must be a function of how many are done and of how many, not {shown(progress)}")


def token_id(value: object, vocab: int, name: str) -> int:
    """A token id as int; `name` is the argument's, in error texts."""
    token = _index(value)
    if token is None:
        raise ParameterError(f"{name}: {shown(value)} is not a token id")
    if not 0 <= token < vocab:
        raise ParameterError(f"{name}: token id {shown(token)} is outside of the vocabulary of {vocab}")
    return token


def items(values: object, name: str, what: str) -> Iterable[Any]:
    """What a list, tuple, array or iterator holds; text, bytes and mappings are no lists of anything."""
    if isinstance(values, (list, tuple)):
        return values
    if not isinstance(values, (str, bytes, bytearray, Mapping)) and isinstance(values, Iterable):
        try:
            return iter(values)
        except TypeError:  # an array without dimensions
            pass
    raise ParameterError(f"{name}: expected {what}, not {shown(values)}")


def _index(value: object) -> int | None:
    if isinstance(value, (bool, np.bool_)):
        return None
    try:
        return operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        return None
