"""Encoder-decoders that write: several texts of one source."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
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


def test_sources_of_a_batch_are_encoded_together(model: fastlm.Model) -> None:
    """One step of the encoder, one of the decoder, whatever their lengths."""
    sources = [SOURCE[: 1 + i % 5] * (1 + i) for i in range(8)]
    before = model.engine.context.counters()["forwards"]
    together = model.batch(sources, max_tokens=1, ignore_eos=True)
    assert model.engine.context.counters()["forwards"] == before + 2
    assert [done.token_ids for done in together] == [
        model.generate(ids, max_tokens=1, ignore_eos=True).token_ids for ids in sources
    ]


def test_translations_of_several_threads(model: fastlm.Model) -> None:
    sources = [[3 + (7 * i + k) % 90 for k in range(1 + i)] for i in range(24)]
    params = {"max_tokens": 8, "num_beams": 3, "ignore_eos": True}
    expected = [(done.token_ids, done.score) for done in model.batch(sources, **params)]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda ids: model.generate(ids, **params), sources))
    assert [(done.token_ids, done.score) for done in found] == expected
