"""Thousands of texts through an encoder: whole ones by single threads, no sessions, and memory that does not grow."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from bert_models import WORDS, pieces, save_bert
from random_models import build, plain_spec

import fastlm
from fastlm import _core
from fastlm.errors import Cancelled, ParameterError
from fastlm.tasks.texts import READ_AT_ONCE

LABELS = ("contradiction", "entailment", "neutral")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_bert(tmp_path_factory.mktemp("bare"), "BertModel")


def many(n: int, seed: int = 0) -> list[str]:
    rng = np.random.default_rng(seed)
    words = [word for word in WORDS.split() if len(word) > 1]
    return [" ".join(rng.choice(words, int(rng.integers(0, 50)))) for _ in range(n)]


def ids_of(text: str) -> list[int]:
    table = {piece: i for i, piece in enumerate(pieces())}
    return [2, *(table[word] for word in text.split()), 3]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int8", "int4"])
@pytest.mark.parametrize("threads", [1, 2, 3])
def test_bits_are_those_of_each_text_alone(folder: Path, dtype: str, threads: int) -> None:
    texts = many(200)
    with fastlm.load(folder, dtype=dtype, threads=threads) as model:
        found = model.embed(texts, pooling="first", normalize=False)
        for text, vector in zip(texts, found, strict=True):
            assert np.array_equal(vector, model.forward(ids_of(text)).hidden[0])
        assert np.array_equal(model.embed(texts[:3], pooling="first", normalize=False), found[:3])


@pytest.mark.parametrize("kv_dtype", ["float32", "bfloat16", "int8"])
def test_what_a_text_leaves_does_not_show(folder: Path, kv_dtype: str) -> None:
    """Keys and values of all texts and layers take turns in the same pages."""
    texts = many(100, 1)
    with fastlm.load(folder, threads=2, kv_dtype=kv_dtype) as model:
        alone = [model.embed(text) for text in texts[:5]]
        model.embed(texts)
        assert all(np.array_equal(model.embed(text), vector) for text, vector in zip(texts, alone, strict=False))


@pytest.mark.parametrize("counted", [True, False])
def test_progress(folder: Path, counted: bool) -> None:
    """After each part, of how many if that is known; what cannot be called is refused before anything runs."""
    n = READ_AT_ONCE + 5
    texts, total, seen = ["the"] * n, n if counted else None, []
    with fastlm.load(folder, threads=2) as model:
        model.embed(texts if counted else iter(texts), progress=lambda *done: seen.append(done))
        assert seen == [(READ_AT_ONCE, total), (n, total)]
        with pytest.raises(ParameterError, match="progress must be a function"):
            model.embed(texts, progress=5)  # type: ignore[arg-type]
    with pytest.raises(ParameterError, match="progress must be a function, True or False, not 5"):
        fastlm.load(folder, progress=5)  # type: ignore[arg-type]


def test_threads_take_whole_texts(folder: Path) -> None:
    """Each of two threads runs steps of its own, and all tokens are counted; tiles of AMX want larger steps."""
    texts = many(400, 2)
    with fastlm.load(folder, threads=2) as model:
        tokens = sum(len(model.tokenizer.encode(text)) for text in texts)
        before = model.engine.context.counters()
        model.embed(texts)
        after, tiles = model.engine.context.counters(), model.engine.context.isa == "amx"
    assert after["tokens"] - before["tokens"] == tokens
    steps = after["forwards"] - before["forwards"]
    assert tokens / (4096 if tiles else 128) <= steps < len(texts), "several texts share a step"
    assert sum(after["tiles"]) > sum(before["tiles"])


def test_heads_for_tokens_and_sequences(folder: Path, tmp_path: Path) -> None:
    classes = save_bert(tmp_path / "classes", "BertForSequenceClassification", LABELS)
    texts = many(150, 3)
    with fastlm.load(classes, threads=2) as model:
        found = model.classify(texts)
        assert found == [model.classify([text])[0] for text in texts]
        vectors = model.embed(texts, pooling="last", normalize=False)
        for text, vector in zip(texts, vectors, strict=True):
            assert np.array_equal(vector, model.forward(ids_of(text)).hidden[-1])


def test_an_iterator_is_read_as_far_as_it_is_run(folder: Path) -> None:
    taken = 0

    def texts() -> Iterator[str]:
        nonlocal taken
        for text in many(2 * READ_AT_ONCE + 10, 4):
            taken += 1
            yield text

    seen: list[tuple[int, int | None, int]] = []
    with fastlm.load(folder, threads=2) as model:
        found = model.embed(texts(), progress=lambda done, total: seen.append((done, total, taken)))
        assert np.array_equal(found, model.embed(many(2 * READ_AT_ONCE + 10, 4)))
    ends = (READ_AT_ONCE, 2 * READ_AT_ONCE, 2 * READ_AT_ONCE + 10)
    assert seen == [(end, None, end) for end in ends]


def test_memory_does_not_grow_with_the_texts(folder: Path) -> None:
    with fastlm.load(folder, threads=2) as model:
        model.embed(many(300, 5))
        before = model.memory()["scratch_bytes"]
        model.embed(many(3000, 6))
        assert model.memory()["scratch_bytes"] == before


class Flag:
    """Set when it is asked for the n-th time."""

    def __init__(self, n: int) -> None:
        self.left = n

    def is_set(self) -> bool:
        self.left -= 1
        return self.left <= 0


def packed(texts: list[str], width: int) -> _core.Texts:
    ids = [ids_of(text) for text in texts]
    ends = np.cumsum([len(each) for each in ids])
    found = np.zeros((len(texts), width), np.float32)
    return _core.Texts(np.concatenate(ids).astype(np.int32), ends, np.arange(len(texts)), "mean", logits=found)


def test_cancelling_leaves_the_model_as_it_was(folder: Path) -> None:
    texts = many(20000, 7)
    with fastlm.load(folder, threads=2) as model:
        core, context = model.engine.core, model.engine.context
        wanted = packed(texts[:100], 32)
        _core.read_texts(core, wanted)
        before = context.counters()["tokens"]
        with pytest.raises(Cancelled):
            _core.read_texts(core, packed(texts, 32), Flag(3))
        assert context.counters()["tokens"] - before < sum(len(ids_of(text)) for text in texts)
        again = packed(texts[:100], 32)
        _core.read_texts(core, again)
        assert np.array_equal(again.logits, wanted.logits)


def test_a_decoder_needs_sessions(folder: Path) -> None:
    ids = np.array([2, 5, 3], np.int32)
    _, decoder = build(plain_spec(), threads=1)
    with pytest.raises(ParameterError, match="session is of another model, or NULL and it has a decoder"):
        _core.forward(decoder, [_core.Item(None, ids, rows="none")])
    with fastlm.load(folder) as model:
        hidden = [np.empty((3, 32), np.float32) for _ in range(2)]
        for session, to in zip((None, model.engine.core.session()), hidden, strict=True):
            _core.forward(model.engine.core, [_core.Item(session, ids, rows="none", hidden=to)])
        assert np.array_equal(*hidden)


def test_arrays_of_a_wrong_size_are_refused(folder: Path) -> None:
    with fastlm.load(folder) as model:
        texts = packed(many(3), 32)
        with pytest.raises(ParameterError, match="logits has room for 64 values, not 96"):
            _core.read_texts(model.engine.core, texts._replace(logits=np.empty((2, 32), np.float32)))
