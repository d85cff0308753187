"""The tree of a regular expression. Sets of characters are bit masks over a sample of characters.

What is asked of a part again and again is worked out once.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

MANY = 8  # repetitions that make a loop


def disjoint(masks: Iterable[int]) -> bool:
    """Whether no character is in two of some sets."""
    seen = 0
    for mask in masks:
        if mask & seen:
            return False
        seen |= mask
    return True


class Node:
    """A part of a regular expression."""

    parts: tuple[Node, ...] = ()
    is_loop = False
    is_atomic = False  # it gives nothing back once it has matched

    @cached_property
    def size(self) -> int:
        """Characters, sets and places in it, few repetitions written out."""
        return max(1, sum(part.size for part in self.parts))

    @cached_property
    def shortest(self) -> int:
        """Characters of the shortest text that it matches."""
        return sum(part.shortest for part in self.parts)

    @cached_property
    def alphabet(self) -> int:
        """All characters in it."""
        found = 0
        for part in self.parts:
            found |= part.alphabet
        return found

    @cached_property
    def first(self) -> int:
        """The characters with which what it matches may begin."""
        return 0

    @cached_property
    def sure(self) -> bool:
        """Whether it matches wherever it is tried, if only nothing."""
        return False

    @cached_property
    def has_loop(self) -> bool:
        return self.is_loop or any(part.has_loop for part in self.parts)

    @cached_property
    def has_look(self) -> bool:
        return any(part.has_look for part in self.parts)

    @cached_property
    def gives_much(self) -> bool:
        """Whether it can give back more than a few characters."""
        return not self.is_atomic and (self.is_loop or any(part.gives_much for part in self.parts))

    @cached_property
    def choices(self) -> int:
        """Small choices that a failure after it tries again."""
        return 0 if self.is_atomic else sum(part.choices for part in self.parts)


@dataclass(frozen=True, eq=False)
class Characters(Node):
    """One character of a set."""

    mask: int

    @cached_property
    def shortest(self) -> int:
        return 1

    @cached_property
    def alphabet(self) -> int:
        return self.mask

    @cached_property
    def first(self) -> int:
        return self.mask


@dataclass(frozen=True, eq=False)
class Zero(Node):
    """A place: the start, the end, an edge of a word."""


@dataclass(frozen=True, eq=False)
class _Around(Node):
    body: Node

    @property
    def parts(self) -> tuple[Node, ...]:  # type: ignore[override]
        return (self.body,)


@dataclass(frozen=True, eq=False)
class Look(_Around):
    """What must, or must not, stand before or behind a place."""

    is_atomic = True

    @cached_property
    def shortest(self) -> int:
        return 0

    @cached_property
    def has_look(self) -> bool:
        return True


@dataclass(frozen=True, eq=False)
class Atomic(_Around):
    """A group that gives nothing back once it has matched."""

    is_atomic = True

    @cached_property
    def first(self) -> int:
        return self.body.first

    @cached_property
    def sure(self) -> bool:
        return self.body.sure


@dataclass(frozen=True, eq=False)
class Repeat(_Around):
    """Something `low` to `high` times (None: any number); possessive ones give nothing back."""

    low: int
    high: int | None
    possessive: bool = False

    @property
    def is_loop(self) -> bool:  # type: ignore[override]
        return self.high is None or self.high >= MANY

    @property
    def is_atomic(self) -> bool:  # type: ignore[override]
        return self.possessive

    @cached_property
    def size(self) -> int:
        rounds = self.low + 2 if self.high is None else self.high
        return self.body.size * max(1, min(rounds, MANY))

    @cached_property
    def shortest(self) -> int:
        return self.body.shortest * self.low

    @cached_property
    def first(self) -> int:
        return self.body.first

    @cached_property
    def sure(self) -> bool:
        return self.low == 0 or self.body.sure

    @cached_property
    def choices(self) -> int:
        return 0 if self.possessive else (self.high or 1) * self.body.choices + (self.high != self.low)


@dataclass(frozen=True, eq=False)
class Concatenation(Node):
    """Parts that follow each other."""

    parts: tuple[Node, ...]

    @cached_property
    def first(self) -> int:
        found = 0
        for part in self.parts:
            found |= part.first
            if part.shortest:
                break
        return found

    @cached_property
    def sure(self) -> bool:
        return all(part.sure for part in self.parts)


@dataclass(frozen=True, eq=False)
class Alternation(Node):
    """One of several parts."""

    parts: tuple[Node, ...]

    @cached_property
    def shortest(self) -> int:
        return min(part.shortest for part in self.parts)

    @cached_property
    def first(self) -> int:
        found = 0
        for part in self.parts:
            found |= part.first
        return found

    @cached_property
    def sure(self) -> bool:
        return any(part.sure for part in self.parts)

    @cached_property
    def choices(self) -> int:
        overlap = not disjoint(part.first for part in self.parts)
        return overlap + sum(part.choices for part in self.parts)
