"""Streams of whole code points that add up to the text, whatever bytes the tokens are."""

from __future__ import annotations

import codecs
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from models import TINY, add_byte_tokenizer, byte_shape, save_llama

import fastlm

SEEDS = range(60)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> fastlm.Model:
    """Tokens are bytes, and 256 the end."""
    return fastlm.load(add_byte_tokenizer(save_llama(tmp_path_factory.mktemp("bytes"), byte_shape(end=True)), end=True))


@pytest.fixture(scope="module")
def ids_of_bytes(model: fastlm.Model) -> dict[int, int]:
    assert model.tokenizer is not None and model.tokenizer.table is not None
    return {piece[0]: i for i, piece in enumerate(model.tokenizer.table.pieces[:256])}


def whole(chunks: Iterable[fastlm.Chunk]) -> tuple[str, list[int], str | None]:
    """What the chunks add up to, after a look at each."""
    seen = list(chunks)
    for chunk in seen:
        chunk.text.encode("utf-8")  # no half of a surrogate pair either
        assert chunk.text or chunk.token_ids or chunk.finish_reason, "an empty chunk"
    assert [c.finish_reason for c in seen[:-1]] == [None] * (len(seen) - 1)
    return "".join(c.text for c in seen), [i for c in seen for i in c.token_ids], seen[-1].finish_reason


def check(model: fastlm.Model, prompt: Any, **params: Any) -> fastlm.Completion:
    """The stream and the completion agree; returns the completion."""
    done = model.generate(prompt, **params)
    assert whole(model.stream(prompt, **params)) == (done.text, done.token_ids, done.finish_reason)
    return done


def decoded(model: fastlm.Model, ids: list[int]) -> str:
    """The tokenizers library's own text."""
    assert model.tokenizer is not None
    return model.tokenizer.decode(ids)


def test_random_bytes(model: fastlm.Model) -> None:
    found = [check(model, [65, seed], max_tokens=80, temperature=1.5, seed=seed) for seed in SEEDS]
    texts = [done.text for done in found]
    assert texts == [decoded(model, done.token_ids) for done in found]
    assert sum("\ufffd" in text for text in texts) > 50 and len(set(texts)) > 50


@pytest.mark.parametrize(
    "language", ["\u00e9\u00df", "\u6f22\u5b57\u4eee", "\U0001f600\U0001f680", "a\u0301\u200d\U0001f468"]
)
def test_bytes_of_long_characters(model: fastlm.Model, ids_of_bytes: dict[int, int], language: str) -> None:
    """Only the bytes of these characters are written, so that cut and overlong sequences of every kind come up."""
    wanted = {ids_of_bytes[b] for b in language.encode()}
    bias = {i: -1e9 for i in range(257) if i not in wanted}
    found = [check(model, [1], max_tokens=60, temperature=1.5, seed=s, logit_bias=bias) for s in SEEDS]
    texts = [done.text for done in found]
    assert texts == [decoded(model, done.token_ids) for done in found]
    assert any(character in text for text in texts for character in language)


def test_a_text_that_ends_within_a_character(model: fastlm.Model, ids_of_bytes: dict[int, int]) -> None:
    first = ids_of_bytes["\U0001f600".encode()[0]]
    bias = {i: -1e9 for i in range(257) if i != first}
    assert check(model, [1], max_tokens=1, logit_bias=bias).text == "\ufffd"
    assert check(model, [1], max_tokens=3, logit_bias=bias).text == "\ufffd\ufffd\ufffd"


def test_characters_appear_as_soon_as_they_are_whole(model: fastlm.Model, ids_of_bytes: dict[int, int]) -> None:
    """Chunk by chunk what Python's incremental decoder makes of the bytes."""
    byte_of = {i: b for b, i in ids_of_bytes.items()}
    wanted = {ids_of_bytes[b] for b in "a\u00e9\u6f22\U0001f600".encode()}
    bias = {i: -1e9 for i in range(257) if i not in wanted}
    for seed in SEEDS:
        decoder = codecs.getincrementaldecoder("utf-8")("replace")
        for chunk in model.stream([1], max_tokens=40, temperature=1.5, seed=seed, logit_bias=bias):
            assert chunk.text == decoder.decode(bytes(byte_of[i] for i in chunk.token_ids), bool(chunk.finish_reason))


STOPS = [
    ["ab"],
    ["a b", "bb"],
    ["\u00e9"],
    ["\ufffd"],
    ["\ufffd\ufffd\ufffd\ufffd", "b\u00e9"],
    ["\u00e9\u00e9a", "a\u00e9a"],
]


@pytest.mark.parametrize("stop", STOPS, ids=ascii)
def test_stop_strings(model: fastlm.Model, ids_of_bytes: dict[int, int], stop: list[str]) -> None:
    """The text ends before the first of them, and no chunk showed a part of it."""
    wanted = {ids_of_bytes[b] for b in "ab \u00e9".encode()}
    bias = {i: -1e9 for i in range(257) if i not in wanted}
    stopped = 0
    for seed in SEEDS:
        params: dict[str, Any] = {"max_tokens": 30, "temperature": 1.5, "seed": seed, "logit_bias": bias}
        free = model.generate([65, seed], **params).text
        done = check(model, [65, seed], stop=stop, **params)
        found = [at for s in stop if (at := free.find(s)) >= 0]
        assert done.text == (free[: min(found)] if found else free)
        assert done.finish_reason == ("stop" if found else "length")
        stopped += bool(found)
    assert stopped > 0


