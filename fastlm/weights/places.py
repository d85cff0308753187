"""Where a family's rules say that a slot is found, and the rows of a tensor that fill it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from fastlm.arch.family import Family, Projection, Rule, Sinusoids, Take


@dataclass(frozen=True, slots=True)
class Place:
    """A tensor that may fill a slot, and what of it does."""

    take: Take
    tensor: str  # canonical name


def places(weights: Mapping[str, Rule], slot: str) -> list[Place]:
    """The tensors that may fill a slot, the preferred one first; none of a slot that is computed."""
    stem, _, suffix = slot.rpartition(".")
    if suffix not in ("weight", "bias"):
        stem, suffix = slot, "weight"
    pattern, layer, expert = _generic(stem)
    takes = [_take(rule) for rule in _rules(weights, pattern) if isinstance(rule, str | Take)]
    return [Place(t, t.module.format(i=layer, e=expert) + "." + suffix) for t in takes]


def sinusoids(weights: Mapping[str, Rule], slot: str) -> Sinusoids | None:
    """What makes a table of positions that is not stored."""
    return next((rule for rule in _rules(weights, slot) if isinstance(rule, Sinusoids)), None)


def _rules(weights: Mapping[str, Rule], pattern: str) -> tuple[object, ...]:
    rule = weights.get(pattern, ())
    return rule if isinstance(rule, tuple) else (rule,)


def canonical(family: Family, stored: str) -> str:
    """What the family's rules call a tensor of a checkpoint."""
    for pattern, replacement in family.renames:
        stored = re.sub(pattern, replacement, stored)
    return stored


def projection(family: Family, slot: str) -> Projection | None:
    """What computes a slot, if it is not stored."""
    pattern, layer, _ = _generic(slot)
    rule = family.weights.get(pattern)
    return replace(rule, module=rule.module.format(i=layer)) if isinstance(rule, Projection) else None


def rows_of(take: Take, start: int, stop: int) -> slice | NDArray[np.intp]:
    """Where in the tensor (if it is transposed: in its columns) rows [start, stop) of the slot are."""
    if not take.block:
        return slice(take.start + start, take.start + stop)
    rows = np.arange(start, stop)
    return np.asarray(take.start + rows // take.block * take.stride + rows % take.block)


def _generic(stem: str) -> tuple[str, str, str]:
    """`decoder.3.1.experts.5.gate` -> `decoder.{i}.1.experts.{e}.gate`, "3", "5"."""
    parts = stem.split(".")
    layer = expert = ""
    if len(parts) > 2 and parts[1].isdigit():
        layer, parts[1] = parts[1], "{i}"
        if len(parts) > 4 and parts[3] == "experts":
            expert, parts[4] = parts[4], "{e}"
    return ".".join(parts), layer, expert


def _take(rule: str | Take) -> Take:
    return rule if isinstance(rule, Take) else Take(rule)
