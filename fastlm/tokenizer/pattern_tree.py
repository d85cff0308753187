"""The tree of a regular expression. Sets of characters are bit masks over a sample of characters."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Characters:
    """One character of a set."""

    mask: int


@dataclass(frozen=True, slots=True)
class Zero:
    """A place: the start, the end, an edge of a word."""


@dataclass(frozen=True, slots=True)
class Look:
    """What must, or must not, stand before or behind a place."""

    body: Node


@dataclass(frozen=True, slots=True)
class Atomic:
    """A group that gives nothing back once it has matched."""

    body: Node


@dataclass(frozen=True, slots=True)
class Repeat:
    """Something `low` to `high` times (None: any number); possessive ones give nothing back."""

    body: Node
    low: int
    high: int | None
    possessive: bool = False


@dataclass(frozen=True, slots=True)
class Concatenation:
    items: tuple[Node, ...]


@dataclass(frozen=True, slots=True)
class Alternation:
    branches: tuple[Node, ...]


Node = Characters | Zero | Look | Atomic | Repeat | Concatenation | Alternation
