"""Regular expressions of a tokenizer.json: whether matching them can run away.

The library's engine (Oniguruma) backtracks: what one part of a pattern took, it gives back bit by bit as long as a
later part fails. In patterns of published tokenizers one part at a time can give back much. Refused are loops whose
body can match the same text in several ways, and parts in a row that compete for the same characters, where something
after them can fail: their time grows exponentially, or at least with the cube of the text.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import lru_cache

from fastlm.tokenizer.pattern_syntax import PatternError, read
from fastlm.tokenizer.pattern_tree import Alternation, Atomic, Characters, Concatenation, Look, Node, Repeat, Zero

MAX_CHOICES = 6  # small parts in a row that compete: 2 ** 6 ways
MANY = 8  # repetitions that make a loop
MAX_POSITIONS = 300  # sets of characters in a loop


@lru_cache(256)
def check_pattern(pattern: str) -> None:
    """Refuse a regular expression that can run away.

    Raises
    ------
    PatternError
        It can, or it is malformed; the text continues "the regular expression ...".
    """
    try:
        _check(read(pattern), False, 0, False)
    except RecursionError:
        raise PatternError("is nested too deeply") from None


@lru_cache(256)
def shortest_match(pattern: str) -> int:
    """Characters of the shortest text that a regular expression matches."""
    return _shortest(read(pattern))


def _shortest(node: Node) -> int:
    if isinstance(node, Characters):
        return 1
    if isinstance(node, (Zero, Look)):
        return 0
    if isinstance(node, Concatenation):
        return sum(map(_shortest, node.items))
    if isinstance(node, Alternation):
        return min(map(_shortest, node.branches))
    return _shortest(node.body) * (node.low if isinstance(node, Repeat) else 1)


def _is_loop(node: Node) -> bool:
    return isinstance(node, Repeat) and (node.high is None or node.high >= MANY)


def _parts(node: Node) -> tuple[Node, ...]:
    if isinstance(node, Concatenation):
        return node.items
    if isinstance(node, Alternation):
        return node.branches
    return () if isinstance(node, (Characters, Zero)) else (node.body,)


def _all(node: Node) -> Iterator[Node]:
    yield node
    for part in _parts(node):
        yield from _all(part)


def _sure(node: Node) -> bool:
    """Whether it matches wherever it is tried, if only nothing."""
    if isinstance(node, Concatenation):
        return all(map(_sure, node.items))
    if isinstance(node, Alternation):
        return any(map(_sure, node.branches))
    if isinstance(node, Repeat):
        return node.low == 0 or _sure(node.body)
    return isinstance(node, Atomic) and _sure(node.body)


def _alphabet(node: Node) -> int:
    found = 0
    for part in _all(node):
        found |= part.mask if isinstance(part, Characters) else 0
    return found


def _has_loop(node: Node) -> bool:
    return any(map(_is_loop, _all(node)))


def _gives_much(node: Node) -> bool:
    """Whether it can give back more than a few characters."""
    if isinstance(node, (Atomic, Look)) or (isinstance(node, Repeat) and node.possessive):
        return False
    return _is_loop(node) or any(map(_gives_much, _parts(node)))


def _choices(node: Node) -> int:
    """Small choices that a failure after it tries again."""
    if isinstance(node, (Atomic, Look)) or (isinstance(node, Repeat) and node.possessive):
        return 0
    own = 1 if isinstance(node, Alternation) and not _disjoint(map(_positions_first, node.branches)) else 0
    if isinstance(node, Repeat):
        inside = _choices(node.body)
        return (node.high or 1) * inside + (node.high != node.low)
    return own + sum(map(_choices, _parts(node)))


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
        if looped and _has_loop(node):
            raise PatternError("can run away: it looks along a loop from within a loop")
        _check(node.body, False, 0, looped)
    elif isinstance(node, Atomic):
        _check(node.body, False, 0, looped)
    elif isinstance(node, Repeat) and _is_loop(node):
        gives = fallible and not node.possessive
        if gives and not _is_deterministic(node):
            raise PatternError("can run away: a loop in it matches the same text in many ways")
        _check(node.body, gives or node.low > 1, _alphabet(node.body) | after, True)
    elif isinstance(node, Alternation):
        for branch in node.branches:
            _check(branch, fallible, after, looped)
    elif isinstance(node, Repeat):
        rounds = 1 if node.high == 1 else 2  # further ones compete as the second does
        _check_row(_flat([node.body] * rounds), fallible and not node.possessive, after, looped)
    elif isinstance(node, Concatenation):
        _check_row(_flat(node.items), fallible, after, looped)


def _flat(items: Iterable[Node]) -> list[Node]:
    """Parts that follow each other, without groups around some of them."""
    return [part for item in items for part in (_flat(item.items) if isinstance(item, Concatenation) else [item])]


def _check_row(items: list[Node], fallible: bool, after: int, looped: bool) -> None:
    """Parts that follow each other: one may give back much for what after it runs far and fails, and few choose."""
    far: list[int] = []  # alphabets of parts behind that run far, as long as what is between can take their characters
    choices = 0
    for item in reversed(items):
        _check(item, fallible, after, looped)
        alphabet = _alphabet(item)
        if fallible and _gives_much(item) and any(alphabet & other for other in far):
            raise PatternError("can run away: two of its loops compete for the same characters")
        if not _sure(item):
            far = [other for other in far if other & alphabet]
        if _has_loop(item) and (fallible or any(isinstance(part, Look) for part in _all(item))):
            far.append(alphabet)
        if fallible and alphabet & after:
            choices += _choices(item)
        fallible, after = fallible or not _sure(item), alphabet | (after if _sure(item) else 0)
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
            found = [self.add(branch) for branch in node.branches]
            return set().union(*(f[0] for f in found)), set().union(*(f[1] for f in found)), any(f[2] for f in found)
        if isinstance(node, Concatenation):
            return self._row(node.items)
        if isinstance(node, Repeat) and not _is_loop(node):
            return self._rounds(node)
        first, last, empty = self.add(node.body)
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


def _disjoint(masks: Iterable[int]) -> bool:
    seen = 0
    for mask in masks:
        if mask & seen:
            return False
        seen |= mask
    return True


def _positions_first(node: Node) -> int:
    automaton = _Automaton()
    first, _, _ = automaton.add(node)
    found = 0
    for state in first:
        found |= automaton.masks[state]
    return found


def _is_deterministic(loop: Repeat) -> bool:
    """Whether the next character always says which state comes next: then each text is matched in one way."""
    automaton = _Automaton()
    first, _, _ = automaton.add(loop)
    sets = [first, *automaton.follow]
    return not automaton.twice and all(_disjoint(automaton.masks[state] for state in states) for states in sets)
