"""Encoder-decoders that write: several texts of one source."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

import fastlm

SOURCE = [5, 17, 42, 8, 1]


@pytest.fixture(scope="module")
def model() -> Iterator[fastlm.Model]:
    with fastlm.load(Path(__file__).parent / "golden" / "t5") as loaded:
        yield loaded


def tokens_run(model: fastlm.Model) -> int:
    count = model.engine.context.counters()["tokens"]
    assert isinstance(count, int)
    return count


@pytest.mark.parametrize("n", [1, 3])
def test_a_source_is_encoded_once(model: fastlm.Model, n: int) -> None:
    before = tokens_run(model)
    done = model.generate(SOURCE, n=n, max_tokens=1, ignore_eos=True)
    assert len(done.alternatives) == n - 1
    assert tokens_run(model) - before == len(SOURCE) + n


def test_texts_of_one_source_are_those_of_separate_calls(model: fastlm.Model) -> None:
    params = {"max_tokens": 12, "temperature": 1.0, "ignore_eos": True}
    done = model.generate(SOURCE, n=3, seed=7, **params)
    texts = [done, *done.alternatives]
    assert len({tuple(text.token_ids) for text in texts}) > 1, "the seeds must tell"
    for i, text in enumerate(texts):
        alone = model.generate(SOURCE, seed=7 + i, **params)
        assert (text.token_ids, text.seed, text.usage) == (alone.token_ids, alone.seed, alone.usage)
