"""What a run is told: options with their defaults and help, each said once for Python and for the shell."""

from __future__ import annotations

import argparse
from dataclasses import asdict, dataclass, field, fields
from typing import Any, TypeVar

from fastlm.errors import ParameterError

T = TypeVar("T")


def option(default: Any, help: str, *, kind: type = str, choices: tuple[str, ...] | None = None) -> Any:
    """A dataclass field that is also an option of the command line."""
    return field(default=default, metadata={"help": help, "kind": kind, "choices": choices})


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """How to train."""

    epochs: float = option(10.0, "how often each document is seen", kind=float)
    steps: int | None = option(None, "number of steps, instead of --epochs", kind=int)
    batch: int = option(16, "rows per step", kind=int)
    length: int | None = option(None, "tokens per row (the model's context, at most 512)", kind=int)
    lr: float = option(3e-3, "highest learning rate", kind=float)
    warmup: int = option(100, "steps up to it; then it falls linearly to zero", kind=int)
    optimizer: str = option("muon", "of the matrices", choices=("muon", "adamw"))
    weight_decay: float = option(0.1, "decoupled, of all matrices", kind=float)
    dropout: float = option(0.0, "of embeddings and of what each sublayer adds", kind=float)
    seed: int = option(0, "of weights, order and dropout", kind=int)
    device: str = option("auto", "cpu, cuda, or auto: cuda where there is one")
    precision: str = option(
        "auto", "of products; auto: bfloat16 where it is fast", choices=("auto", "float32", "bfloat16")
    )
    threads: int | None = option(None, "processor threads (one for each fast core)", kind=int)
    eval_every: int = option(200, "steps between validations", kind=int)
    save_seconds: float = option(60.0, "between checkpoints", kind=float)

    def __post_init__(self) -> None:
        for name in ("batch", "eval_every"):
            _at_least(name, getattr(self, name), 1)
        for name, low in (("steps", 1), ("length", 2), ("threads", 1)):
            if getattr(self, name) is not None:
                _at_least(name, getattr(self, name), low)
        for name in ("warmup", "weight_decay", "save_seconds", "seed"):
            _at_least(name, getattr(self, name), 0)
        if not 0 <= self.dropout < 1:
            raise ParameterError(f"dropout must be at least 0 and below 1, not {self.dropout}")
        if not self.lr > 0 or not self.epochs > 0:
            raise ParameterError(f"lr and epochs must be over 0, not {self.lr} and {self.epochs}")

    def settings(self) -> dict[str, Any]:
        """What decides on the result: a run goes on only with the same."""
        return {name: value for name, value in asdict(self).items() if name != "save_seconds"}


FINETUNING: dict[str, Any] = {"optimizer": "adamw", "lr": 1e-3, "epochs": 3.0, "weight_decay": 0.0}  # its defaults


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """A small Llama."""

    width: int = option(192, "of the residual stream", kind=int)
    layers: int = option(6, "number of layers", kind=int)
    heads: int | None = option(None, "attention heads (width / 64)", kind=int)
    kv_heads: int | None = option(None, "heads of keys and values (as many as heads)", kind=int)
    ffn: int | None = option(None, "width inside the feed-forward (8/3 of the width, a multiple of 32)", kind=int)
    context: int = option(512, "longest sequence in tokens", kind=int)

    def __post_init__(self) -> None:
        for name in ("width", "layers", "context"):
            _at_least(name, getattr(self, name), 1)
        heads, kv_heads = self.head_counts
        if heads < 1 or self.width % (2 * heads):
            raise ParameterError(f"width {self.width} must be an even multiple of heads ({heads})")
        if kv_heads < 1 or heads % kv_heads:
            raise ParameterError(f"heads ({heads}) must be a multiple of kv_heads ({kv_heads})")

    @property
    def head_counts(self) -> tuple[int, int]:
        heads = self.heads if self.heads is not None else max(1, self.width // 64)
        return heads, self.kv_heads if self.kv_heads is not None else heads

    @property
    def inner(self) -> int:
        return self.ffn if self.ffn is not None else max(1, round(self.width * 8 / 3 / 32)) * 32


@dataclass(frozen=True, slots=True, kw_only=True)
class Lora:
    """A low-rank adapter."""

    rank: int = option(8, "of the adapter's matrices", kind=int)
    alpha: float = option(16.0, "the adapter counts alpha / rank", kind=float)
    targets: str = option("all-linear", "matrices that get one: names with commas between, or all-linear")
    merge: bool = option(False, "also write the model with the adapter added in, as OUT/merged", kind=bool)

    def __post_init__(self) -> None:
        if self.rank < 1 or not self.alpha > 0:
            raise ParameterError(f"rank must be at least 1 and alpha over 0, not {self.rank} and {self.alpha}")


def _at_least(name: str, value: float, low: int) -> None:
    if not value >= low:
        raise ParameterError(f"{name} must be at least {low}, not {value}")


def add_options(parser: argparse.ArgumentParser, kind: Any, **defaults: Any) -> None:
    """An option for each field of a dataclass; `defaults`, which the help shows, replace those of the fields."""
    for item in fields(kind):
        told = item.metadata["help"]
        default = defaults.get(item.name, item.default)
        shown = told if default is None or item.metadata["kind"] is bool else f"{told} ({default})"
        name = "--" + item.name.replace("_", "-")
        if item.metadata["kind"] is bool:
            parser.add_argument(name, action="store_true", default=argparse.SUPPRESS, help=shown)
        else:
            how = {"type": item.metadata["kind"], "choices": item.metadata["choices"]}
            parser.add_argument(name, default=argparse.SUPPRESS, help=shown, **how)


def given_options(args: argparse.Namespace, kind: Any) -> dict[str, Any]:
    """The fields of a dataclass whose options are given."""
    return {item.name: getattr(args, item.name) for item in fields(kind) if hasattr(args, item.name)}


def from_options(args: argparse.Namespace, kind: type[T], **defaults: Any) -> T:
    """The dataclass that the options describe; `defaults` as for `add_options`."""
    return kind(**{**defaults, **given_options(args, kind)})
