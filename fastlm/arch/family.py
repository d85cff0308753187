"""A model family's answer to one config.json: the spec, and where each weight slot is found in a checkpoint.

Checkpoint names are first made canonical by `Family.renames` (which drops optional prefixes), then looked up through
`Family.weights`: slot stem -> module stem. A stem is a name without its last `.weight` or `.bias`; a slot name
without either (`decoder.0.0.q`) means the module's `.weight`. `{i}` stands for the layer, `{e}` for the expert.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from fastlm.arch.spec import ModelSpec, Pool


@dataclass(frozen=True, slots=True)
class Take:
    """The part of a module's tensor that fills a slot, and what is done to it.

    Row r of the slot is row `start + r // block * stride + r % block` of the tensor (block 0: row `start + r`), which
    has `of` rows in all (0: as many as the slot). The rows of a vector are its elements. A `transposed` tensor is
    stored [in, out]; its rows are then its columns. `add` is added in float32. A `flat` tensor is a vector that is
    stored as a matrix of one row.
    """

    module: str
    start: int = 0
    of: int = 0
    block: int = 0
    stride: int = 0
    transposed: bool = False
    add: float = 0.0
    flat: bool = False


@dataclass(frozen=True, slots=True)
class Projection:
    """A table of constants that binding computes, in float64: of another table, through a norm and a linear module.

    Column c of the slot is weight norm(row) + bias, where row is the table's c-th from its end.
    """

    table: str
    module: str
    norm: str = ""  # the module of a layer norm with weight and bias; "": there is none
    eps: float = 0.0

    @property
    def tensors(self) -> tuple[str, ...]:
        """Canonical names of all that it reads."""
        norm = (self.norm + ".weight", self.norm + ".bias") if self.norm else ()
        return (self.table + ".weight", self.module + ".weight", self.module + ".bias", *norm)


@dataclass(frozen=True, slots=True)
class Sinusoids:
    """A table of positions that binding computes (Vaswani et al. 2017): sines, then cosines.

    Row p, column i of each half: position `first` + p, times 10,000 to the power of -i / `steps`.
    """

    steps: int
    first: int = 0
    single: bool = False  # angles are rounded to float32, as in training


# A tuple: the first that the checkpoint has; further ones must hold the same values. Sinusoids: where it has none.
Rule = str | Take | Projection | Sinusoids | tuple[str | Take | Sinusoids, ...]


@dataclass(frozen=True, slots=True)
class Family:
    """What `fastlm.arch.registry.read` returns and `fastlm.weights.bind.bind` consumes."""

    name: str  # model_type
    spec: ModelSpec
    weights: Mapping[str, Rule]
    renames: tuple[tuple[str, str], ...] = ()  # regular expression -> replacement, applied in order
    ignored: tuple[str, ...] = ()  # regular expressions of canonical names (fullmatch) that may be left over
    tie_when_missing: bool = False  # an untied head that the checkpoint lacks is tied instead of an error
    unbiased_when_missing: bool = False  # logits have no bias where the checkpoint lacks it
    bare_when_missing: bool = False  # a checkpoint without any tensor of its head is the bare model
    task: str = ""  # what its head is for, unless that is writing: the method of Model (heads.py)

    def bare(self) -> Family:
        """The family without its head."""
        return replace(self, spec=replace(self.spec, head=(), pool=Pool.NONE), task="")
