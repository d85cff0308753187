"""A tokenizer.json that nobody vouches for: each fault is a typed error that names its place."""

from __future__ import annotations

import base64
import copy
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support import ROOT
from tokenizer_parts import precompiled

import fastlm
from fastlm.errors import ModelFormatError, ModelMemoryError, ParameterError
from fastlm.tokenizer.load import load_tokenizer
from fastlm.tokenizer.tokenizer import Tokenizer
from fastlm.weights.folder import CheckpointFolder

sys.path.insert(0, str(ROOT / "tests" / "fuzz"))

import fuzz_tokenizer
from fuzz_tokenizer import BPE, BYTES, REPLACE, SPACE, TEMPLATE, base

Json = dict[str, Any]
Change = Callable[[Json], object]


def load(folder: Path, whole: Json) -> Tokenizer:
    (folder / "tokenizer.json").write_text(json.dumps(whole))
    found = load_tokenizer(CheckpointFolder(folder))
    assert found is not None
    return found


def whole(**stages: Any) -> Json:
    return copy.deepcopy(base(BPE, **stages))


def model(**fields: Any) -> Json:
    found = whole()
    found["model"].update(fields)
    return found


def split(pattern: str) -> Json:
    part = {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}
    return whole(pre_tokenizer=part)


def sequence(stage: str, members: str, *parts: Json) -> Json:
    return whole(**{stage: {"type": "Sequence", members: list(parts)}})


def template(**fields: Any) -> Json:
    return whole(post_processor={**copy.deepcopy(TEMPLATE), **fields})


def word_piece(**fields: Any) -> Json:
    piece = {"type": "WordPiece", "unk_token": "a", "continuing_subword_prefix": "##", "max_input_chars_per_word": 100}
    return base({**piece, "vocab": {"a": 0, "##a": 1}, **fields})


def unigram(**fields: Any) -> Json:
    return base({"type": "Unigram", "unk_id": 0, "vocab": [["<unk>", 0.0], ["a", -1.0]], **fields})


def charsmap(data: bytes) -> Json:
    return whole(normalizer={"type": "Precompiled", "precompiled_charsmap": base64.b64encode(data).decode()})


