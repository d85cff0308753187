"""Scores of many continuations in shared steps: those of each sequence alone, to the bit."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from models import byte_shape, save_llama

import fastlm
from fastlm.errors import ContextLengthError, ParameterError
from fastlm.tasks import continuations as module
from fastlm.tasks.continuations import Continuation, Scores, continuations


@pytest.fixture(scope="module", params=["float32", "int8"])
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[fastlm.Model]:
    folder = save_llama(tmp_path_factory.mktemp("model"), byte_shape())
    with fastlm.load(folder, dtype=request.param, context=200, threads=2) as found:
        yield found


def sequences(vocab: int) -> list[Continuation]:
    """Equal ones, ones of one context, ones that begin alike for pages, others."""
    rng = np.random.default_rng(3)
    shared = rng.integers(1, vocab, 150).tolist()
    found = [Continuation([*shared, *rng.integers(1, vocab, n).tolist()], n) for n in (1, 1, 2, 9)]
    found += [Continuation([*shared[:70], token], 1) for token in (5, 6, 7, 5)]
    found += [Continuation([*shared[:70], 5], 40), Continuation(shared, 149), Continuation([3, 4], 1)]
    return found


def equal(a: Scores, b: Scores) -> bool:
    return a.logprobs.tobytes() == b.logprobs.tobytes() and a.greedy.tolist() == b.greedy.tolist()


def test_they_are_those_of_the_logits(model: fastlm.Model) -> None:
    given = sequences(model.vocab)
    for (ids, n), scores in zip(given, continuations(model.engine, given), strict=True):
        logits = model.forward(ids[:-1]).logits
        assert logits is not None
        x = logits[-n:].astype(np.float64)
        expected = x - np.log(np.exp(x).sum(axis=1, keepdims=True))
        assert np.allclose(scores.logprobs, expected[np.arange(n), ids[-n:]], rtol=0, atol=2e-6)
        assert scores.greedy.tolist() == (logits[-n:].argmax(axis=1) == ids[-n:]).tolist()


@pytest.mark.parametrize(
    ("values", "tokens", "count"), [(1, 4096, 64), (20_000, 4096, 64), (1 << 24, 100, 64), (1 << 24, 4096, 2)]
)
def test_company_and_pieces_change_nothing(
    model: fastlm.Model, monkeypatch: pytest.MonkeyPatch, values: int, tokens: int, count: int
) -> None:
    given = sequences(model.vocab)
    alone = [continuations(model.engine, [one])[0] for one in given]
    monkeypatch.setattr(module, "BATCH_VALUES", values)
    monkeypatch.setattr(module, "BATCH_TOKENS", tokens)
    monkeypatch.setattr(module, "BATCH_SEQUENCES", count)
    for order in (given, given[::-1]):
        found = continuations(model.engine, order)
        assert all(equal(a, b) for a, b in zip(found if order is given else found[::-1], alone, strict=True))


def test_progress_counts_them(model: fastlm.Model) -> None:
    done: list[int] = []
    continuations(model.engine, sequences(model.vocab), done.append)
    assert sum(done) == len(sequences(model.vocab))


def test_refusals(model: fastlm.Model) -> None:
    fits = Continuation([1] * 201, 3)
    assert len(continuations(model.engine, [fits])[0].logprobs) == 3
    for given, kind in (
        (Continuation([1] * 202, 3), ContextLengthError),
        (Continuation([1, 2], 2), ParameterError),
        (Continuation([1, 2], 0), ParameterError),
        (Continuation([1], 1), ParameterError),
    ):
        with pytest.raises(kind, match="sequence 1"):
            continuations(model.engine, [fits, given])
    assert continuations(model.engine, []) == []
