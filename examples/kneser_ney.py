"""An interpolated Kneser-Ney n-gram model with three discounts per order (Chen and Goodman, 1999), in NumPy.

An n-gram is a 64-bit hash of its tokens, a table a sorted array of them, and a look-up a binary search: millions of
n-grams are counted in seconds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]
MIX = np.uint64(0x9E3779B97F4A7C15)


def _keys(tokens: Array, order: int) -> list[Array]:
    """keys[n][i]: hash of the n tokens that end at i; keys[0] is that of nothing."""
    found = [np.zeros(len(tokens), np.uint64)]
    for n in range(1, order + 1):
        before = np.concatenate([np.zeros(1, np.uint64), found[n - 1][:-1]])
        found.append(_longer(before, tokens, n))
    return found


def _longer(before: Array, tokens: Array, n: int) -> Array:
    """Keys of n tokens from those of the first n - 1 and the last."""
    x = (before ^ (tokens.astype(np.uint64) + np.uint64(n << 32))) * MIX
    return np.asarray((x ^ (x >> np.uint64(29))) * np.uint64(0xBF58476D1CE4E5B9))


def _find(table: Array, keys: Array) -> tuple[Array, Array]:
    """Index of each key in a sorted table, and whether it is there."""
    at = np.minimum(np.searchsorted(table, keys), len(table) - 1)
    return at, table[at] == keys


@dataclass(frozen=True, slots=True)
class _Order:
    """Counts of one order: n-grams, and their contexts with the total and the mass that backs off."""

    grams: Array
    counts: Array
    contexts: Array
    totals: Array
    backoff: Array  # share of the context's mass that goes to the lower order
    discounts: Array  # of counts 0, 1, 2, 3 and more


def _order(grams: Array, counts: Array, contexts_of: Array) -> _Order:
    """Tables of one order from each distinct n-gram, its count and its context."""
    of = [int((counts == c).sum()) for c in (1, 2, 3, 4)]
    y = of[0] / max(1, of[0] + 2 * of[1])
    raw = [0.0, *((c + 1) - (c + 2) * y * of[c + 1] / max(1, of[c]) for c in range(3))]
    discounts = np.array([min(max(value, 0.0), float(c)) for c, value in enumerate(raw)])
    contexts, which = np.unique(contexts_of, return_inverse=True)
    totals = np.bincount(which, counts).astype(np.float64)
    freed = np.bincount(which, discounts[np.minimum(counts, 3)])
    return _Order(grams, counts, contexts, totals, freed / totals, discounts)


class KneserNey:
    """A model of documents of token ids below `vocab`, each starting with the same token."""

    def __init__(self, documents: Sequence[Array], *, order: int, vocab: int) -> None:
        self._order, self._vocab = order, vocab
        tokens, inside = self._joined(documents)
        keys = _keys(tokens, order)
        self._orders: list[_Order] = []
        above: Array | None = None  # last position of each distinct (n + 1)-gram
        for n in range(order, 0, -1):
            # the highest order counts n-grams, a lower one how many tokens they follow
            grams, first, counts = np.unique(keys[n][inside if above is None else above], True, return_counts=True)
            positions = (inside if above is None else above)[first]
            self._orders.insert(0, _order(grams, counts, keys[n - 1][positions - 1]))
            above = positions

    @property
    def size(self) -> int:
        """Number of n-grams that have a count."""
        return sum(len(order.grams) for order in self._orders)

    def _joined(self, documents: Sequence[Array]) -> tuple[Array, Array]:
        """All tokens, each document behind order - 1 more of its first; and the positions that are predicted."""
        parts, inside, at = [], [], 0
        for ids in documents:
            start = np.full(self._order, ids[0])
            parts += [start, ids[1:]]
            inside.append(np.arange(at + self._order, at + self._order + len(ids) - 1))
            at += self._order + len(ids) - 1
        return np.concatenate(parts), np.concatenate(inside)

    def log2_probabilities(self, ids: Array) -> Array:
        """Of each token of a document but the first, given all before it."""
        tokens, inside = self._joined([ids])
        keys = _keys(tokens, self._order)
        return np.log2(self._probabilities([key[inside - 1] for key in keys], [key[inside] for key in keys]))

    def following(self, ids: Array) -> Array:
        """Probability of every token of the vocabulary after a beginning of a document."""
        padded = np.concatenate([np.full(self._order, ids[0]), ids[1:]])
        contexts = [np.full(self._vocab, key[-1]) for key in _keys(padded, self._order)]
        every = np.arange(self._vocab)
        grams = [np.zeros(0), *(_longer(contexts[n - 1], every, n) for n in range(1, self._order + 1))]
        return self._probabilities(contexts, grams)

    def _probabilities(self, contexts: Sequence[Array], grams: Sequence[Array]) -> Array:
        """Of predictions whose contexts of n tokens have the keys contexts[n] and whose n-grams have grams[n]."""
        p = np.full(len(contexts[0]), 1 / self._vocab)
        for n, order in enumerate(self._orders, 1):
            context, known = _find(order.contexts, contexts[n - 1])
            gram, seen = _find(order.grams, grams[n])
            counts = np.where(seen, order.counts[gram], 0)
            own = (counts - order.discounts[np.minimum(counts, 3)]) / order.totals[context]
            p = np.where(known, own + order.backoff[context] * p, p)
        return p
