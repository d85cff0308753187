"""The syntax of regular expressions as Oniguruma reads them, as far as tokenizers need it: text to a tree."""

from __future__ import annotations

import re
from typing import NamedTuple

from fastlm.tokenizer.pattern_sample import Sample
from fastlm.tokenizer.pattern_tree import Alternation, Atomic, Characters, Concatenation, Look, Node, Repeat, Zero

MAX_DEPTH = 32
MAX_STACKED = 4  # repetitions of repetitions, without groups
MAX_COUNT = 1000  # of {n,m}


class PatternError(ValueError):
    """The pattern is malformed, or has what no tokenizer needs (references back, calls, conditions)."""


class Members(NamedTuple):
    """A set of characters: those that may be in it, and those that surely are (of \\p{Han} and the like, none)."""

    may: int
    must: int


_PLACES = "AzZGbByYK"
_CONTROLS = {"0": "\0", "n": "\n", "r": "\r", "t": "\t", "f": "\f", "v": "\v", "a": "\a", "e": "\x1b"}
_QUANTIFIER = re.compile(r"[*+?]|\{(\d+)?(,)?(\d+)?\}")
_GROUP = re.compile(r"\?(?:([imxadu-]*)([:)])|(>|=|!|<=|<!)|P?<[^\W\d]\w*>|'\w+'|(#[^)]*\)))")
_CODE = re.compile(r"x\{([0-9A-Fa-f]{1,8})\}|x([0-9A-Fa-f]{1,2})|u([0-9A-Fa-f]{4})")
_PROPERTY = re.compile(r"([pP])\{(\^?)([\w -]{1,40})\}")
_POSIX = re.compile(r"\[:(\^?)(\w+):\]")

_FOLDS = re.compile(r"\(\?[a-z]*i")


def read(pattern: str) -> Node:
    """The tree of a pattern, whose length components.py bounds.

    Raises
    ------
    PatternError
        See there.
    """
    return _Parser(pattern).whole()


