"""SentencePiece's files: the ids and the text are those of transformers (checksums in golden/tokenizers); damaged files
end in errors that name them."""

from __future__ import annotations

import json
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from tokenizer_parts import texts, write

from fastlm.errors import FastlmError, ModelFormatError, ParameterError
from fastlm.tokenizer.load import load_tokenizer, missing_tokenizer
from fastlm.tokenizer.prompts import Prompts
from fastlm.tokenizer.spm_file import read_spm
from fastlm.tokenizer.tokenizer import Tokenizer
from fastlm.weights.folder import CheckpointFolder

FOLDER = Path(__file__).with_name("golden") / "tokenizers"
NAMES = sorted(path.parent.name for path in FOLDER.glob("*/expected.npz"))
TRANSLATORS = [name for name in NAMES if name in ("m2m_100", "mbart", "mbart50", "nllb")]


def load(folder: Path) -> Tokenizer:
    found = load_tokenizer(CheckpointFolder(folder))
    assert found is not None
    return found


def checksum(value: object) -> int:
    return zlib.crc32(json.dumps(value).encode())


@pytest.mark.parametrize("name", NAMES)
def test_as_transformers(name: str) -> None:
    tokenizer = load(FOLDER / name)
    with np.load(FOLDER / name / "expected.npz") as expected:
        ids, decoded = expected["ids"], expected["texts"]
    target = FOLDER / name / "target_vocab.json"
    assert len(ids) == 2000
    for i, text in enumerate(texts(len(ids))):
        found = tokenizer.encode(text)
        assert checksum(found) == ids[i], (i, ascii(text))
        if name == "marian_two":  # what is read cannot be decoded; its pad is the last one
            found = np.random.default_rng(i).integers(0, len(json.loads(target.read_text())) - 1, 20).tolist()
        back = tokenizer.decode(found)
        assert checksum(back) == decoded[i], (i, ascii(text))
        if i < 200:
            assert streamed(tokenizer, found) == back


def streamed(tokenizer: Tokenizer, ids: list[int]) -> str:
    pipeline = tokenizer.pipeline()
    pieces = [piece for i in ids if (piece := tokenizer.piece_of(i)) is not None]
    return "".join([*(pipeline.push([piece]) for piece in pieces), pipeline.end()])


@pytest.mark.parametrize("name", TRANSLATORS)
def test_languages(name: str) -> None:
    tokenizer = load(FOLDER / name)
    prompts = Prompts(tokenizer, 1 << 20)
    with np.load(FOLDER / name / "expected.npz") as expected:
        languages = [key.removeprefix("in_") for key in expected if key.startswith("in_")]
        assert len(languages) == 2
        for language in languages:
            for i, text in enumerate(texts(len(expected[f"in_{language}"]))):
                assert checksum(prompts.ids(text, source_lang=language)) == expected[f"in_{language}"][i]
            assert prompts.target_start(language) == expected[f"to_{language}"]
    assert len({checksum(prompts.ids("The fox", source_lang=language)) for language in languages}) == 2
    with pytest.raises(ParameterError, match=rf"target_lang: 'klingon' .* known: .*{languages[0]}"):
        prompts.target_start("klingon")
    with pytest.raises(ParameterError, match=rf"source_lang: '{languages[0]}x' .* did you mean .*{languages[0]}"):
        prompts.ids("The fox", source_lang=languages[0] + "x")
    with pytest.raises(ParameterError, match="source_lang: the prompt is token ids"):
        prompts.ids([1, 2], source_lang=languages[0])


def test_other_tokenizers_have_no_languages() -> None:
    tokenizer = load(FOLDER / "t5")
    for argument, call in (("source_lang", tokenizer.encode_source), ("target_lang", None)):
        with pytest.raises(ParameterError, match=f"{argument}: this model's tokenizer has no tokens for languages"):
            call("The fox", "fr_XX") if call else tokenizer.target_start("fr_XX")  # type: ignore[operator]


