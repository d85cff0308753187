"""The characters by which the sets of a regular expression are told apart: sets are bit masks over this sample.

It holds the ASCII characters, some of every Unicode category, and those that the pattern names, with their neighbours
and cases. Two sets that share no character of the sample are taken as disjoint.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Iterable
from functools import cache, cached_property

import numpy as np
from numpy.typing import NDArray

_CLASSES: dict[str, Callable[[str], bool]] = {
    "s": str.isspace,
    "d": str.isdecimal,
    "w": lambda c: c.isalnum() or c == "_" or unicodedata.category(c)[0] == "M",
    "h": lambda c: c in "0123456789abcdefABCDEF",
}


@cache
def _general() -> str:
    """ASCII, and the first four characters of each category beyond it."""
    found: dict[str, list[str]] = {}
    for c in map(chr, [*range(0x80, 0x3100), *range(0x4E00, 0x4E08), *range(0xAC00, 0xAC08), *range(0x1F600, 0x1F608)]):
        kept = found.setdefault(unicodedata.category(c), [])
        if len(kept) < 4:
            kept.append(c)
    return "".join(map(chr, range(128))) + "".join("".join(kept) for kept in found.values()) + "\u4e00\uac00\U0001f600"


@cache
def _rows() -> dict[str, str]:
    """Characters that match a row of others, and are matched by it, where case does not count: \u00df and ss."""
    several = map(chr, [*range(0x80, 0x2000), *range(0xFB00, 0xFB18)])
    return {c: folded for c in several if len(folded := c.casefold()) > 1}


@cache
def _odd_cases() -> list[str]:
    """Characters that are a third case of others, as the Kelvin sign is of k."""
    found = map(chr, range(0x80, 0x2130))
    return [c for c in found if len(x := c.casefold()) == 1 and x != c and x.upper() != c]


class Sample:
    """The sample of a pattern.

    Parameters
    ----------
    named
        The characters of the pattern.
    folds
        Whether somewhere in it case does not count.

    Attributes
    ----------
    everything
        The set of all characters.
    """

    def __init__(self, named: Iterable[str], folds: bool) -> None:
        found = {*_general(), *(chr(min(max(ord(c) + d, 0), 0x10FFFF)) for c in named for d in (-1, 0, 1))}
        if folds:
            found.update(_odd_cases(), _rows(), *_rows().values())
            found.update([x for c in found for x in (c.lower(), c.upper(), c.casefold()) if len(x) == 1])
        self._characters = sorted(found)
        self._places = {c: i for i, c in enumerate(self._characters)}
        self._known: dict[str, int] = {}
        self.everything = (1 << len(found)) - 1

    def one(self, character: str) -> int:
        """The set of one character."""
        return 1 << self._places[character]

    def of_class(self, name: str) -> int | None:
        """The set that backslash and a letter stand for; None: none."""
        if name in _CLASSES and name not in self._known:
            self._known[name] = sum(1 << i for i, c in enumerate(self._characters) if _CLASSES[name](c))
        return self._known.get(name)

    def of_category(self, start: str) -> int:
        """The set of the general categories that begin so."""
        return sum(mask for category, mask in self._categories.items() if category.startswith(start))

    @cached_property
    def _categories(self) -> dict[str, int]:
        found: dict[str, int] = {}
        for i, c in enumerate(self._characters):
            category = unicodedata.category(c).lower()
            found[category] = found.get(category, 0) | 1 << i
        return found

    @cached_property
    def _cases(self) -> NDArray[np.int64]:
        """A number for each character, which its cases share."""
        numbers: dict[str, int] = {}
        return np.array([numbers.setdefault(c.casefold(), len(numbers)) for c in self._characters])

    def in_all_cases(self, mask: int) -> int:
        """A set with all cases of its characters."""
        count = len(self._characters)
        data = np.frombuffer(mask.to_bytes(count // 8 + 1, "little"), np.uint8)
        inside = np.unpackbits(data, count=count, bitorder="little").astype(bool)
        cases = np.zeros(count, bool)
        cases[self._cases[inside]] = True
        return int.from_bytes(np.packbits(cases[self._cases], bitorder="little").tobytes(), "little")

    def rows_of(self, mask: int) -> list[int]:
        """Of the rows of two characters or three that a set matches, too: the first, second and third ones; or none."""
        row = [0, 0, 0]
        for c, folded in _rows().items():
            for i, x in enumerate(folded if mask & self.one(c) else ""):
                row[i] |= self.one(x)
        return row if row[0] else []

    def ends_of_rows(self, mask: int) -> int:
        """The characters that match a row which holds one of a set."""
        return sum(self.one(c) for c, folded in _rows().items() if any(mask & self.one(x) for x in folded))
