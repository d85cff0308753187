"""LongRoPE: which factors rotate a sequence follows from its length, and from nothing else that was asked for."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

import fastlm
from fastlm.tasks import continuations

GOLDEN = Path(__file__).with_name("golden") / "phi3_longrope"
CONFIG = json.loads((GOLDEN / "config.json").read_text())
ORIGINAL: int = CONFIG["original_max_position_embeddings"]
ROOM: int = CONFIG["max_position_embeddings"]
IDS = [int(i) for i in np.random.default_rng(3).integers(3, CONFIG["vocab_size"], ROOM)]
SHORT = IDS[: ORIGINAL - 5]  # a prompt that the short factors are for
WRITTEN = 15  # tokens after it: ten of them beyond


@pytest.fixture(scope="module", params=[(1, True), (2, False)], ids=["1", "2 without prefix cache"])
def model(request: pytest.FixtureRequest) -> Iterator[fastlm.Model]:
    threads, prefix_cache = request.param
    with fastlm.load(GOLDEN, dtype="float32", threads=threads, prefix_cache=prefix_cache) as loaded:
        yield loaded


@pytest.fixture(scope="module")
def greedy(model: fastlm.Model) -> list[int]:
    """The most probable token after the prompt and after each text that it makes longer, a forward pass for each."""
    ids = list(SHORT)
    for _ in range(WRITTEN):
        logits = model.forward(ids, logits="last").logits
        assert logits is not None
        ids.append(int(logits[0].argmax()))
    return ids[len(SHORT) :]


def test_the_factors_matter(model: fastlm.Model) -> None:
    """Beyond the original context a text's beginning has other logits, too."""
    inside, beyond = (model.forward(IDS[:n]).logits for n in (ORIGINAL, ORIGINAL + 1))
    assert inside is not None and beyond is not None
    assert np.abs(inside[10:] - beyond[10:ORIGINAL]).max() > 0.01 * inside.std()


def test_each_token_follows_from_the_text_before_it(model: fastlm.Model, greedy: list[int]) -> None:
    how = {"temperature": 0.0, "ignore_eos": True}
    assert model.generate(SHORT, max_tokens=WRITTEN, **how).token_ids == greedy
    assert [t for c in model.stream(SHORT, max_tokens=WRITTEN, **how) for t in c.token_ids] == greedy
    several = model.generate(SHORT, max_tokens=WRITTEN, n=3, **how)
    assert all(done.token_ids == greedy for done in (several, *several.alternatives))


def test_a_longer_limit_changes_nothing_before_it(model: fastlm.Model, greedy: list[int]) -> None:
    for sampling in ({"temperature": 0.0}, {"temperature": 1.0, "seed": 11}):
        texts = [
            model.generate(SHORT, max_tokens=n, ignore_eos=True, **sampling).token_ids
            for n in (1, 4, 5, 6, 7, WRITTEN, ROOM)
        ]
        assert [len(text) for text in texts] == [1, 4, 5, 6, 7, WRITTEN, ROOM - len(SHORT)]
        assert all(longer[: len(text)] == text for text, longer in pairwise(texts))


@pytest.mark.parametrize("cut", range(WRITTEN + 1))
def test_turns_of_a_session(model: fastlm.Model, greedy: list[int], cut: int) -> None:
    """Wherever a text is cut into turns, forked or taken back: the length decides again."""
    how = {"temperature": 0.0, "ignore_eos": True}
    with model.session() as session:
        first = session.generate(SHORT, max_tokens=cut, **how).token_ids
        with session.fork() as fork:
            assert first + fork.generate([], max_tokens=WRITTEN - cut, **how).token_ids == greedy
            fork.rewind(WRITTEN - cut)
            assert first + fork.generate([], max_tokens=WRITTEN - cut, **how).token_ids == greedy
        assert first + session.generate([], max_tokens=WRITTEN - cut, **how).token_ids == greedy


def test_neighbours(model: fastlm.Model, greedy: list[int]) -> None:
    """Some in the batch have outgrown the short factors already, some never do."""
    prompts = [SHORT, IDS[:3], IDS[: ORIGINAL + 1], SHORT, IDS[:ORIGINAL]]
    how = {"temperature": 0.0, "ignore_eos": True, "max_tokens": WRITTEN}
    alone = [model.generate(prompt, **how).token_ids for prompt in prompts]
    assert [done.token_ids for done in model.batch(prompts, **how)] == alone
    with ThreadPoolExecutor(5) as pool:
        assert list(pool.map(lambda prompt: model.generate(prompt, **how).token_ids, prompts)) == alone
    assert alone[0] == alone[3] == greedy


@pytest.mark.parametrize("sequences", [1, 2, 3])
def test_little_memory(greedy: list[int], sequences: int) -> None:
    """A sequence that starts over waits for its pages, which others share, and all of them come to their end."""
    with fastlm.load(GOLDEN, dtype="float32", threads=1) as large:
        page = 64 * large.memory()["kv_bytes_per_token"]
    with fastlm.load(GOLDEN, dtype="float32", threads=1, kv_bytes=sequences * 2 * page) as model:
        how = {"temperature": 0.0, "ignore_eos": True, "max_tokens": WRITTEN}
        for _ in range(3):
            assert [done.token_ids for done in model.batch([SHORT] * 5, **how)] == [greedy] * 5


def test_figures_count_the_prompt_once(model: fastlm.Model) -> None:
    done = model.generate(IDS[1 : ORIGINAL - 3], max_tokens=WRITTEN, temperature=0, ignore_eos=True)
    assert done.usage.prompt_tokens == ORIGINAL - 4 and done.usage.completion_tokens == WRITTEN
    assert done.usage.cached_tokens == 0
    assert min(done.timings.prompt_seconds, done.timings.decode_seconds) > 0


def logprobs(model: fastlm.Model, ids: list[int]) -> np.ndarray:
    """Of ids[1:], from one forward pass over all of them."""
    logits = model.forward(ids).logits
    assert logits is not None
    x = logits.astype(np.float64)
    x -= x.max(1, keepdims=True)
    x -= np.log(np.exp(x).sum(1, keepdims=True))
    return x[np.arange(len(ids) - 1), ids[1:]]


@pytest.mark.parametrize("n", [ORIGINAL - 1, ORIGINAL, ORIGINAL + 1, ORIGINAL + 2, ROOM])
@pytest.mark.parametrize("rows", [1, 7, 512])
def test_scores_are_those_of_the_whole_text(
    model: fastlm.Model, n: int, rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However it is cut into pieces: the first of them knows how long the text is."""
    monkeypatch.setattr(continuations, "BATCH_VALUES", rows * model.vocab)
    ids = IDS[:n]
    expected = logprobs(model, ids)
    assert model.loglikelihood(ids) == pytest.approx(expected.sum(), rel=1e-8)
    assert model.loglikelihood(ids[:9], continuation=ids[9:]) == pytest.approx(expected[8:].sum(), rel=1e-8)
    assert model.perplexity(ids) == pytest.approx(np.exp(-expected.mean()), rel=1e-8)


def test_windows_are_texts_of_their_own(model: fastlm.Model) -> None:
    window, stride = ORIGINAL + 1, ORIGINAL // 2
    first, second = logprobs(model, IDS[:window]), logprobs(model, IDS[stride : stride + window])
    total = -first.sum() - second[window - stride - 1 :].sum()
    scored = len(first) + len(second[window - stride - 1 :])
    found = model.perplexity(IDS[: stride + window], window=window, stride=stride)
    assert found == pytest.approx(np.exp(total / scored), rel=1e-8)
