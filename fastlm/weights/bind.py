"""Binding: which checkpoint tensor fills which slot of a spec, checked by name and shape before anything is read."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from fastlm.arch.family import Family, Take
from fastlm.arch.slots import Slot, slots
from fastlm.arch.spec import ModelSpec
from fastlm.errors import ModelFormatError, UnsupportedError
from fastlm.weights.places import Place, canonical, places, projection, rows_of, sinusoids
from fastlm.weights.projection import Computed, Projected
from fastlm.weights.tensors import Array, Checkpoint, check_tensor, to_float32

BLOCK_BYTES = 1 << 24  # how much of a tensor is compared at a time
SHOWN = 5  # names in an error text
MANY = 1000  # missing tensors after which no more are looked for
HEADS = re.compile(  # of tasks, as transformers names them in all families
    r"(\w+\.)?(cls|score|(pre_|span_)?classifier|classification_head|qa_outputs|sequence_summary|multiple_choice_head"
    r"|(v|value|reward|regression)_head)\..*"
)


class Values(Protocol):
    """The values of one slot: `Source`'s attributes and methods."""

    shape: tuple[int, int]
    dtype: str
    tensor: str
    file: str

    def rows(self, start: int, stop: int) -> Array: ...
    def array64(self) -> NDArray[np.float64]: ...


class Binding(dict[str, Values]):
    """A source for every slot of `spec`, which is the family's but for a head that only the weights could decide on."""

    def __init__(self, spec: ModelSpec, sources: Mapping[str, Values]) -> None:
        super().__init__(sources)
        self.spec = spec


class Source:
    """The values of one slot, read when asked for.

    Attributes
    ----------
    shape
        (rows, cols) of the slot; a vector is (1, n).
    dtype
        "float32", "float16" or "bfloat16": of what `rows` gives.
    tensor, file
        Where the values come from, for error texts.
    """

    __slots__ = ("_checkpoint", "_take", "_vector", "_whole", "dtype", "file", "shape", "tensor")

    def __init__(self, checkpoint: Checkpoint, whole: _Whole, slot: Slot, take: Take, tensor: str) -> None:
        self.shape = (slot.rows, slot.cols)
        self.tensor = tensor
        self.file = checkpoint.where(tensor)
        self.dtype = "float32" if take.add else checkpoint.info(tensor)[0]
        self._checkpoint = checkpoint
        self._whole = whole
        self._take = take
        self._vector = slot.is_vector

    def rows(self, start: int, stop: int) -> Array:
        """Rows [start, stop), C-contiguous, as stored (bfloat16 as uint16)."""
        if not 0 <= start <= stop <= self.shape[0]:
            raise IndexError(f"rows {start} to {stop} of {self.tensor}, which has {self.shape[0]}")
        values = self._elements(0, self.shape[1]) if self._vector else self._elements(start, stop)
        if self._take.add:
            stored = self._checkpoint.info(self.tensor)[0]
            values = to_float32(values, stored) + np.float32(self._take.add)
        if self._vector:
            values = values.reshape(1, -1)[start:stop]
        return np.ascontiguousarray(values)

    def _elements(self, start: int, stop: int) -> Array:
        """Rows of the tensor that are rows [start, stop) of the slot."""
        take = self._take
        if take.flat:
            return np.asarray(self._checkpoint.read(self.tensor, 0, 1)[0, start:stop])
        if take.transposed and not self._vector:
            return np.transpose(self._whole.read(self._checkpoint, self.tensor)[:, rows_of(take, start, stop)])
        rows = rows_of(take, start, stop)
        if isinstance(rows, slice):
            return self._checkpoint.read(self.tensor, rows.start, rows.stop)
        if not len(rows):
            return self._checkpoint.read(self.tensor, 0, 0)
        first = int(rows[0])
        return np.take(self._checkpoint.read(self.tensor, first, int(rows[-1]) + 1), rows - first, axis=0)

    def array64(self) -> NDArray[np.float64]:
        """All of it in float64: what the reference computes with."""
        return to_float32(self.rows(0, self.shape[0]), self.dtype).astype(np.float64)


class _Whole:
    """The last tensor that had to be read as a whole: fused ones fill several slots in a row."""

    def __init__(self) -> None:
        self.name, self.values = "", np.empty(0)

    def read(self, checkpoint: Checkpoint, name: str) -> Array:
        if name != self.name:
            self.name, self.values = "", np.empty(0)
            self.name, self.values = name, checkpoint.read(name)
        return self.values


def bind(family: Family, checkpoint: Checkpoint) -> Binding:
    """Find every slot's tensor.

    Names, shapes and types are checked first, without reading values. Then, where a checkpoint holds a tensor twice
    (a tied head, T5's copies of its embeddings), the copies are compared: a head that differs is used instead of the
    embeddings, whatever tie_word_embeddings says (as transformers does); other copies must not differ.

    Raises
    ------
    ModelFormatError
        A tensor is missing, left over, or has another shape than the config asks for.
    UnsupportedError
        The checkpoint has a head of another task, a tensor's type is not float32, float16 or bfloat16, or copies
        differ.
    """
    search = _Search(family, checkpoint)
    if family.bare_when_missing and not search.has_a_head():
        family = family.bare()
        search = _Search(family, checkpoint)
    search.refuse_heads()
    logits = family.spec.logits
    if logits is not None and family.unbiased_when_missing and not search.has("head.bias"):
        logits = replace(logits, bias=False)
        family = replace(family, spec=family.spec.with_logits(logits))
    spec, tied = family.spec, family.spec.tied
    if logits is not None and tied and search.has_head and search.has_tokens:
        spec = spec.with_logits(replace(logits, tied=False))  # until they are compared
    elif logits is not None and not search.has_head and family.tie_when_missing:
        spec = spec.with_logits(replace(logits, tied=True))
    sources = search.sources(spec)
    if tied and "head.weight" in sources and _equal(sources["embed.tokens"], sources["head.weight"]):
        del sources["head.weight"]
        spec = family.spec
    for source, copy in search.copies:
        if not _equal(source, copy):
            raise UnsupportedError(
                f"{copy.file}: {copy.tensor} differs from {source.tensor}; separate embeddings are not supported"
            )
    return Binding(spec, sources)


