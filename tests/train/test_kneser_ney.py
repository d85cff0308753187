"""The n-gram model of examples/compare.py against its definition, written with dictionaries. Needs no torch."""

from __future__ import annotations

import importlib.util
import random
import sys
from collections import defaultdict

import numpy as np
import pytest
from support import ROOT

SPEC = importlib.util.spec_from_file_location("kneser_ney", ROOT / "examples" / "kneser_ney.py")
assert SPEC is not None and SPEC.loader is not None
kneser_ney = importlib.util.module_from_spec(SPEC)
sys.modules[SPEC.name] = kneser_ney  # where its dataclass looks itself up
SPEC.loader.exec_module(kneser_ney)


def naive(documents: list[list[int]], order: int, vocab: int, text: list[int]) -> list[float]:
    """Probabilities by the book."""
    counts: list[dict[tuple[int, ...], float]] = [defaultdict(float) for _ in range(order + 1)]
    for ids in documents:
        padded = [ids[0]] * order + ids[1:]
        for i in range(order, len(padded)):
            counts[order][tuple(padded[i - order + 1 : i + 1])] += 1
    for n in range(order - 1, 0, -1):
        for gram in counts[n + 1]:
            counts[n][gram[1:]] += 1

    def discount(n: int, count: float) -> float:
        of = [sum(c == k for c in counts[n].values()) for k in (1, 2, 3, 4)]
        y = of[0] / max(1, of[0] + 2 * of[1])
        k = min(int(count), 3)
        return 0.0 if k == 0 else min(max(k - (k + 1) * y * of[k] / max(1, of[k - 1]), 0.0), k)

    def probability(history: tuple[int, ...], token: int) -> float:
        n = len(history) + 1
        lower = probability(history[1:], token) if history else 1 / vocab
        following = {gram[-1]: c for gram, c in counts[n].items() if gram[:-1] == history}
        total = sum(following.values())
        if not total:
            return lower
        freed = sum(discount(n, c) for c in following.values())
        own = following.get(token, 0.0)
        return (own - discount(n, own) + freed * lower) / total

    padded = [text[0]] * order + text[1:]
    return [probability(tuple(padded[i - order + 1 : i]), padded[i]) for i in range(order, len(padded))]


@pytest.mark.parametrize("order", [1, 2, 3, 5])
def test_it_is_the_definition(order: int) -> None:
    draw = random.Random(order)
    documents = [[0, *(draw.choice([1, 1, 1, 2, 2, 3, 4, 5]) for _ in range(draw.randrange(1, 30)))] for _ in range(25)]
    text = [0, *(draw.randrange(1, 6) for _ in range(60))]
    model = kneser_ney.KneserNey([np.array(ids) for ids in documents], order=order, vocab=8)
    found = 2 ** model.log2_probabilities(np.array(text))
    np.testing.assert_allclose(found, naive(documents, order, 8, text), rtol=1e-12)


def test_probabilities_add_to_one() -> None:
    draw = random.Random(1)
    documents = [np.array([0, *(draw.randrange(1, 6) for _ in range(20))]) for _ in range(20)]
    model = kneser_ney.KneserNey(documents, order=3, vocab=6)
    for history in ([0], [0, 1, 2], [0, 5, 5, 5]):
        with np.errstate(divide="ignore"):  # the token that only starts documents never follows
            each = [2 ** model.log2_probabilities(np.array([*history, token]))[-1] for token in range(6)]
        assert sum(each) == pytest.approx(1)
        np.testing.assert_allclose(model.following(np.array(history)), each, rtol=1e-12)
