"""Regular expressions of a tokenizer.json: whether matching them can run away.

The library's engine (Oniguruma) backtracks: what one part of a pattern took, it gives back bit by bit as long as a
later part fails. In patterns of published tokenizers one part at a time can give back much. Refused are loops whose
body can match the same text in several ways, and parts in a row that compete for the same characters, where something
after them can fail: their time grows exponentially, or at least with the cube of the text.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import lru_cache
from typing import NamedTuple

from fastlm.tokenizer.pattern_syntax import PatternError, read
from fastlm.tokenizer.pattern_tree import (
    Alternation,
    Atomic,
    Characters,
    Concatenation,
    Look,
    Node,
    Repeat,
    Zero,
    disjoint,
)

MAX_CHOICES = 6  # small parts in a row that compete: 2 ** 6 ways
MAX_POSITIONS = 300  # sets of characters in a loop
MAX_SIZE = 5_000  # characters and sets of a pattern, repetitions written out
MAX_LOOPED = 2_000  # of one with loops, where each costs a step for each pair of characters of a text


class Judged(NamedTuple):
    """What matters of a regular expression that cannot run away.

    Attributes
    ----------
    shortest
        Characters of the shortest text that it matches.
    size
        Characters and sets in it, repetitions written out.
    has_loop
        Whether its time can grow with the square of a text.
    """

    shortest: int
    size: int
    has_loop: bool


@lru_cache(256)
def judge(pattern: str) -> Judged:
    """Read a regular expression and refuse one that can run away.

    Raises
    ------
    PatternError
        It can, or it is malformed or too large; the text continues "the regular expression ...".
    """
    try:
        tree = read(pattern)
        largest = MAX_LOOPED if tree.has_loop else MAX_SIZE
        if tree.size > largest:
            raise PatternError(
                f"has {tree.size:,} characters and sets, repetitions written out; at most {largest:,} are taken"
            )
        _check(tree, False, 0, False)
    except RecursionError:
        raise PatternError("is nested too deeply") from None
    return Judged(tree.shortest, tree.size, tree.has_loop)


def _check(node: Node, fallible: bool, after: int, looped: bool) -> None:
    """Check a part.

    Parameters
    ----------
    fallible
        Whether something after it can fail.
    after
        The characters with which what follows may begin.
    looped
        Whether it is in a loop.
    """
    if isinstance(node, Look):
        if looped and node.has_loop:
            raise PatternError("can run away: it looks along a loop from within a loop")
        _check(node.body, False, 0, looped)
    elif isinstance(node, Atomic):
        _check(node.body, False, 0, looped)
    elif isinstance(node, Repeat) and node.is_loop:
        gives = fallible and not node.possessive
        if gives and not _is_deterministic(node):
            raise PatternError("can run away: a loop in it matches the same text in many ways")
        _check(node.body, gives or node.low > 1, node.body.alphabet | after, True)
    elif isinstance(node, Alternation):
        for branch in node.parts:
            _check(branch, fallible, after, looped)
    elif isinstance(node, Repeat):
        rounds = 1 if node.high == 1 else 2  # further ones compete as the second does
        _check_row(_flat([node.body] * rounds), fallible and not node.possessive, after, looped)
    elif isinstance(node, Concatenation):
        _check_row(_flat(node.parts), fallible, after, looped)


def _flat(items: Iterable[Node]) -> list[Node]:
    """Parts that follow each other, without groups around some of them."""
    return [part for item in items for part in (_flat(item.parts) if isinstance(item, Concatenation) else [item])]


def _check_row(items: list[Node], fallible: bool, after: int, looped: bool) -> None:
    """Parts that follow each other: one may give back much for what after it runs far and fails, and few choose."""
    far: list[int] = []  # alphabets of parts behind that run far, as long as what is between can take their characters
    choices = 0
    for item in reversed(items):
        _check(item, fallible, after, looped)
        alphabet = item.alphabet
        if fallible and item.gives_much and any(alphabet & other for other in far):
            raise PatternError("can run away: two of its loops compete for the same characters")
        if not item.sure:
            far = [other for other in far if other & alphabet]
        if item.has_loop and (fallible or item.has_look):
            far.append(alphabet)
        if fallible and alphabet & after:
            choices += item.choices
        fallible, after = fallible or not item.sure, alphabet | (after if item.sure else 0)
    if choices > MAX_CHOICES:
        raise PatternError(f"can run away: it has {choices} choices in a row")


# ---- the automaton of a loop (Glushkov): a state for each set of characters in it ------------------


@dataclass(slots=True)
class _Automaton:
    masks: list[int] = field(default_factory=list)
    follow: list[set[int]] = field(default_factory=list)
    twice: bool = False  # one state follows another in two ways: by an inner and by an outer loop

    def add(self, node: Node) -> tuple[set[int], set[int], bool]:
        """Its first and last states, and whether it matches nothing, too."""
        if isinstance(node, Characters):
            if len(self.masks) == MAX_POSITIONS:
                raise PatternError("can run away: a loop in it is too long to judge")
            self.masks.append(node.mask)
            self.follow.append(set())
            return {len(self.masks) - 1}, {len(self.masks) - 1}, False
        if isinstance(node, (Zero, Look)):
            return set(), set(), True
        if isinstance(node, Alternation):
            found = [self.add(branch) for branch in node.parts]
            return set().union(*(f[0] for f in found)), set().union(*(f[1] for f in found)), any(f[2] for f in found)
        if isinstance(node, Concatenation):
            return self._row(node.parts)
        if isinstance(node, Repeat) and not node.is_loop:
            return self._rounds(node)
        (body,) = node.parts
        first, last, empty = self.add(body)
        if isinstance(node, Repeat):
            self._link(last, first)
        return first, last, empty or (isinstance(node, Repeat) and node.low == 0)

    def _rounds(self, node: Repeat) -> tuple[set[int], set[int], bool]:
        """Few repetitions, written out."""
        first: set[int] = set()
        last: set[int] = set()
        ends: set[int] = set()
        empty, nothing = True, True
        for i in range(node.high or 0):
            begins, here, nothing = self.add(node.body)
            self._link(ends, begins)
            first |= begins if empty else set()
            ends = here | (ends if nothing else set())
            last |= ends if i + 1 >= node.low else set()
            empty = empty and nothing
        return first, last, node.low == 0 or nothing

    def _row(self, items: Iterable[Node]) -> tuple[set[int], set[int], bool]:
        first: set[int] = set()
        last: set[int] = set()
        empty = True
        for item in items:
            begins, ends, nothing = self.add(item)
            self._link(last, begins)
            first |= begins if empty else set()
            last = ends | (last if nothing else set())
            empty = empty and nothing
        return first, last, empty

    def _link(self, before: set[int], after: set[int]) -> None:
        for state in before:
            self.twice = self.twice or bool(self.follow[state] & after)
            self.follow[state] |= after


def _is_deterministic(loop: Repeat) -> bool:
    """Whether the next character always says which state comes next: then each text is matched in one way."""
    automaton = _Automaton()
    first, _, _ = automaton.add(loop)
    sets = [first, *automaton.follow]
    return not automaton.twice and all(disjoint(automaton.masks[state] for state in states) for states in sets)
