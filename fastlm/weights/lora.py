"""What an adapter changes of a model: the family's rules used backwards, from modules to slots."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from fastlm.arch.family import Family, Projection, Take
from fastlm.arch.slots import Slot, slots
from fastlm.arch.spec import ModelSpec
from fastlm.errors import ModelFormatError, UnsupportedError
from fastlm.weights.adapter import AdapterFolder, Module
from fastlm.weights.places import canonical, places, rows_of

Array = NDArray[np.float32]
TOKENS, HEAD = "embed.tokens", "head.weight"
BLOCK_VALUES = 1 << 22  # of a matrix that is looked at
SAME = 0.1  # of a table's size: a copy differs from a quantised table by less, another model's table by more


class Change(NamedTuple):
    """y = gain * (W x + scale * b (a x) + bias of W) + bias, where gain does not act on the bias of W.

    Attributes
    ----------
    site
        W's slot; "head.weight" also of a head that is tied to the embedding.
    whole
        What takes W's place, or that of a norm's vector, (1, n), whose slot is the site; then rank is 0.
    """

    site: str
    rank: int = 0
    scale: float = 1.0
    a: Array | None = None  # (rank, columns); of the embedding (rank, tokens)
    b: Array | None = None  # (rows, rank); of the embedding (columns, rank)
    whole: Array | None = None
    gain: Array | None = None
    bias: Array | None = None


class Base(Protocol):
    """The model's own weights."""

    def rows(self, slot: str, start: int, stop: int) -> Array:
        """Rows of a slot, or of a tied head, as float32."""
        ...


@dataclass(frozen=True, slots=True)
class _Use:
    """A slot that a tensor of a module fills."""

    slot: Slot
    take: Take

    @property
    def outputs(self) -> int:
        """Rows of the whole tensor."""
        return self.take.of or (self.slot.cols if self.slot.is_vector else self.slot.rows)

    def part(self, values: Array) -> Array:
        """Of values for each output of the module, those of this slot."""
        n = self.slot.cols if self.slot.is_vector else self.slot.rows
        return np.ascontiguousarray(values[rows_of(self.take, 0, n)])


class _Uses:
    """Canonical names of tensors -> the slots that they fill."""

    def __init__(self, family: Family, spec: ModelSpec) -> None:
        self.family = family
        self.found: dict[str, list[_Use]] = {}
        for slot in slots(spec):
            self._add(slot)
            if slot.name == TOKENS and spec.tied:
                self._add(replace(slot, name=HEAD))
        self.matrices = {use.slot.name for uses in self.found.values() for use in uses if use.slot.is_matrix}
        self.tied = spec.tied
        self.computed = {rule.module for rule in family.weights.values() if isinstance(rule, Projection)}

    def _add(self, slot: Slot) -> None:
        for place in places(self.family.weights, slot.name):
            uses = self.found.setdefault(place.tensor, [])
            if slot.name not in {use.slot.name for use in uses}:
                uses.append(_Use(slot, place.take))

    def ignores(self, module: str) -> bool:
        """Whether it is one of those that nothing here is computed with, such as a pooler without a head."""
        name = canonical(self.family, module + ".weight")
        return name not in self.found and any(re.fullmatch(pattern, name) for pattern in self.family.ignored)

    def of(self, module: str, suffix: str = "weight") -> list[_Use]:
        return self.found.get(canonical(self.family, f"{module}.{suffix}"), [])


def changes(adapter: AdapterFolder, family: Family, spec: ModelSpec, base: Base, scale: float = 1.0) -> list[Change]:
    """All changes of a model by an adapter.

    Parameters
    ----------
    scale
        By which the adapter's own scales are multiplied.

    Raises
    ------
    ModelFormatError
        It is an adapter of another model: a module or a shape does not fit.
    UnsupportedError
        It changes something that this version cannot change for single requests.
    """
    found: dict[str, Change] = {}
    binder = _Binder(adapter, _Uses(family, spec), base, scale)
    for module in adapter.modules:
        for change in binder.of_module(module):
            known = found.get(change.site)
            found[change.site] = change if known is None else _joined(known, change, adapter.where)
    if not found:
        raise ModelFormatError(f"{adapter.where}: changes nothing of this model")
    return list(found.values())