@pytest.mark.parametrize("name", TRANSLATORS)
def test_a_default_language_that_is_none(name: str, tmp_path: Path) -> None:
    for file in (FOLDER / name).iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    config = json.loads((tmp_path / "tokenizer_config.json").read_text())
    for value in ("klingon", ["klingon"], 7):
        write(tmp_path, "tokenizer_config.json", {**config, "src_lang": value})
        with pytest.raises(ModelFormatError, match=r"tokenizer_config\.json: src_lang: .* is no language"):
            load(tmp_path)


# ---- files that nobody vouches for -----------------------------------------------------------------


def field(number: int, kind: int, value: bytes) -> bytes:
    return varint(number << 3 | kind) + value


def varint(value: int) -> bytes:
    found = bytearray()
    while value > 127:
        found.append(value & 127 | 128)
        value >>= 7
    return bytes([*found, value])


def sized(number: int, content: bytes) -> bytes:
    return field(number, 2, varint(len(content)) + content)


def piece(text: bytes, score: float = -1.0, kind: int = 1) -> bytes:
    return sized(1, sized(1, text) + field(2, 5, struct.pack("<f", score)) + field(3, 0, varint(kind)))


def model(*pieces: bytes, trainer: bytes = b"", more: bytes = b"") -> bytes:
    return b"".join(pieces) + sized(2, trainer) + more


UNKNOWN = piece(b"<unk>", 0.0, 2)
GOOD = model(UNKNOWN, piece(b"a"), piece("\u2581b".encode()), trainer=field(3, 0, b"\1"))
BAD = {
    "empty": (b"", "holds no pieces"),
    "no pieces": (model(), "holds no pieces"),
    "text": (b"{}\n" * 9, "no field of a SentencePiece model|cut short"),
    "cut": (GOOD[:-1], "cut short"),
    "an absurd length": (field(1, 2, varint(1 << 62)), "cut short"),
    "an endless number": (b"\xff" * 40, "too long"),
    "a number for a piece": (field(1, 0, b"\5"), "field 1 is a number"),
    "a group": (field(1, 3, b""), "no field"),
    "field 0": (b"\2\0" + GOOD, "no field"),
    "a score that is a number": (sized(1, sized(1, b"a") + field(2, 0, b"\1")), "the score of piece 0 is no float"),
    "a double": (sized(1, sized(1, b"a") + field(2, 1, b"\0" * 8)), "the score of piece 0 is no float"),
    "a NaN": (model(UNKNOWN, piece(b"a", float("nan"))), "the score of piece 1 is nan"),
    "an infinity": (model(UNKNOWN, piece(b"a", float("inf"))), "the score of piece 1 is inf"),
    "no UTF-8": (model(UNKNOWN, piece(b"\xff")), "piece 1 is not UTF-8"),
    "an empty piece": (model(UNKNOWN, piece(b"")), "piece 1 has 0 characters"),
    "a long piece": (model(UNKNOWN, piece(b"a" * 257)), "piece 1 has 257 characters"),
    "no type": (model(UNKNOWN, piece(b"a", kind=9)), "piece 1 is of no known type"),
    "equal pieces": (model(UNKNOWN, piece(b"a"), piece(b"a")), "several pieces are equal"),
    "words": (model(UNKNOWN, piece(b"a"), trainer=field(3, 0, b"\3")), "its model_type is 3"),
    "an unknown id": (model(UNKNOWN, trainer=field(40, 0, b"\7")), "its unk_id 7 is no id"),
    "a negative id": (model(UNKNOWN, trainer=field(40, 0, b"\xff" * 9 + b"\1")), "field 40"),
    "a suffix": (model(UNKNOWN, trainer=field(24, 0, b"\1")), "treat_whitespace_as_suffix"),
    "a map that is none": (model(UNKNOWN, more=sized(3, sized(2, b"abc"))), "holds no whole trie"),
}


@pytest.mark.parametrize("name", BAD)
def test_damaged_files(name: str, tmp_path: Path) -> None:
    data, words = BAD[name]
    (tmp_path / "spiece.model").write_bytes(data)
    write(tmp_path, "config.json", {"model_type": "t5"})
    with pytest.raises(ModelFormatError, match=f"spiece.model: .*({words})"):
        load(tmp_path)


