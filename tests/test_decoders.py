"""Text token by token where the decoder is no table of pieces: it adds up to what the library decodes."""

from __future__ import annotations

import json
import random
import threading
from collections.abc import Callable
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any

import pytest
import tokenizers
from models import Shape, save_llama
from tokenizers import AddedToken, decoders, models, normalizers, pre_tokenizers

import fastlm
from fastlm.errors import ParameterError
from fastlm.tokenizer import streaming
from fastlm.tokenizer.components import parts_of
from fastlm.tokenizer.streaming import make_pipeline
from fastlm.tokenizer.tokenizer import SHORT_TEXT, Tokenizer

PIECES = [
    *("[PAD]", "[UNK]", "[CLS]", "[SEP]", "the", "cat", "##s", "sat", ".", ",", "'", "n't", "'s", "do", "not", "un"),
    *("##known", "a</w>", "b</w>", "ab", "\u2581a", "\u2581", "\u2581\u2581x", "<0xE4>", "<0xB8>", "<0xAD>", "<0x41>"),
    *("\u4e2d", "\U0001f600", " ", "|", "\u0120the", "\u00e4", "\u00b8", "\u0143", "x y", "aa", "aaa", "\u00e9"),
]
FUSE, FALLBACK = decoders.Fuse(), decoders.ByteFallback()
REPLACE = decoders.Replace("\u2581", " ")
DECODERS: dict[str, Any] = {
    "none": None,
    "word pieces": decoders.WordPiece(),
    "word pieces as they are": decoders.WordPiece(cleanup=False),
    "word pieces of another prefix": decoders.WordPiece("a"),
    "ends of words": decoders.BPEDecoder(),
    "other ends of words": decoders.BPEDecoder("a"),
    "ctc": decoders.CTC("[PAD]", "|"),
    "ctc as it is": decoders.CTC("a", "|", cleanup=False),
    "metaspace": decoders.Metaspace(),
    "metaspace without a first space": decoders.Metaspace(prepend_scheme="never"),
    "bytes": decoders.ByteLevel(),
    "byte pieces": FALLBACK,
    "one text": FUSE,
    "sentencepiece": decoders.Sequence([REPLACE, FALLBACK, FUSE, decoders.Strip(" ", 1, 0)]),
    "spaces of each piece": decoders.Sequence([REPLACE, decoders.Strip(" ", 1, 0), FALLBACK]),
    "many spaces": decoders.Sequence([REPLACE, FUSE, decoders.Strip(" ", 3, 0)]),
    "replaced in the text": decoders.Sequence([FUSE, decoders.Replace("aa", "b"), decoders.Replace("b ", "c")]),
    "replaced by a pattern": decoders.Sequence([decoders.Replace(tokenizers.Regex("[ab]+"), "-"), FUSE]),
    "replaced by a pattern in the text": decoders.Sequence([FUSE, decoders.Replace(tokenizers.Regex("a+ ?"), "-")]),
    "bytes, replaced": decoders.Sequence(
        [decoders.ByteLevel(), decoders.Replace("the", "a"), decoders.Replace("a", "")]
    ),
    "word pieces, replaced": decoders.Sequence([decoders.WordPiece(), decoders.Replace(" ", "_"), FUSE]),
    "words of one text": decoders.Sequence([FUSE, decoders.WordPiece()]),
    "nothing": decoders.Sequence([]),
}


def streamed(pipeline: Any, pieces: list[str]) -> tuple[str, list[str]]:
    shown = [pipeline.push([piece]) for piece in pieces]
    return "".join([*shown, pipeline.end()]), shown


@pytest.mark.parametrize("decoder", DECODERS.values(), ids=DECODERS)
def test_as_the_library(decoder: Any) -> None:
    draw = random.Random(0)
    state = None if decoder is None else json.loads(decoder.__getstate__())
    parts = parts_of("decoder", state) or ([{"type": "Fuse"}] if state else [])
    for _ in range(400):
        pieces = draw.choices(PIECES, k=draw.randrange(1, 30))
        expected = " ".join(pieces) if decoder is None else decoder.decode(pieces)
        text, shown = streamed(make_pipeline(parts, [], False), pieces)
        assert text == expected, pieces
        for part in shown:
            part.encode("utf-8")
        for old, new in streaming.CLEAN_UP:
            expected = expected.replace(old, new)
        assert streamed(make_pipeline(parts, streaming.CLEAN_UP, True), pieces)[0] == expected.strip(), pieces


