"""A checkpoint with an adapter added in: the matrices as PEFT merges them, in float32."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from fastlm.errors import UnsupportedError
from fastlm.weights.bind import Binding, Values
from fastlm.weights.lora import HEAD, TOKENS, Change
from fastlm.weights.tensors import Array, to_float32


class Stored:
    """The weights of a checkpoint, for `fastlm.weights.lora.changes`."""

    def __init__(self, weights: Binding) -> None:
        self._weights = weights

    def rows(self, slot: str, start: int, stop: int) -> NDArray[np.float32]:
        source = self._weights[TOKENS if slot == HEAD and HEAD not in self._weights else slot]
        return to_float32(source.rows(start, stop), source.dtype)


class Merged:
    """The values of a slot after a change; see `bind.Values`.

    `dtype` stays that of the checkpoint, for the choice of a format; rows are float32.
    """

    __slots__ = ("_change", "_source", "dtype", "file", "shape", "tensor")

    def __init__(self, source: Values, change: Change) -> None:
        self.shape, self.dtype, self.tensor, self.file = source.shape, source.dtype, source.tensor, source.file
        self._source, self._change = source, change

    def rows(self, start: int, stop: int) -> Array:
        """Rows [start, stop) as float32."""
        change, rows = self._change, self._source.rows(start, stop)
        w = rows if rows.dtype == np.float32 else to_float32(rows, self.dtype)
        if change.whole is not None:
            w = change.whole[start:stop]
        if change.a is not None and change.b is not None:
            looked_up = change.site == TOKENS
            delta = change.a[:, start:stop].T @ change.b.T if looked_up else change.b[start:stop] @ change.a
            w = w + delta * np.float32(change.scale)
        if change.gain is not None:
            w = w * change.gain[start:stop, None]
        return np.ascontiguousarray(w, np.float32)

    def array64(self) -> NDArray[np.float64]:
        """All of it in float64."""
        return self.rows(0, self.shape[0]).astype(np.float64)


class _Added(Merged):
    """A vector with another one added."""

    __slots__ = ()

    def rows(self, start: int, stop: int) -> Array:
        rows, bias = self._source.rows(start, stop), self._change.bias
        assert bias is not None
        w = rows if rows.dtype == np.float32 else to_float32(rows, self.dtype)
        return np.ascontiguousarray(w + bias, np.float32)


def merge(weights: Binding, changes: Iterable[Change]) -> Binding:
    """The checkpoint after all changes.

    A head that is tied to an embedding becomes a table of its own, where only one of the two changes.

    Raises
    ------
    UnsupportedError
        A bias is added where the model has none.
    """
    spec, found = weights.spec, dict[str, Values](weights)
    changes = list(changes)
    if spec.tied and spec.logits is not None and {TOKENS, HEAD} & {change.site for change in changes}:
        spec = spec.with_logits(replace(spec.logits, tied=False))
        found[HEAD] = found[TOKENS]
    for change in changes:
        found[change.site] = Merged(found[change.site], change)
        if change.bias is None:
            continue
        bias = ("head" if change.site == HEAD else change.site) + ".bias"
        if bias not in found:
            raise UnsupportedError(f"{change.site}: the adapter adds a bias, and the model has none there to add it to")
        found[bias] = _Added(found[bias], change)
    return Binding(spec, found)