def _joined(one: Change, other: Change, where: str) -> Change:
    """Two changes of one site, which are of different kinds: a product and a bias."""
    merged = one._asdict()
    for name, value in other._asdict().items():
        if name in ("a", "b", "whole", "gain", "bias") and value is not None:
            if merged[name] is not None:
                raise UnsupportedError(f"{where}: {one.site} is changed twice")
            merged[name] = value
    if other.rank:
        merged |= {"rank": other.rank, "scale": other.scale}
    if merged["rank"] and merged["whole"] is not None:
        raise UnsupportedError(f"{where}: {one.site} is changed and replaced")
    return Change(**merged)


class _Binder:
    def __init__(self, adapter: AdapterFolder, uses: _Uses, base: Base, scale: float) -> None:
        self.adapter, self.uses, self.base, self.scale = adapter, uses, base, scale

    def of_module(self, module: Module) -> Iterator[Change]:
        parts = module.parts
        if self.uses.ignores(module.name):
            return
        if not self.uses.of(module.name) and not ("bias" in parts and self.uses.of(module.name, "bias")):
            raise ModelFormatError(f"{self._where(module)}: this model has no such module: it is of another one")
        if "a" in parts:
            yield from self._low_rank(module)
        if "embedding_a" in parts:
            yield from self._embedding(module)
        if "tokens" in parts:
            yield from self._tokens(module)
        if "weight" in parts:
            yield from self._whole(module)
        if "bias" in parts:
            yield from self._bias(module)
        if "base" in parts:
            self._check_base(module)

    def _where(self, module: Module) -> str:
        return f"{self.adapter.where}: {module.name[:200]}"

    def _refused(self, module: Module, what: str) -> UnsupportedError:
        return UnsupportedError(f"{self._where(module)}: {what}: this version cannot change that for single requests")

    def _check(self, module: Module, part: str, expected: tuple[int, ...]) -> Array:
        values = module.parts[part]
        if values.shape != expected:
            raise ModelFormatError(
                f"{self._where(module)}: {part.replace('_', ' ')} has the shape {list(values.shape)}, but this model "
                f"needs {list(expected)}: the adapter is of another one"
            )
        return values

    def _matrices(self, module: Module) -> list[_Use]:
        """The slots of a module that is a product."""
        if canonical(self.uses.family, module.name + ".weight").removesuffix(".weight") in self.uses.computed:
            raise self._refused(module, "what is computed from this module when the model is loaded")
        found = [use for use in self.uses.of(module.name) if use.slot.name != TOKENS]
        for use in found:
            if not use.slot.is_matrix or any(part in use.slot.name for part in (".embed.positions", ".embed.types")):
                raise self._refused(module, use.slot.name)
            if ".experts." in use.slot.name or use.slot.name.endswith(".router"):
                raise self._refused(module, "experts")
        return found

    def _rank(self, module: Module, values: Array) -> int:
        rank, told = len(values), self.adapter.options.rank_of(module.name)
        if rank != told:
            raise ModelFormatError(f"{self._where(module)}: has rank {rank}, but adapter_config.json says {told}")
        return rank

    def _scale(self, module: Module) -> float:
        return self.scale * self.adapter.options.scale_of(module.name)

    def _low_rank(self, module: Module) -> Iterator[Change]:
        uses, parts, scale = self._matrices(module), module.parts, self._scale(module)
        if not uses:
            raise self._refused(module, "a product with the embedding's table")
        rank = self._rank(module, parts["a"])
        a = self._check(module, "a", (rank, uses[0].slot.cols))
        b = self._check(module, "b", (uses[0].outputs, rank))
        magnitude = self._check(module, "magnitude", (uses[0].outputs,)) if "magnitude" in parts else None
        if self.adapter.options.dora != (magnitude is not None):
            raise ModelFormatError(f"{self._where(module)}: lora_magnitude_vector and use_dora contradict each other")
        bias = self._check(module, "b_bias", (uses[0].outputs,)) if "b_bias" in parts else None
        for use in uses:
            own = use.part(b)
            gain = None if magnitude is None else self._gain(use, use.part(magnitude), a, own, scale)
            added = None if bias is None else np.float32(scale) * use.part(bias)
            yield Change(use.slot.name, rank, scale, a, own, gain=gain, bias=added)

    def _gain(self, use: _Use, magnitude: Array, a: Array, b: Array, scale: float) -> Array:
        """DoRA: a row of W + scale B A gets the length that the magnitude says (Liu et al. 2024)."""
        lengths, step = [], max(1, BLOCK_VALUES // use.slot.cols)
        for at in range(0, use.slot.rows, step):
            end = min(at + step, use.slot.rows)
            rows = self.base.rows(use.slot.name, at, end) + np.float32(scale) * (b[at:end] @ a)
            lengths.append(np.linalg.norm(rows, axis=1))
        return np.asarray(magnitude / np.concatenate(lengths), np.float32)

    def _embedding(self, module: Module) -> Iterator[Change]:
        if "magnitude" in module.parts:
            raise self._refused(module, "DoRA of an embedding")
        uses = [use for use in self.uses.of(module.name) if use.slot.name == TOKENS]
        if not uses:
            raise self._refused(module, "a table that is not the tokens' embedding")
        slot, rank = uses[0].slot, self._rank(module, module.parts["embedding_a"])
        a = self._check(module, "embedding_a", (rank, slot.rows))
        b = self._check(module, "embedding_b", (slot.cols, rank))
        yield Change(TOKENS, rank, self._scale(module), a, b)

    def _tokens(self, module: Module) -> Iterator[Change]:
        """Rows of some tokens, as a product of as low a rank: 1 at the token times what is new."""
        ids = np.array(self.adapter.options.tokens, np.int64)
        slot = next((use.slot for use in self.uses.of(module.name) if use.slot.name == TOKENS), None)
        if slot is None or not len(ids):
            raise self._refused(module, "tokens that are no rows of the embedding")
        rows = self._check(module, "tokens", (len(ids), slot.cols))
        if ids.max() >= slot.rows or len(np.unique(ids)) < len(ids):
            raise ModelFormatError(f"{self._where(module)}: trainable_token_indices are not {len(ids)} of {slot.rows}")
        old = np.concatenate([self.base.rows(TOKENS, int(i), int(i) + 1) for i in ids])
        ones = np.zeros((len(ids), slot.rows), np.float32)
        ones[np.arange(len(ids)), ids] = 1
        new = np.ascontiguousarray(rows - old)
        yield Change(TOKENS, len(ids), 1.0, ones, np.ascontiguousarray(new.T))
        if self.uses.tied:
            yield Change(HEAD, len(ids), 1.0, new, np.ascontiguousarray(ones.T))

    def _whole(self, module: Module) -> Iterator[Change]:
        """A module that was trained as a whole (modules_to_save)."""
        for use in self.uses.of(module.name):
            slot = use.slot
            expected: tuple[int, ...] = (use.outputs,) if slot.is_vector else (use.outputs, slot.cols)
            values = self._check(module, "weight", expected[::-1] if use.take.transposed else expected)
            if not slot.is_matrix:
                if not slot.is_vector:
                    raise self._refused(module, slot.name)
                yield Change(slot.name, whole=(use.part(values) + np.float32(use.take.add))[None])
                continue
            if slot.name != TOKENS:
                self._matrices(module)
            yield Change(slot.name, whole=use.part(values.T if use.take.transposed else values))

    def _bias(self, module: Module) -> Iterator[Change]:
        for use in self.uses.of(module.name, "bias"):
            values = use.part(self._check(module, "bias", (use.outputs,))) + np.float32(use.take.add)
            site = use.slot.name.removesuffix(".bias")
            site = HEAD if site == "head" else site
            if site in self.uses.matrices:
                yield Change(site, bias=values - self.base.rows(use.slot.name, 0, 1)[0])
            else:  # of a norm
                yield Change(use.slot.name, whole=values[None])

    def _check_base(self, module: Module) -> None:
        """A copy of the model's own table, which PEFT saves beside a trained embedding."""
        for use in self.uses.of(module.name):
            slot = use.slot
            values = self._check(module, "base", (use.outputs, slot.cols))
            for at in range(0, slot.rows, step := max(1, BLOCK_VALUES // slot.cols)):
                own = self.base.rows(slot.name, at, min(at + step, slot.rows))
                given = use.part(values)[at : at + step]
                if np.linalg.norm(own - given) > SAME * np.linalg.norm(own):
                    raise ModelFormatError(f"{self._where(module)}: is another table than this model's")