def test_every_cut_and_every_byte() -> None:
    """None of them ends in anything but an error of ours, or in a model."""
    assert read_spm(GOOD, "file").pieces == ["<unk>", "a", "\u2581b"]
    rng = np.random.default_rng(0)
    changed = [bytes([*GOOD[:i], int(rng.integers(256)), *GOOD[i + 1 :]]) for i in range(len(GOOD)) for _ in range(20)]
    for data in (*(GOOD[:i] for i in range(len(GOOD))), *changed):
        error = error_of(data)
        assert not error or error.startswith("file: ")


def error_of(data: bytes) -> str:
    try:
        read_spm(data, "file")
    except FastlmError as error:
        return str(error)
    return ""


def test_a_class_that_takes_another_kind_of_model(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.model").write_bytes(GOOD)
    write(tmp_path, "config.json", {"model_type": "llama"})
    write(tmp_path, "tokenizer_config.json", {"tokenizer_class": "LlamaTokenizer"})
    with pytest.raises(ModelFormatError, match="its class takes a BPE model"):
        load(tmp_path)


def test_a_class_that_is_not_known(tmp_path: Path) -> None:
    """Its texts are cut as SentencePiece does."""
    (tmp_path / "tokenizer.model").write_bytes(GOOD)
    write(tmp_path, "config.json", {"model_type": "somebody"})
    tokenizer = load(tmp_path)
    assert tokenizer.encode("  b   ba") == [2, 2, 1] and tokenizer.decode([2, 2, 1]) == "b ba"


@pytest.mark.parametrize("name", ["tokenizer.model", "vocab.json"])
def test_files_of_other_kinds_are_left(name: str, tmp_path: Path) -> None:
    """A tiktoken file, and a vocabulary that only its class can read."""
    (tmp_path / name).write_bytes(b"IQ== 0\nIg== 1\n" if name == "tokenizer.model" else b'{"__unk__": 0}')
    model_type = "llama" if name == "tokenizer.model" else "blenderbot-small"
    write(tmp_path, "config.json", {"model_type": model_type})
    folder = CheckpointFolder(tmp_path)
    assert load_tokenizer(folder) is None
    with pytest.raises(ParameterError, match=rf"{name}: a tokenizer of this kind is not read.*: give token ids"):
        Prompts(None, 9, missing_tokenizer(folder)).ids("text")


@pytest.mark.parametrize(
    ("file", "value", "words"),
    [
        ("vocab.json", {"</s>": 0}, "lacks the unknown token"),
        ("vocab.json", {"<unk>": 0}, "lacks the eos_token"),
        ("vocab.json", {"</s>": "0"}, "must map pieces to token ids"),
        ("tokenizer_config.json", {"separate_vocabs": True}, "target_vocab.json: is missing"),
        ("tokenizer_config.json", {"separate_vocabs": 3}, "separate_vocabs must be true or false"),
    ],
)
def test_translators_lack_something(file: str, value: dict[str, object], words: str, tmp_path: Path) -> None:
    for path in (FOLDER / "marian").iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    write(tmp_path, file, value)
    with pytest.raises(ModelFormatError, match=words):
        load(tmp_path)


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("m2m_100", {"language_codes": ["wmt21"]}),
        ("m2m_100", {"language_codes": "klingon"}),
        ("pegasus", {"offset": -1}),
        ("pegasus", {"mask_token_sent": 1}),
        ("t5", {"extra_ids": 1 << 40}),
        ("byt5", {"extra_ids": None}),
    ],
)
def test_settings_that_are_none(name: str, settings: dict[str, object], tmp_path: Path) -> None:
    for path in (FOLDER / name).iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    config = json.loads((tmp_path / "tokenizer_config.json").read_text())
    write(tmp_path, "tokenizer_config.json", {**config, **settings})
    with pytest.raises(ModelFormatError, match=rf"tokenizer_config\.json: {next(iter(settings))}"):
        load(tmp_path)


def test_bytes_that_are_no_text() -> None:
    tokenizer = load(FOLDER / "byt5")
    broken = [3 + byte for byte in "h\u00e9".encode()[:-1]]
    assert tokenizer.decode(broken) == "h"
    assert streamed(tokenizer, [*broken, 3 + ord("!")]) == "h!"
    assert tokenizer.decode([3 + byte for byte in "\ufffd".encode()]) == "\ufffd"