GOOD_MAP = precompiled({"\ufb01": "fi"})
PIECE = {"SpecialToken": {"id": "<s>", "type_id": 0}}
TEXT = {"Sequence": {"id": "A", "type_id": 0}}
GROWING = {"type": "Replace", "pattern": {"String": "a"}, "content": "a" * 1000}
HOSTILE: dict[str, tuple[Json, str]] = {
    # the model
    "a prefix that cuts a character": (
        model(vocab={"a": 0, "\u00e9": 1, "a\u00e9": 2}, merges=["a \u00e9"], continuing_subword_prefix="x"),
        "merges.*begin with 'x'",
    ),
    "a prefix longer than a piece": (
        model(vocab={"a": 0, "b": 1, "ab": 2}, merges=["a b"], continuing_subword_prefix="#" * 10),
        "merges.*begin with",
    ),
    "a long prefix": (model(continuing_subword_prefix="#" * 100), "continuing_subword_prefix"),
    "a long suffix": (model(end_of_word_suffix="#" * 100), "end_of_word_suffix"),
    "a suffix that is a number": (model(end_of_word_suffix=5), "end_of_word_suffix"),
    "an id of 32 bits": (model(vocab={"a": 4294967295}), "vocab.*4294967295"),
    "an id beyond 64 bits": (model(vocab={"a": 1 << 70}), "vocab"),
    "a negative id": (model(vocab={"a": -1}), "vocab.*-1"),
    "a fractional id": (model(vocab={"a": 0.5}), "vocab"),
    "a piece of a million characters": (model(vocab={"a": 0, "b" * 1_000_000: 1}, merges=[]), "16,384"),
    "a long piece for a short one": (model(vocab={"<unk>": 0, "a": 1, "b" * 9000: 1}, merges=[]), "one id"),
    "a vocabulary that is a list": (model(vocab=["a"]), "vocab"),
    "a merge that makes no piece": (model(merges=["b a"]), "merge.*'ba'"),
    "a long merge that makes no piece": (model(merges=[["hello", "hello"]]), "merge.*'hellohello'"),
    "a merge of no piece": (model(vocab={"<unk>": 0, "<s>": 1, "xy": 2}, merges=["x y"]), "out of vocabulary"),
    "a merge of three": (model(merges=["a b c"]), "merge 'a b c'"),
    "a merge of three in a list": (model(merges=[["a", "b", "c"]]), "pairs of pieces"),
    "a merge of numbers": (model(merges=[[1, 2]]), "pairs of pieces"),
    "merges of two kinds": (model(merges=["a b", ["a", "b"]]), "pairs of pieces"),
    "no merges": (model(merges=None), "merges"),
    "an unknown token that is not there": (model(unk_token="zzz"), "unk_token 'zzz'"),
    "an unknown kind": (model(type="BPF"), "unknown type 'BPF'"),
    "a model that is a list": ({**whole(), "model": []}, "model must be"),
    "a flag that is a number": (model(byte_fallback=1), "byte_fallback"),
    "words without end": (word_piece(max_input_chars_per_word=2**64 - 1), "max_input_chars_per_word"),
    "words of a negative length": (word_piece(max_input_chars_per_word=-1), "max_input_chars_per_word"),
    "no unknown word": (word_piece(unk_token="b"), "unknown token 'b'"),
    "no prefix": (word_piece(continuing_subword_prefix=None), "continuing_subword_prefix"),
    "a long unknown word": (word_piece(unk_token="b" * 3000), "unk_token"),
    "an unknown piece beyond": (unigram(unk_id=2), "unk_id"),
    "an infinite score": (unigram(vocab=[["<unk>", 0], ["a", float("1e308") * 10]]), "vocab|JSON"),
    "a score of 400 digits": (unigram(vocab=[["<unk>", 10**400]]), "vocab|JSON"),
    "pieces without scores": (unigram(vocab=["a"]), "vocab"),
    "a piece as deep as the stack": (unigram(vocab=[["<unk>", 0], ["a" * 100_000, 0]]), "over 256 characters"),
    "a piece that makes each place long": (unigram(vocab=[["<unk>", 0], ["a" * 257, 0]]), "over 256 characters"),
    # regular expressions
    "a regular expression that runs away": (split("(a+)+$"), "run away"),
    "another": (split("(a|a)*b"), "run away"),
    "one of the fourth power": (split("a*a*a*b"), "run away"),
    "one that is malformed": (split("("), "lacks a"),
    "one in a normalizer": (whole(normalizer={**REPLACE, "pattern": {"Regex": "(x*)*y"}}), "normalizer.*run away"),
    "one in a decoder": (whole(decoder={**REPLACE, "pattern": {"Regex": "(x*)*y"}}), "decoder.*run away"),
    "patterns that are long together": (
        sequence(
            "pre_tokenizer", "pretokenizers", *[split("[\\p{L}]" * 200 + str(i))["pre_tokenizer"] for i in range(9)]
        ),
        r"pre_tokenizer\[3\]: pattern: .* 5,000 characters together",
    ),
    "loops along a text that has grown": (
        sequence(
            "normalizer",
            "normalizers",
            {**REPLACE, "pattern": {"String": "a"}, "content": "a" * 100},
            {**REPLACE, "pattern": {"Regex": r"a*(?:b|\d)"}},
        ),
        r"normalizer\[1\]: pattern: .* 40,000 steps",
    ),
    "added tokens with loops": (
        {
            **whole(normalizer={**REPLACE, "pattern": {"Regex": r"a*(?:b|\d)"}}),
            "added_tokens": [{"id": 20, "content": "a" * 4000, "normalized": True}],
        },
        "1 normalized added tokens take too much work",
    ),
    "added tokens that grow": (
        {
            **whole(normalizer={**REPLACE, "pattern": {"String": "a"}, "content": "b" * 200}),
            "added_tokens": [{"id": 20 + i, "content": "a" * 4000 + str(i), "normalized": True} for i in range(70)],
        },
        "70 normalized added tokens take too much work",
    ),
    # growth
    "a text a billion times as long": (sequence("normalizer", "normalizers", *[GROWING] * 4), "1,000,000,000,000"),
    "one between all characters": (
        whole(normalizer={**REPLACE, "pattern": {"String": ""}, "content": "b" * 999}),
        "of one",
    ),
    "one before each part": (whole(normalizer={"type": "Prepend", "prepend": "b" * 999}), "of one"),
    "bytes of bytes of bytes": (sequence("pre_tokenizer", "pretokenizers", *[BYTES] * 20), "of one"),
    "a decoder that does": (sequence("decoder", "decoders", *[GROWING] * 4), "decoder: could make"),
    "a map that does": (
        sequence("normalizer", "normalizers", *[charsmap(precompiled({"a": "b" * 50}))["normalizer"]] * 3),
        "of one",
    ),
    "many parts": (sequence("normalizer", "normalizers", *[{"type": "NFC"}] * 100), "over 64 parts"),
    # parts
    "an unknown part": (whole(normalizer={"type": "NFX"}), "unknown type 'NFX'"),
    "a part without a type": (whole(pre_tokenizer={}), "object with a type"),
    "a part that is a text": (whole(decoder="ByteLevel"), "object with a type"),
    "a part of a part": (
        sequence("normalizer", "normalizers", {"type": "Strip"}),
        r"normalizer\[0\] .Strip.: strip_left",
    ),
    "an unknown scheme": (whole(pre_tokenizer={**SPACE, "prepend_scheme": "now"}), "prepend_scheme"),
    "a replacement of two characters": (whole(decoder={**SPACE, "replacement": "ab"}), "replacement must be one"),
    "pieces of no length": (whole(pre_tokenizer={"type": "FixedLength", "length": 0}), "length"),
    "an unknown behavior": (whole(pre_tokenizer={"type": "Punctuation", "behavior": "Lost"}), "behavior"),
    "a pattern of no kind": (whole(normalizer={**REPLACE, "pattern": "a"}), "pattern"),
    "an end that texts are too short for": (
        whole(decoder={"type": "Strip", "content": "a", "start": 0, "stop": 5}),
        "stop must be 0",
    ),
    # post-processors
    "an id that no token has": (
        whole(post_processor={"type": "BertProcessing", "sep": ["x", 99], "cls": ["y", 0]}),
        "sep: 99",
    ),
    "an id of 33 bits": (
        whole(post_processor={"type": "BertProcessing", "sep": ["x", 1 << 33], "cls": ["y", 0]}),
        "sep",
    ),
    "a template's id": (template(special_tokens={"<s>": {"id": "<s>", "ids": [99], "tokens": ["<s>"]}}), "99"),
    "ids without tokens": (template(special_tokens={"<s>": {"id": "<s>", "ids": [1], "tokens": []}}), "as many tokens"),
    "a token that the template lacks": (
        template(single=[{"SpecialToken": {"id": "?", "type_id": 0}}, TEXT]),
        r"single\[0\]",
    ),
    "a text twice": (template(single=[TEXT, TEXT]), r"single\[1\]"),
    "a second text alone": (template(single=[{"Sequence": {"id": "B", "type_id": 0}}]), "second sequence"),
    "a piece of no kind": (template(single=[{"Sentence": {"id": "A", "type_id": 0}}]), r"single\[0\]"),
    "very many tokens": (template(single=[TEXT, *[PIECE] * 2000]), "adds 2,000"),
    "templates of templates": (sequence("post_processor", "processors", TEMPLATE, TEMPLATE), "may follow a template"),
    # character maps
    "a map that is no base64": (whole(normalizer={"type": "Precompiled", "precompiled_charsmap": "??"}), "base64"),
    "an empty map": (charsmap(b""), "no whole trie"),
    "a trie of 4 GB": (charsmap(b"\xff" * 4 + GOOD_MAP[4:]), "no whole trie"),
    "a trie that leads out": (charsmap(GOOD_MAP[:4] + b"\xff\xff\xff\x7f" + GOOD_MAP[8:]), "out of itself"),
    "a value beyond the texts": (charsmap(precompiled({"a": "fi", "x": "y"})[:-5]), "no replacement"),
    "replacements that are no text": (charsmap(GOOD_MAP.replace(b"fi\0", b"\xff\0\0")), "UTF-8"),
    # the rest
    "a padding that is no text": ({**whole(), "padding": {"pad_token": 5}}, "padding"),
    "another version": ({**whole(), "version": "2.0"}, "version"),
    "added tokens that are an object": ({**whole(), "added_tokens": {"a": 0}}, "added_tokens"),
    "an added token without an id": ({**whole(), "added_tokens": [{"content": "a", "special": True}]}, "id of 'a'"),
    "an added token that is a number": ({**whole(), "added_tokens": [{"id": 0, "content": 5}]}, "content"),
}