def test_ends_and_echoes(model: fastlm.Model) -> None:
    bias = {256: 3.0}
    reasons = {check(model, [3], max_tokens=30, temperature=1.0, seed=s, logit_bias=bias).finish_reason for s in SEEDS}
    assert reasons == {"stop", "length"}
    done = check(model, "h\u00e9llo", max_tokens=5, echo=True)
    assert done.text.startswith("h\u00e9llo") and len(done.token_ids) == 5
    assert check(model, [1], max_tokens=0).text == ""


def test_a_stream_closed_halfway_shows_a_beginning(model: fastlm.Model) -> None:
    for seed in SEEDS:
        params: dict[str, Any] = {"max_tokens": 60, "temperature": 1.5, "seed": seed, "ignore_eos": True}
        stream = model.stream([7, seed], **params)
        seen = "".join(next(stream).text for _ in range(1 + seed % 9))
        stream.close()
        assert model.generate([7, seed], **params).text.startswith(seen)
        with pytest.raises(StopIteration):
            next(stream)


def test_a_stream_that_was_never_begun(model: fastlm.Model) -> None:
    stream = model.stream([1, 2])
    stream.close()
    assert list(stream) == []
    del stream
    assert len(model.generate([1, 2], max_tokens=2, ignore_eos=True).token_ids) == 2


# ---- tokenizers that are no table of pieces, and those with spaces of their own ----


def save_word_pieces(folder: Path) -> fastlm.Model:
    """BERT's decoder: ## joins, and spaces before marks vanish, also those that a stream has shown already."""
    from tokenizers import Tokenizer, decoders, models

    words = [
        "[UNK]",
        ".",
        ",",
        "!",
        "?",
        "'",
        "n",
        "n't",
        "'s",
        "'re",
        "do",
        "not",
        "##ing",
        "##\u00e9",
        "I",
        "'m",
        "##'",
    ]
    words += [f"w{i}" for i in range(40)] + [f"##p{i}" for i in range(99 - 40 - len(words))]
    save_llama(folder, TINY)
    library = Tokenizer(models.WordPiece({word: i for i, word in enumerate(words)}, unk_token="[UNK]"))
    library.decoder = decoders.WordPiece()
    library.save(str(folder / "tokenizer.json"))
    return fastlm.load(folder)


def test_word_pieces(tmp_path: Path) -> None:
    model = save_word_pieces(tmp_path)
    assert model.tokenizer is not None and model.tokenizer.table is None
    marks = dict.fromkeys(range(17), 3.0)
    for seed in SEEDS:
        params: dict[str, Any] = {"max_tokens": 60, "temperature": 1.5, "seed": seed, "logit_bias": marks}
        done = check(model, [20], **params)
        free = decoded(model, [20, *done.token_ids]).removeprefix(decoded(model, [20]))
        assert done.text == free  # goes on after the prompt
        stopped = check(model, [20], stop=["do not", "n't", "w7 "], **params)
        found = [at for s in ("do not", "n't", "w7 ") if (at := free.find(s)) >= 0]
        assert stopped.text == (free[: min(found)] if found else free)


def test_spaces_of_sentencepiece(tmp_path: Path) -> None:
    """One leading space of a text is dropped, at its beginning only; bytes come as pieces <0x..>."""
    from tokenizers import Tokenizer, decoders, models

    pieces = ["<unk>", *(f"<0x{b:02X}>" for b in range(256)), "\u2581", "\u2581a", "b", "\u2581\u00e9", "\u2581\u2581"]
    save_llama(tmp_path, replace(TINY, vocab=len(pieces)))
    library = Tokenizer(models.BPE(vocab={p: i for i, p in enumerate(pieces)}, merges=[], byte_fallback=True))
    steps = [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    library.decoder = decoders.Sequence(steps)
    library.save(str(tmp_path / "tokenizer.json"))
    model = fastlm.load(tmp_path)
    whole_characters = list(range(0x21, 0x7F)) + [len(pieces) - i for i in range(1, 6)]
    bias = {i: -1e9 for i in range(len(pieces)) if i not in whole_characters} | {
        len(pieces) - i: 2.0 for i in range(1, 6)
    }
    spaced = 0
    for seed in SEEDS:
        params: dict[str, Any] = {"max_tokens": 40, "temperature": 1.5, "seed": seed}
        done = check(model, [0], logit_bias=bias, **params)
        assert done.text == decoded(model, [0, *done.token_ids])[len("<unk>") :]
        spaced += done.text.startswith(" ")
        check(model, [0], **params)  # bytes of all kinds
    assert 0 < spaced < len(SEEDS)


def test_texts_of_a_real_model(stories: Path) -> None:
    model = fastlm.load(stories, threads=1)
    for prompt in ("Once upon", "The \u00e9\u6f22", ""):
        ids = [1, 2] if not prompt else model.tokenizer.encode(prompt)
        for seed in range(10):
            done = check(model, ids, max_tokens=120, min_tokens=60, temperature=1.0, seed=seed)
            assert done.text == decoded(model, ids + done.token_ids)[len(decoded(model, ids)) :] and len(done.text) > 50