class _Search:
    """One checkpoint's tensors under canonical names, and what a family's rules make of them."""

    def __init__(self, family: Family, checkpoint: Checkpoint) -> None:
        self.family = family
        self.checkpoint = checkpoint
        self.copies: list[tuple[Source, Source]] = []
        self.names: dict[str, str] = {}  # canonical -> as stored
        for stored in checkpoint.names():
            name = canonical(family, stored)
            if name in self.names:
                raise ModelFormatError(
                    f"{checkpoint.where(stored)}: {stored} and {self.names[name]} are two names of one tensor"
                )
            self.names[name] = stored

        self.has_tokens = self.has("embed.tokens")
        self.has_head = self.has("head.weight")

    def has(self, slot: str) -> bool:
        return any(c.tensor in self.names for c in places(self.family.weights, slot))

    def has_a_head(self) -> bool:
        """Whether the checkpoint has any tensor of the head that the config speaks of, or the head needs none."""
        own = [slot.name for slot in slots(self.family.spec) if slot.name.startswith("head.")]
        return not own or any(map(self.has, own))

    def refuse_heads(self) -> None:
        """A checkpoint with a head of another task: without it, the model would do something else in silence."""
        if self.family.task:
            return  # it has its head, and what is left over is found later
        heads = [stored for name, stored in self.names.items() if HEADS.fullmatch(name)]
        if not heads:
            return
        text = f"{self.checkpoint.where(heads[0])}: the head of its task is not supported: {_some(heads)}"
        if self.family.spec.kind == "encoder":
            text += "; for hidden states alone, save it by transformers' AutoModel, which leaves the head out"
        raise UnsupportedError(text)

    def sources(self, spec: ModelSpec) -> dict[str, Values]:
        """A source per slot, after all checks that need no values."""
        whole, used = _Whole(), set[str]()
        found: dict[str, Values] = {}
        missing: list[str] = []
        from_head = spec.tied and not self.has_tokens and self.has_head
        for slot in slots(spec):
            computed = projection(self.family, slot.name)
            if computed is not None:
                used.update(computed.tensors)
                missing += [t for t in computed.tensors if t not in self.names and t not in missing]
                if not missing:
                    found[slot.name] = Projected(self.checkpoint, slot, spec.hidden, computed, self.names)
                continue
            name = "head.weight" if from_head and slot.name == "embed.tokens" else slot.name
            candidates = places(self.family.weights, name)
            there = [c for c in candidates if c.tensor in self.names]
            table = sinusoids(self.family.weights, slot.name)
            if table is not None and not there:
                found[slot.name] = Computed(slot, table, self.file())
                continue
            if not there:
                missing.append(" or ".join(c.tensor for c in candidates) or slot.name)
                if len(missing) > MANY:
                    break
                continue
            made = []
            for c in there:
                self.check(slot, c)
                used.add(c.tensor)
                made.append(Source(self.checkpoint, whole, slot, c.take, self.names[c.tensor]))
            found[slot.name] = made[0]
            self.copies += [(made[0], copy) for copy in made[1:]]
        if missing:
            raise ModelFormatError(f"{self.file()}: tensors that the config asks for are missing: {_some(missing)}")
        left = [s for n, s in self.names.items() if n not in used and not self.ignorable(n)]
        if left:
            where = self.checkpoint.where(left[0])
            kind = f"{self.family.name} with this config"
            raise ModelFormatError(f"{where}: tensors that have no place in a {kind}: {_some(left)}")
        return found

    def ignorable(self, name: str) -> bool:
        return any(re.fullmatch(pattern, name) for pattern in self.family.ignored)

    def file(self) -> str:
        """The checkpoint in an error text: its first file."""
        return next((self.checkpoint.where(stored) for stored in self.names.values()), "checkpoint without tensors")

    def check(self, slot: Slot, candidate: Place) -> None:
        take, stored = candidate.take, self.names[candidate.tensor]
        n = slot.cols if slot.is_vector else slot.rows
        expected: tuple[int, ...] = (take.of or n,) if slot.is_vector else (take.of or n, slot.cols)
        if take.transposed and not slot.is_vector:
            expected = expected[::-1]
        if take.flat and slot.is_vector:
            expected = (1, *expected)
        check_tensor(self.checkpoint, stored, expected)


def _equal(a: Values, b: Values) -> bool:
    """Whether two sources hold the same bits."""
    if a.dtype != b.dtype or a.shape != b.shape:
        return False
    step = max(1, BLOCK_BYTES // (4 * a.shape[1]))
    blocks = ((i, min(i + step, a.shape[0])) for i in range(0, a.shape[0], step))
    return all(a.rows(*block).tobytes() == b.rows(*block).tobytes() for block in blocks)


def _some(names: list[str]) -> str:
    return ", ".join(names[:SHOWN]) + (f" and {len(names) - SHOWN} more" if len(names) > SHOWN else "")