@pytest.mark.parametrize(("content", "words"), HOSTILE.values(), ids=HOSTILE)
def test_what_a_file_can_say(tmp_path: Path, capfd: pytest.CaptureFixture[str], content: Json, words: str) -> None:
    with pytest.raises(ModelFormatError, match=words) as caught:
        load(tmp_path, content)
    text = str(caught.value)
    assert text.startswith(str(tmp_path / "tokenizer.json")) and text.count("tokenizer.json") == 1 and len(text) < 500
    assert capfd.readouterr().err == ""  # the library did not panic


def test_good_neighbours_of_them(tmp_path: Path) -> None:
    """What looks alike but is right still loads."""
    for content in (
        model(
            vocab={"<unk>": 0, "<s>": 1, "a": 2, "##b": 3, "ab": 4}, merges=["a ##b"], continuing_subword_prefix="##"
        ),
        model(merges=[["a", "b"]]),
        model(vocab={"<unk>": 0, "<s>": 1, "a": 1000}, merges=[]),
        {**model(unk_token="zzz"), "pre_tokenizer": BYTES},
        word_piece(max_input_chars_per_word=1000),
        charsmap(GOOD_MAP),
        template(single=[PIECE, TEXT, PIECE]),
        sequence("post_processor", "processors", BYTES, TEMPLATE),
        sequence("normalizer", "normalizers", {"type": "Prepend", "prepend": "\u2581"}, REPLACE),
    ):
        assert load(tmp_path, content).encode("a b") is not None