def word_pieces(folder: Path, decoder: Any, config: dict[str, Any] | None = None) -> fastlm.Model:
    """A model with random weights that writes PIECES."""
    library = tokenizers.Tokenizer(models.WordPiece({p: i for i, p in enumerate(PIECES)}, unk_token="[UNK]"))
    library.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    if decoder is not None:
        library.decoder = decoder
    library.add_special_tokens([AddedToken(p, special=True) for p in PIECES[:4]])
    save_llama(folder, Shape(vocab=len(PIECES)))
    library.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps(config or {}))
    return fastlm.load(folder, threads=1)


def ends(turns: list[fastlm.Completion]) -> list[int]:
    """Tokens written after each turn."""
    return list(accumulate(len(turn.token_ids) for turn in turns))


STREAMED = [
    "none",
    "word pieces",
    "ends of words",
    "ctc",
    "replaced in the text",
    "bytes, replaced",
    "many spaces",
    "replaced by a pattern in the text",
]


@pytest.mark.parametrize("name", ["word pieces", "replaced in the text", "many spaces"])
def test_texts_of_beams_after_a_prompt(tmp_path: Path, name: str) -> None:
    model = word_pieces(tmp_path, DECODERS[name])
    assert model.tokenizer is not None and not model.tokenizer.prints_by_table
    before, exact = model.tokenizer.decode([4, 5, 6]), 0
    best = model.generate([4, 5, 6], num_beams=6, n=6, max_tokens=9)
    for text in (best, *best.alternatives):
        whole = model.tokenizer.decode([4, 5, 6, *text.token_ids])
        exact += whole.startswith(before)
        assert before + text.text == whole or not whole.startswith(before)
    assert exact


@pytest.mark.parametrize("name", STREAMED)
@pytest.mark.parametrize("tidy", [False, True])
def test_text_after_a_prompt(tmp_path: Path, name: str, tidy: bool) -> None:
    """What is written begins as it does after the prompt, in one call, in a stream, in turns, and on forks."""
    model = word_pieces(tmp_path, DECODERS[name], {"clean_up_tokenization_spaces": tidy})
    assert model.tokenizer is not None and not model.tokenizer.prints_by_table
    prompt, exact = [4, 5, 6], 0
    for seed in range(12):
        params: dict[str, Any] = {"max_tokens": 24, "temperature": 2.0, "seed": seed}
        done = model.generate(prompt, **params)
        whole = model.tokenizer.decode([*prompt, *done.token_ids])
        chunks = list(model.stream(prompt, **params))
        assert "".join(c.text for c in chunks) == done.text
        if whole.startswith(model.tokenizer.decode(prompt)):
            assert model.tokenizer.decode(prompt) + done.text == whole
            exact += 1
        with model.session() as session:
            turns = [session.generate(prompt, max_tokens=3, temperature=2.0, seed=seed)]
            turns += [session.generate(max_tokens=3, temperature=2.0, seed=seed + i) for i in range(5)]
            written = [i for turn in turns for i in turn.token_ids]
            texts = [model.tokenizer.decode([*prompt, *written[:n]]) for n in ends(turns)]
            if all(b.startswith(a) for a, b in pairwise([model.tokenizer.decode(prompt), *texts])):
                shown = "".join(turn.text for turn in turns)
                assert model.tokenizer.decode(prompt) + shown == texts[-1]
    assert exact > 6


def test_echo(tmp_path: Path) -> None:
    model = word_pieces(tmp_path, decoders.WordPiece())
    assert model.tokenizer is not None
    done = model.generate("the cats", max_tokens=9, echo=True)
    assert done.text == model.tokenizer.decode([4, 5, 6, *done.token_ids])


def test_each_token_is_looked_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = word_pieces(tmp_path, decoders.WordPiece())
    seen: list[int] = []
    piece_of = Tokenizer.piece_of

    def counted(self: Tokenizer, token: int) -> str | None:
        seen.append(token)
        return piece_of(self, token)

    def never(*args: object, **kwargs: object) -> str:
        raise AssertionError("decoded from the beginning")

    monkeypatch.setattr(Tokenizer, "piece_of", counted)
    monkeypatch.setattr(Tokenizer, "decode", never)
    chunks = list(model.stream([4, 5], max_tokens=300, temperature=2.0, seed=1, stop="never written"))
    written = [i for chunk in chunks for i in chunk.token_ids]
    assert len(written) == 300 and seen == [4, 5, *written]


