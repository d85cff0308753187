"""Slots whose values are computed when they are bound: constants that a model would compute anew at each step."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from fastlm.arch.family import Projection, Sinusoids
from fastlm.arch.slots import Slot
from fastlm.errors import ModelFormatError
from fastlm.weights.tensors import Array, Checkpoint, check_tensor, to_float32


class Computed:
    """The values of a slot that `Sinusoids` give; attributes and methods are those of `bind.Source`."""

    __slots__ = ("_rule", "dtype", "file", "shape", "tensor")

    def __init__(self, slot: Slot, rule: Sinusoids, file: str) -> None:
        self.shape = (slot.rows, slot.cols)
        self.dtype, self.tensor, self.file = "float32", slot.name, file
        self._rule = rule

    def rows(self, start: int, stop: int) -> Array:
        """Rows [start, stop) as float32."""
        rule, steps = self._rule, np.arange(self.shape[1] // 2)
        kind = np.float32 if rule.single else np.float64
        frequencies = np.exp((steps.astype(kind) * kind(-math.log(10_000) / rule.steps)).astype(np.float64))
        positions = np.arange(rule.first + start, rule.first + stop)
        angles = np.outer(positions.astype(kind), frequencies.astype(kind)).astype(np.float64)
        return np.concatenate([np.sin(angles), np.cos(angles)], axis=1).astype(np.float32)

    def array64(self) -> NDArray[np.float64]:
        """All of it, as rounded for the engine."""
        return self.rows(0, self.shape[0]).astype(np.float64)


class Projected:
    """The values of a slot that a `Projection` gives; attributes and methods are those of `bind.Source`."""

    __slots__ = ("_checkpoint", "_names", "_rule", "dtype", "file", "shape", "tensor")

    def __init__(
        self, checkpoint: Checkpoint, slot: Slot, hidden: int, rule: Projection, names: Mapping[str, str]
    ) -> None:
        self.shape = (slot.rows, slot.cols)
        self.dtype = "float32"
        self.tensor = names[rule.module + ".weight"]
        self.file = checkpoint.where(self.tensor)
        self._checkpoint, self._rule, self._names = checkpoint, rule, names
        shapes: dict[str, tuple[int, ...]] = dict.fromkeys(rule.tensors, (hidden,))
        shapes |= {rule.table + ".weight": (slot.cols, hidden), rule.module + ".weight": (slot.rows, hidden)}
        for name, expected in (shapes | {rule.module + ".bias": (slot.rows,)}).items():
            check_tensor(checkpoint, names[name], expected)

    def rows(self, start: int, stop: int) -> Array:
        """Rows [start, stop) as float32."""
        weight, bias = (self._read(f"{self._rule.module}.{part}", start, stop) for part in ("weight", "bias"))
        return np.asarray(weight @ self._inputs().T + bias[:, None], np.float32)

    def array64(self) -> NDArray[np.float64]:
        """All of it, as rounded for the engine."""
        return self.rows(0, self.shape[0]).astype(np.float64)

    def _inputs(self) -> NDArray[np.float64]:
        """The table from its end, normed, (columns of the slot, hidden)."""
        rule, x = self._rule, self._read(self._rule.table + ".weight")[::-1]
        if not rule.norm:
            return x
        x = x - x.mean(axis=1, keepdims=True)
        x = x / np.sqrt(np.mean(x * x, axis=1, keepdims=True) + rule.eps)
        return np.asarray(x * self._read(rule.norm + ".weight") + self._read(rule.norm + ".bias"))

    def _read(self, name: str, start: int = 0, stop: int | None = None) -> NDArray[np.float64]:
        stored = self._names[name]
        values = to_float32(self._checkpoint.read(stored, start, stop), self._checkpoint.info(stored)[0])
        if not np.isfinite(values).all():
            raise ModelFormatError(f"{self._checkpoint.where(stored)}: {stored}: has a value that is NaN or infinite")
        return values.astype(np.float64)