class _Parser:
    def __init__(self, text: str) -> None:
        self._text = text
        codes = (int(h, 16) for groups in _CODE.findall(text) for h in groups if h)
        self._sample = Sample({*text, *(chr(c) for c in codes if c < 0x110000)}, bool(_FOLDS.search(text)))
        self._everything = self._sample.everything
        self._in_all_cases: dict[tuple[int, bool], Node] = {}
        self._at = 0
        self._depth = 0
        self._folds = False  # (?i)

    def whole(self) -> Node:
        node = self._alternation()
        if self._at < len(self._text):
            raise PatternError(f"has an unmatched ) at character {self._at}")
        return node

    def _peek(self, text: str) -> bool:
        return self._text.startswith(text, self._at)

    def _take(self, text: str) -> bool:
        found = self._peek(text)
        self._at += len(text) * found
        return found

    def _next(self) -> str:
        if self._at >= len(self._text):
            raise PatternError("ends too early")
        self._at += 1
        return self._text[self._at - 1]

    def _alternation(self) -> Node:
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise PatternError("is nested too deeply")
        folds = self._folds
        branches = [self._branch()]
        while self._take("|"):
            branches.append(self._branch())
        self._folds = folds
        self._depth -= 1
        return branches[0] if len(branches) == 1 else Alternation(tuple(branches))

    def _branch(self) -> Node:
        items: list[Node] = []
        while self._at < len(self._text) and not self._peek("|") and not self._peek(")"):
            node, stacked = self._atom(), 0
            while (counted := self._repeat(node)) is not None:
                node, stacked = counted, stacked + 1
                if stacked > MAX_STACKED:
                    raise PatternError("is nested too deeply")
            items.append(node)
        return items[0] if len(items) == 1 else Concatenation(tuple(items))

    def _repeat(self, node: Node) -> Node | None:
        found = _QUANTIFIER.match(self._text, self._at)
        if not found or found[0] in ("{}", "{,}"):
            return None
        self._at = found.end()
        if found[0] in ("*", "+", "?"):
            low, high = {"*": (0, None), "+": (1, None), "?": (0, 1)}[found[0]]
            possessive = self._take("+")
        else:
            low = int(found[1] or 0)
            high = int(found[3]) if found[3] else None if found[2] else low
            possessive = False
            if max(low, high or 0) > MAX_COUNT:
                raise PatternError(f"repeats more than {MAX_COUNT} times")
        if not possessive:
            self._take("?")  # reluctant ones try the same ways in another order
        return Repeat(node, low, high, possessive)

    def _atom(self) -> Node:
        c = self._next()
        if c == "(":
            return self._group()
        if c == "[":
            negated = self._peek("^")
            return self._characters(self._set(), not negated)
        if c == ".":
            return Characters(self._everything & ~self._sample.one("\n"))
        if c in "^$":
            return Zero()
        if c == "\\" and self._at < len(self._text) and self._text[self._at] in _PLACES:
            self._at += 1
            return Zero()
        if c in "*+?":
            raise PatternError(f"has nothing to repeat before {c!r} at character {self._at - 1}")
        members = self._escape() if c == "\\" else self._same(c)
        return self._characters(members, members.may.bit_count() == 1)

    def _group(self) -> Node:
        if not self._peek("?"):
            return self._closed(self._alternation())
        found = _GROUP.match(self._text, self._at)
        if not found:
            raise PatternError(f"has a kind of group at character {self._at} that is not read")
        self._at = found.end()
        flags, colon, kind, comment = found.groups()
        if comment:
            return Concatenation(())
        if flags is not None:
            before, switched = self._folds, flags.partition("-")
            self._folds = "i" in switched[0] or (before and "i" not in switched[2])
            if colon == ")":  # holds to the end of the group around it
                return Concatenation(())
            body = self._closed(self._alternation())
            self._folds = before
            return body
        body = self._closed(self._alternation())
        return body if kind is None else Atomic(body) if kind == ">" else Look(body)

    def _closed(self, node: Node) -> Node:
        if not self._take(")"):
            raise PatternError("lacks a )")
        return node

    def _characters(self, members: Members, rows: bool) -> Node:
        """One character of a set; where case does not count, perhaps also the rows of characters that match one."""
        if not self._folds:
            return Characters(members.may)
        if (members.may, rows) not in self._in_all_cases:
            self._in_all_cases[members.may, rows] = self._folded(members.may, rows)
        return self._in_all_cases[members.may, rows]

    def _folded(self, mask: int, rows: bool) -> Node:
        mask = self._sample.in_all_cases(mask)
        if not rows:
            return Characters(mask)
        one = Characters(mask | self._sample.ends_of_rows(mask))
        if not (row := self._sample.rows_of(mask)):
            return one
        first, second, third = map(Characters, row)
        return Alternation((one, Concatenation((first, second, Repeat(third, 0, 1)))))

    def _same(self, wanted: str) -> Members:
        mask = self._sample.one(wanted)
        return Members(mask, mask)

    def _not(self, members: Members) -> Members:
        return Members(self._everything & ~members.must, self._everything & ~members.may)

    def _property(self, name: str) -> Members:
        short = re.sub(r"[ _-]", "", name).lower()
        if len(short) > 2:
            return Members(self._everything, 0)  # scripts and the like
        mask = self._sample.of_category(short)
        return Members(mask, mask)

    def _escape(self) -> Members:
        if found := _PROPERTY.match(self._text, self._at):
            self._at = found.end()
            members = self._property(found[3])
            return self._not(members) if (found[1] == "P") != (found[2] == "^") else members
        if found := _CODE.match(self._text, self._at):
            self._at = found.end()
            number = int(next(h for h in found.groups() if h), 16)
            if number > 0x10FFFF:
                raise PatternError("names a character beyond Unicode")
            return self._same(chr(number))
        c = self._next()
        if (mask := self._sample.of_class(c.lower())) is not None:
            return Members(mask, mask) if c.islower() else self._not(Members(mask, mask))
        if c in "RX":
            return Members(self._everything, 0)
        if c.isalnum() and c not in _CONTROLS:
            raise PatternError(f"has \\{c}, which is not read")
        return self._same(_CONTROLS.get(c, c))

    def _set(self) -> Members:
        """What follows a [: unions of ranges and sets, which && intersects."""
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise PatternError("is nested too deeply")
        negated = self._take("^")
        found = Members(self._everything, self._everything)
        union = self._same("]") if self._take("]") else Members(0, 0)
        while not self._take("]"):
            if self._take("&&"):
                found, union = Members(found.may & union.may, found.must & union.must), Members(0, 0)
            else:
                item = self._set_item()
                union = Members(union.may | item.may, union.must | item.must)
        self._depth -= 1
        found = Members(found.may & union.may, found.must & union.must)
        return self._not(found) if negated else found

    def _set_item(self) -> Members:
        if found := _POSIX.match(self._text, self._at):
            self._at = found.end()
            return Members(self._everything, 0)
        c = self._next()
        if c == "[":
            return self._set()
        low = self._escape() if c == "\\" else self._same(c)
        after = self._text[self._at : self._at + 3]
        if after[:1] != "-" or after[1:2] in ("]", "[", "") or (after[1:2] == "\\" and after[2:] in "sSdDwWhHpP"):
            return low
        self._at += 1
        c = self._next()
        high = self._escape() if c == "\\" else self._same(c)
        if low.may.bit_count() != 1 or high.may.bit_count() != 1 or high.may < low.may:
            raise PatternError(f"has an empty range before character {self._at}")
        between = (high.may << 1) - low.may  # the sample is sorted
        return Members(between, between)