@pytest.mark.parametrize("stop", [" .", "cat", " the", "s ,", "'s", "a</w>", "\u4e2d"])
def test_stop_strings(tmp_path: Path, stop: str) -> None:
    """The text ends before the first of them; the tokens are those up to it."""
    model = word_pieces(tmp_path, decoders.WordPiece(cleanup=False))
    assert model.tokenizer is not None
    stopped = 0
    for seed in range(40):
        params: dict[str, Any] = {"max_tokens": 40, "temperature": 2.0, "seed": seed, "logprobs": 0}
        free, done = model.generate([4], **params), model.generate([4], stop=stop, **params)
        at = free.text.find(stop)
        assert done.text == (free.text if at < 0 else free.text[:at])
        assert free.token_ids[: len(done.token_ids)] == done.token_ids
        assert done.logprobs is not None and len(done.logprobs) == len(done.token_ids)
        if at >= 0:
            stopped += 1
            assert done.finish_reason == "stop"
            before = model.tokenizer.decode([4, *done.token_ids[:-1]])[3:]
            assert stop not in before and stop in model.tokenizer.decode([4, *done.token_ids])
    assert stopped > 1


def byte_model(folder: Path, **changes: Any) -> fastlm.Model:
    """Bytes, and the special tokens <s>, </s> and <|im_end|> after them."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    library = tokenizers.Tokenizer(models.BPE(vocab={c: i for i, c in enumerate(alphabet)}, merges=[]))
    library.pre_tokenizer, library.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    library.add_special_tokens([AddedToken(s, special=True, normalized=False) for s in ("<s>", "</s>", "<|im_end|>")])
    save_llama(folder, Shape(vocab=259))
    library.save(str(folder / "tokenizer.json"))
    return fastlm.load(folder, threads=1)


Make = Callable[[Path], fastlm.Model]


@pytest.mark.parametrize("make", [byte_model, lambda folder: word_pieces(folder, decoders.WordPiece())])
def test_a_special_token_as_stop_string(tmp_path: Path, make: Make) -> None:
    """It prints nothing, so that no text ends with it: the token itself stops."""
    model = make(tmp_path)
    assert model.tokenizer is not None
    special = "<|im_end|>" if model.vocab == 259 else "[SEP]"
    token = model.tokenizer.encode(special, special=False)[0]
    for seed in range(8):
        params: dict[str, Any] = {"max_tokens": 30, "temperature": 1.0, "seed": seed, "logit_bias": {token: 3.0}}
        by_id = model.generate([1, 2], stop_token_ids=[token], **params)
        for stop in (special, ["never", special]):
            done = model.generate([1, 2], stop=stop, **params)
            assert (done.text, done.token_ids, done.finish_reason) == (by_id.text, by_id.token_ids, by_id.finish_reason)
    with pytest.raises(ParameterError, match=rf"stop_token_ids=\[{token}\]"):
        model.generate([1], stop=f"user {special}", max_tokens=2)


def test_added_tokens_go_through_the_decoder(tmp_path: Path) -> None:
    """Gemma's runs of spaces are added tokens of U+2581; a normalized token prints as the normalizer left it."""
    vocab = {piece: i for i, piece in enumerate(["<pad>", "<eos>", "<unk>", "if", "x"])}
    library = tokenizers.Tokenizer(models.BPE(vocab=vocab, merges=[], unk_token="<unk>"))
    library.normalizer = normalizers.Sequence([normalizers.Replace(" ", "\u2581"), normalizers.Lowercase()])
    library.decoder = decoders.Sequence([REPLACE, FALLBACK, FUSE])
    library.add_special_tokens([AddedToken(s, special=True, normalized=False) for s in ("<pad>", "<eos>", "<unk>")])
    library.add_tokens([AddedToken("\u2581" * 4, normalized=False), AddedToken("Upper", normalized=True)])
    save_llama(tmp_path, Shape(vocab=7))
    library.save(str(tmp_path / "tokenizer.json"))
    model = fastlm.load(tmp_path, threads=1)
    assert model.tokenizer is not None and model.tokenizer.prints_by_table
    for seed in range(20):
        done = model.generate([3], max_tokens=30, temperature=2.0, seed=seed, ignore_eos=True)
        assert done.text == model.tokenizer.decode(done.token_ids)
    assert model.tokenizer.decode([3, 5, 4, 6]) == "if    xupper"


def test_long_texts_let_other_threads_run(tmp_path: Path) -> None:
    """While a long text is encoded or decoded, another thread goes on: the interpreter's lock is free."""
    model = byte_model(tmp_path)
    assert model.tokenizer is not None
    text = "Once upon a time. " * 20_000
    counted, ended = 0, threading.Event()

    def count() -> None:
        nonlocal counted
        while not ended.wait(0.0005):
            counted += 1

    thread = threading.Thread(target=count)
    thread.start()
    try:
        start = counted
        ids = model.tokenizer.encode(text)
        during = counted - start
    finally:
        ended.set()
        thread.join()
    assert len(ids) == len(text) > SHORT_TEXT and during > 10
    assert model.tokenizer.decode(ids) == text
    assert model.tokenizer.encode(text[:SHORT_TEXT]) == ids[:SHORT_TEXT]
