"""Tokenizers against the library that they wrap, and the id -> bytes table against its decoder."""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import tokenizers
from models import add_byte_tokenizer, byte_shape, save_llama

import fastlm
from fastlm.errors import ModelFormatError, ParameterError
from fastlm.saving import save
from fastlm.tokenizer.load import load_tokenizer
from fastlm.tokenizer.tokenizer import Tokenizer
from fastlm.weights.folder import CheckpointFolder


def load(folder: Path) -> Tokenizer:
    found = load_tokenizer(CheckpointFolder(folder))
    assert found is not None
    return found


def printed(tokenizer: Tokenizer, ids: list[int]) -> str:
    """What C prints for ids: the table's bytes, special tokens skipped, a first space dropped when it says so."""
    assert tokenizer.table is not None
    pieces = [tokenizer.table.pieces[i] for i in ids if not tokenizer.table.special[i]]
    data = b"".join(pieces)
    if tokenizer.table.strip_first_space and data.startswith(b" "):
        data = data[1:]
    return data.decode("utf-8", "replace")


def random_texts(n: int) -> list[str]:
    rng = random.Random(0)
    alphabet = "abc deE.,!?\n\t0123'\"éßñ中文字😀👩‍👧\u200d\u0301ंग" + "".join(map(chr, range(32, 127)))
    return ["".join(rng.choice(alphabet) for _ in range(rng.randrange(40))) for _ in range(n)]


def test_sentencepiece_style(stories260k: Path) -> None:
    ours, library = load(stories260k), tokenizers.Tokenizer.from_file(str(stories260k / "tokenizer.json"))
    for text in random_texts(500):
        ids = library.encode(text).ids
        assert ours.encode(text) == ids
        assert ours.count(text) == len(ids)
        assert printed(ours, ids) == library.decode(ids) == ours.decode(ids)
    assert ours.encode("Once", special=False) == library.encode("Once", add_special_tokens=False).ids
    for text in random_texts(100):
        at = len(text) // 2
        ids = ours.encode(text[:at]) + ours.encode(text[at:], special=False, start=False)
        assert printed(ours, ids) == ours.decode(ids) == text


def first_spaces() -> dict[str, tokenizers.Tokenizer]:
    """Tokenizers of single characters that put a space before a text, in all ways."""
    from tokenizers import decoders, models, normalizers, pre_tokenizers

    letters = {c: i for i, c in enumerate("\u2581\u0120abc")}
    found = {}
    for name in ("prepend", "prepends", "metaspace", "metaspaces", "bytes"):
        library = tokenizers.Tokenizer(models.BPE(vocab=letters, merges=[]))
        metaspace = pre_tokenizers.Metaspace()
        library.decoder = decoders.Metaspace()
        if name == "prepend":
            library.normalizer = normalizers.Prepend("\u2581")
        elif name == "prepends":
            spaces = normalizers.Replace(" ", "\u2581")
            library.normalizer = normalizers.Sequence([normalizers.Prepend("\u2581"), spaces])
        elif name == "bytes":
            library.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
            library.decoder = decoders.ByteLevel()
        else:
            lonely = name == "metaspace"
            library.pre_tokenizer = metaspace if lonely else pre_tokenizers.Sequence([metaspace])
        found[name] = library
    return found


@pytest.mark.parametrize(("name", "library"), first_spaces().items())
def test_a_text_that_goes_on_has_no_space_before_it(tmp_path: Path, name: str, library: tokenizers.Tokenizer) -> None:
    library.save(str(tmp_path / "tokenizer.json"))
    ours = load(tmp_path)
    letter, space = library.token_to_id("a"), library.token_to_id("\u0120" if name == "bytes" else "\u2581")
    assert ours.encode("a", special=False) == [space, letter]
    assert ours.encode("a", special=False, start=False) == [letter]
    if name != "prepend":  # which makes nothing of other spaces
        assert ours.encode(" a", special=False, start=False) == [space, letter]
        assert ours.encode("a a", start=False) == [letter, space, letter]


