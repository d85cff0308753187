"""Typed, range-checked reading of generation parameters, given or by default."""

from __future__ import annotations

import math
import numbers
from collections.abc import Mapping
from typing import Any, Protocol

from fastlm.arguments import items, shown, token_id, whole
from fastlm.errors import ParameterError

LARGEST = 1e6  # temperature or penalty, and BIASES: the bounds of csrc/text/sampler.c
BIASES = 1e9


class CancelFlag(Protocol):
    """What `cancel` must offer: threading.Event does."""

    def is_set(self) -> bool: ...


class Reader:
    """Values by name; errors name the parameter, and the file where it is not the caller's."""

    def __init__(self, given: Mapping[str, Any], defaults: Mapping[str, Any]) -> None:
        self.values = {**defaults, **given}
        self.defaults = {name for name in defaults if name not in given}

    def label(self, name: str) -> str:
        return f"generation_config.json: {name}" if name in self.defaults else name

    def integer(self, name: str, default: int | None, low: int, high: int) -> int | None:
        value = self.values.get(name, default)
        return None if value is None else whole(value, self.label(name), low, high)

    def number(
        self, name: str, default: float, low: float = -LARGEST, high: float = LARGEST, above: bool = False
    ) -> float:
        return number(self.values.get(name, default), self.label(name), low, high, above)

    def flag(self, name: str) -> bool:
        value = self.values.get(name, False)
        if not isinstance(value, bool):
            raise ParameterError(f"{self.label(name)} must be True or False, not {shown(value)}")
        return value

    def early_stopping(self) -> bool | str:
        value: bool | str = self.values.get("early_stopping", False)
        if value != "never" and not isinstance(value, bool):
            label = self.label("early_stopping")
            raise ParameterError(f'{label} must be True, False or "never", not {shown(value)}')
        return value

    def strings(self, name: str) -> tuple[str, ...]:
        value = self.values.get(name, ())
        found = (value,) if isinstance(value, str) else value
        if not isinstance(found, (list, tuple)) or not all(isinstance(s, str) and s for s in found):
            raise ParameterError(f"{name} must be a string or a list of strings, none of them empty")
        if any(0xD800 <= ord(c) < 0xE000 for text in found for c in text):
            raise ParameterError(f"{name} holds a lone surrogate, which UTF-8 cannot say")
        return tuple(found)

    def text(self, name: str) -> str | None:
        value = self.values.get(name)
        if not isinstance(value, str | None):
            raise ParameterError(f"{name} must be a string, not {shown(value)}")
        return value

    def ids(self, name: str, vocab: int) -> list[int]:
        """Token ids; one may stand alone."""
        value = self.values.get(name, ())
        found = (value,) if isinstance(value, int) else value
        label = self.label(name)
        return [token_id(item, vocab, label) for item in items(found, label, "a list of token ids")]

    def words(self, name: str, vocab: int) -> list[list[int]]:
        """Sequences of token ids, none of them empty."""
        label = self.label(name)
        found = []
        for word in items(self.values.get(name, ()), label, "a list of lists of token ids"):
            found.append([token_id(item, vocab, label) for item in items(word, label, "a list of lists of token ids")])
            if not found[-1]:
                raise ParameterError(f"{label}: a word without tokens")
        return found

    def biases(self, vocab: int) -> dict[int, float]:
        value = self.values.get("logit_bias", {})
        if not isinstance(value, Mapping):
            raise ParameterError(f"logit_bias must map token ids to numbers, not {shown(value)}")
        return {
            token_id(key, vocab, "logit_bias"): number(bias, "logit_bias", -BIASES, BIASES)
            for key, bias in value.items()
        }

    def cancel(self) -> CancelFlag | None:
        value: CancelFlag | None = self.values.get("cancel")
        if value is not None and not callable(getattr(value, "is_set", None)):
            raise ParameterError("cancel must have a method is_set(), as threading.Event does")
        return value


def number(value: object, name: str, low: float = -LARGEST, high: float = LARGEST, above: bool = False) -> float:
    """A number from `low` (or above it) to `high`."""
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise ParameterError(f"{name} must be a number, not {shown(value)}")
    try:
        x = float(value)
    except OverflowError:
        x = math.inf
    if not low <= x <= high or (above and x == low):
        edge = "above" if above else "at least"
        raise ParameterError(f"{name} must be {edge} {low:g} and up to {high:g}, not {shown(value)}")
    return x