def test_models_without_a_type(tmp_path: Path) -> None:
    """Old files: the library told the kinds apart by their fields."""
    for content in (whole(), word_piece(), unigram(), base({"type": "WordLevel", "unk_token": "a", "vocab": {"a": 0}})):
        typed = load(tmp_path, content).encode("a b")
        del content["model"]["type"]
        assert load(tmp_path, content).encode("a b") == typed


def test_dropout_is_for_training(tmp_path: Path) -> None:
    assert load(tmp_path, model(dropout=0.9)).encode("ab" * 40) == load(tmp_path, whole()).encode("ab" * 40)


def test_an_unknown_word_of_a_vocabulary_without_one(tmp_path: Path) -> None:
    tokenizer = load(tmp_path, base({"type": "WordLevel", "unk_token": "<unk>", "vocab": {"a": 0}}))
    assert tokenizer.encode("a") == [0]
    with pytest.raises(ParameterError, match="cannot encode"):
        load(tmp_path, unigram(unk_id=None, vocab=[["a", 0.0]])).encode("b")


class PanicException(BaseException):
    """As the library's, which cannot be imported."""


@pytest.mark.parametrize(
    ("raised", "expected"),
    [
        (PanicException("index out of bounds"), ParameterError),
        (Exception("unk"), ParameterError),
        (Exception(""), ModelMemoryError),
        (MemoryError(), ModelMemoryError),
        (OverflowError("too large"), ParameterError),
        (KeyboardInterrupt(), KeyboardInterrupt),
    ],
)
def test_what_the_library_raises_is_typed(tmp_path: Path, raised: BaseException, expected: type[BaseException]) -> None:
    tokenizer = load(tmp_path, whole())

    class Broken:
        def encode(self, *args: object, **kwargs: object) -> None:
            raise raised

    good, tokenizer._library = tokenizer._library, Broken()  # type: ignore[assignment]
    with pytest.raises(expected):
        tokenizer.encode("a")
    tokenizer._library = good
    assert tokenizer.encode("ab", special=False)


@pytest.mark.parametrize("ids", [[-1], [1 << 32], [1 << 70], ["a"], [0.5], 5, "ab", None, {0: 1}])
def test_decode_takes_token_ids(tmp_path: Path, ids: Any) -> None:
    with pytest.raises(ParameterError, match="ids"):
        load(tmp_path, whole()).decode(ids)


@pytest.mark.parametrize("token", [-1, 1 << 32, "x", None, 1.5, True])
def test_a_piece_is_of_a_token_id(tmp_path: Path, token: Any) -> None:
    tokenizer = load(tmp_path, whole(pre_tokenizer=BYTES, decoder=BYTES))
    assert tokenizer.prints_by_table and tokenizer.piece(2)
    with pytest.raises(ParameterError, match="token"):
        tokenizer.piece(token)


def test_mutations() -> None:
    """Some of what `python tests/fuzz/fuzz_tokenizer.py 100000` runs, in a process of its own."""
    assert "500 files" in fuzz_tokenizer.runs(500, 1)


def test_ids_of_a_text_are_checked(tmp_path: Path, stories: Path) -> None:
    """A tokenizer that makes ids beyond the model's rows: an error of the call, which can be made again."""
    for file in stories.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    content = json.loads((stories / "tokenizer.json").read_text())
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    content["added_tokens"].append({"id": 3072, "content": "<image>", "special": True, **flags})
    (tmp_path / "tokenizer.json").write_text(json.dumps(content))
    plain, loaded = fastlm.load(stories, threads=1), fastlm.load(tmp_path, threads=1)
    with pytest.raises(ParameterError, match=r"token 3072.*'<image>'"):
        loaded.generate("Once <image> upon", max_tokens=3)
    assert loaded.generate("Once", max_tokens=3).text == plain.generate("Once", max_tokens=3).text