def byte_level_files(folder: Path) -> None:
    """A GPT-2 tokenizer trained on a few words, as vocab.json and merges.txt."""
    from tokenizers import Tokenizer as Library
    from tokenizers import models, pre_tokenizers, trainers

    library = Library(models.BPE())
    library.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=["<|endoftext|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    library.train_from_iterator(["the cat sat on the mat, the dog too 😀 中文"] * 20, trainer)
    library.model.save(str(folder))


def test_vocab_and_merges(tmp_path: Path) -> None:
    byte_level_files(tmp_path)
    (tmp_path / "tokenizer_config.json").write_text('{"eos_token": "<|endoftext|>", "bos_token": {"content": "<s>"}}')
    tokenizer = load(tmp_path)
    assert tokenizer.table is not None
    assert not tokenizer.table.strip_first_space
    vocab = json.loads((tmp_path / "vocab.json").read_text())
    assert tokenizer.eos == [vocab["<|endoftext|>"]]
    assert tokenizer.bos == len(vocab)
    for text in random_texts(300):
        ids = tokenizer.encode(text)
        assert printed(tokenizer, ids) == tokenizer.decode(ids) == text
    ids = tokenizer.encode("the cat<|endoftext|>")
    assert printed(tokenizer, ids) == "the cat"


def test_word_piece(tmp_path: Path) -> None:
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "hello", "world", "##s", ",", "un", "##known"]
    (tmp_path / "vocab.txt").write_text("\n".join(words))
    tokenizer = load(tmp_path)
    assert tokenizer.encode("Hello, worlds unknown zebra") == [2, 5, 8, 6, 7, 9, 10, 1, 3]
    assert tokenizer.table is None
    assert tokenizer.decode([2, 5, 8, 6, 7, 3]) == "hello, worlds"
    (tmp_path / "tokenizer_config.json").write_text('{"do_lower_case": false}')
    assert load(tmp_path).encode("Hello") == [2, 1, 3]


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"model": {"type": "BPE"}}', "\ud800"])
def test_malformed_tokenizer(tmp_path: Path, content: str) -> None:
    (tmp_path / "tokenizer.json").write_bytes(content.encode("utf-8", "surrogatepass"))
    with pytest.raises(ModelFormatError, match=r"tokenizer\.json"):
        load(tmp_path)


def test_vocabulary_without_merges(tmp_path: Path) -> None:
    (tmp_path / "vocab.json").write_text('{"a": 0}')
    with pytest.raises(ModelFormatError, match=r"merges\.txt"):
        load(tmp_path)


def test_no_tokenizer(tmp_path: Path) -> None:
    assert load_tokenizer(CheckpointFolder(tmp_path)) is None


def test_text_must_be_text(stories: Path, tmp_path: Path) -> None:
    tokenizer = load(stories)
    with pytest.raises(ParameterError, match="string"):
        tokenizer.encode(5)  # type: ignore[arg-type]
    with pytest.raises(ParameterError, match="surrogate"):
        tokenizer.encode("\ud800")
    shutil.copy(stories / "tokenizer.json", tmp_path)
    assert load(tmp_path).bos is None


def test_a_flm_file_keeps_the_files_beside(tmp_path: Path) -> None:
    folder = add_byte_tokenizer(save_llama(tmp_path / "folder", replace(byte_shape(), vocab=258)))
    (folder / "special_tokens_map.json").write_text('{"additional_special_tokens": ["<x>"]}')
    (folder / "added_tokens.json").write_text('{"<y>": 256}')
    model = fastlm.load(folder, threads=1)
    save(model, tmp_path / "saved.flm")
    saved = fastlm.load(tmp_path / "saved.flm", threads=1)
    assert model.tokenizer is not None and saved.tokenizer is not None
    assert saved.tokenizer.encode("<y><x>") == model.tokenizer.encode("<y><x>") == [256, 257]


QUIET = """
import os, sys, fastlm
tokenizer = fastlm.load(threads=1).tokenizer
tokenizer.encode("Once.")
before = len(os.listdir("/proc/self/task"))
tokenizer.decode(tokenizer.encode("Once upon a time. " * 20_000))
assert len(os.listdir("/proc/self/task")) == before
child = os.fork()
if child == 0:
    tokenizer.encode("Once upon a time. " * 2000)
    os._exit(0)
assert os.waitpid(child, 0)[1] == 0
print(os.environ["TOKENIZERS_PARALLELISM"])
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="counts threads in /proc")
def test_the_library_starts_no_threads(tmp_path: Path) -> None:
    """Nor does it write of forks; who has set the variable keeps it."""
    for given, expected in ((None, "false"), ("0", "0")):
        environment = {k: v for k, v in os.environ.items() if k != "TOKENIZERS_PARALLELISM"}
        environment |= {} if given is None else {"TOKENIZERS_PARALLELISM": given}
        done = subprocess.run(
            [sys.executable, "-c", QUIET], capture_output=True, text=True, env=environment, cwd=tmp_path, timeout=100
        )
        assert (done.returncode, done.stdout.strip(), done.stderr) == (0, expected, "")
