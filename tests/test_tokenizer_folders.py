"""Folders of many kinds of tokenizers: the ids and the text are those of transformers, where that is installed."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tokenizer_folders import FOLDERS, bert, gpt2, llama, llama_as_written, opt, qwen2, t5
from tokenizer_parts import added, texts, write

from fastlm.errors import ModelFormatError, ParameterError
from fastlm.tokenizer.load import load_tokenizer, missing_tokenizer
from fastlm.tokenizer.prompts import Prompts
from fastlm.tokenizer.tokenizer import Tokenizer
from fastlm.weights.folder import CheckpointFolder

Make = Callable[[Path], None]


def load(folder: Path) -> Tokenizer:
    found = load_tokenizer(CheckpointFolder(folder))
    assert found is not None
    return found


def theirs(folder: Path) -> Any:
    transformers = pytest.importorskip("transformers", minversion="5.5")
    transformers.logging.set_verbosity_error()
    return transformers.AutoTokenizer.from_pretrained(folder)


def streamed(tokenizer: Tokenizer, ids: list[int]) -> str:
    """The text as it arrives, token by token."""
    pipeline = tokenizer.pipeline()
    pieces = [piece for i in ids if (piece := tokenizer.piece_of(i)) is not None]
    return "".join([*(pipeline.push([piece]) for piece in pieces), pipeline.end()])


def compare(folder: Path, count: int) -> None:
    other, ours = theirs(folder), load(folder)
    for text in texts(count):
        ids = other(text).input_ids
        assert ours.encode(text) == ids, ascii(text)
        for skip in (True, False):
            assert ours.decode(ids, skip_special=skip) == other.decode(ids, skip_special_tokens=skip), ascii(text)
        assert streamed(ours, ids) == ours.decode(ids)
    for name in ("bos", "pad"):
        assert getattr(ours, name) == getattr(other, f"{name}_token_id")


COUNTS = [60, pytest.param(2000, marks=pytest.mark.slow)]


@pytest.mark.parametrize("count", COUNTS)
@pytest.mark.parametrize("make", FOLDERS.values(), ids=FOLDERS)
def test_as_transformers(tmp_path: Path, make: Make, count: int) -> None:
    make(tmp_path)
    compare(tmp_path, count)


WITH_PARTS = [make for name, make in FOLDERS.items() if not name.startswith(("llama", "gemma", "t5", "xlm", "mistral"))]


@pytest.mark.parametrize("count", COUNTS)
@pytest.mark.parametrize("make", WITH_PARTS, ids=lambda make: make.__name__)
def test_without_tokenizer_json(tmp_path: Path, make: Make, count: int) -> None:
    make(tmp_path)
    whole = tmp_path / "tokenizer.json"
    if not whole.exists() or not any((tmp_path / name).exists() for name in ("vocab.json", "vocab.txt")):
        pytest.skip("the folder has one kind of files only")
    whole.unlink()
    compare(tmp_path, count)


@pytest.mark.parametrize("make", FOLDERS.values(), ids=FOLDERS)
def test_as_saved_by_transformers(tmp_path: Path, make: Make) -> None:
    """What save_pretrained writes, the number 10 ** 30 for a length without limit included."""
    made, saved = tmp_path / "made", tmp_path / "saved"
    made.mkdir()
    make(made)
    theirs(made).save_pretrained(saved)
    (saved / "config.json").write_bytes((made / "config.json").read_bytes())
    compare(saved, 40)


def test_opt_begins_with_its_end_token(tmp_path: Path) -> None:
    """add_bos_token of a folder without tokenizer.json, and special tokens that only tokenizer_config.json names."""
    opt(tmp_path)
    tokenizer = load(tmp_path)
    ids = json.loads((tmp_path / "vocab.json").read_text())
    assert tokenizer.encode("a")[0] == ids["</s>"] == tokenizer.bos
    assert tokenizer.encode("a</s><pad>", special=False) == [ids["a"], ids["</s>"], ids["<pad>"]]
    assert tokenizer.decode([ids["</s>"], ids["a"], ids["<pad>"]]) == "a"


def test_tokens_of_the_files_beside(tmp_path: Path) -> None:
    gpt2(tmp_path)
    end = len(json.loads((tmp_path / "vocab.json").read_text("utf-8")))
    write(tmp_path, "special_tokens_map.json", {"additional_special_tokens": ["<|user|>"], "pad_token": "<pad>"})
    write(tmp_path, "added_tokens.json", {"<|user|>": end + 1, "<new>": end})
    tokenizer = load(tmp_path)
    assert tokenizer.encode("<new><|user|><pad>") == [end, end + 1, end + 2]
    assert tokenizer.decode([end, end + 1, end + 2]) == "<new>" and tokenizer.pad == end + 2


def test_a_decoder_of_added_tokens_rules(tmp_path: Path) -> None:
    """With added_tokens_decoder, the older files count no more."""
    qwen2(tmp_path)
    expected = load(tmp_path).encode("<ignored>")
    write(tmp_path, "added_tokens.json", {"<ignored>": 701})
    write(tmp_path, "special_tokens_map.json", {"bos_token": "<ignored>"})
    assert load(tmp_path).encode("<ignored>") == expected and load(tmp_path).bos is None


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-8"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_marks_and_line_ends(tmp_path: Path, encoding: str, end: str) -> None:
    bert(tmp_path)
    (tmp_path / "tokenizer.json").unlink()
    expected = load(tmp_path).encode("The quick, brown fox\u00e9!")
    lines = (tmp_path / "vocab.txt").read_text("utf-8").split("\n")
    (tmp_path / "vocab.txt").write_bytes(end.join(lines).encode(encoding))
    assert load(tmp_path).encode("The quick, brown fox\u00e9!") == expected
    gpt2(tmp_path)
    (tmp_path / "tokenizer.json").unlink()
    expected = load(tmp_path).encode("The quick, brown fox")
    lines = (tmp_path / "merges.txt").read_text("utf-8").split("\n")
    (tmp_path / "merges.txt").write_bytes(end.join([*lines, "", ""]).encode(encoding))
    assert load(tmp_path).encode("The quick, brown fox") == expected


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("vocab.json", b"\xff{}"),
        ("vocab.json", b'{"a": "0"}'),
        ("vocab.json", b'{"a": 4294967295}'),
        ("vocab.json", b'{"\\ud800": 0}'),
        ("vocab.json", b"[]"),
        ("merges.txt", "caf\u00e9 x\n".encode("latin-1")),
        ("merges.txt", b"a\n"),
        ("merges.txt", b"q zzzz\n"),
        ("merges.txt", b""),
        ("tokenizer_config.json", b'{"add_bos_token": "yes"}'),
        ("tokenizer_config.json", b'{"bos_token": 5}'),
        ("tokenizer_config.json", b'{"added_tokens_decoder": []}'),
        ("tokenizer_config.json", b'{"added_tokens_decoder": {"x": {"content": "a"}}}'),
        ("tokenizer_config.json", b'{"additional_special_tokens": "<s>"}'),
        ("tokenizer_config.json", b'{"tokenizer_class": 5}'),
        ("tokenizer_config.json", b'{"tokenizer_class": []}'),
        ("tokenizer_config.json", b'{"split_special_tokens": "x"}'),
        ("tokenizer_config.json", b'{"tokenizer_class": "GPT2Tokenizer", "add_prefix_space": 1}'),
        ("config.json", b'{"model_type": {}}'),
        ("config.json", b'{"model_type": ["llama"], "tokenizer_class": "LlamaTokenizer"}'),
        ("added_tokens.json", b'{"a": -1}'),
        ("added_tokens.json", b'{"' + b"a" * 5000 + b'": 2}'),
        ("special_tokens_map.json", b'{"bos_token": {"content": 1}}'),
    ],
)
def test_bad_files_are_named(tmp_path: Path, name: str, data: bytes) -> None:
    gpt2(tmp_path)
    (tmp_path / "tokenizer.json").unlink()
    (tmp_path / name).write_bytes(data)
    with pytest.raises(ModelFormatError, match=name.replace("merges.txt", r"(merges\.txt|vocab\.json)")) as caught:
        load(tmp_path)
    assert str(caught.value).startswith(str(tmp_path))


@pytest.mark.parametrize("field", ["extra_special_tokens", "additional_special_tokens"])
def test_the_list_of_special_tokens_is_named(tmp_path: Path, field: str) -> None:
    gpt2(tmp_path)
    for value, words in ((5, f"{field} must be a list"), ([5], rf"{field}\[0\]: must be")):
        write(tmp_path, "tokenizer_config.json", {field: value})
        with pytest.raises(ModelFormatError, match=words):
            load(tmp_path)


def test_latin_1_vocabulary(tmp_path: Path) -> None:
    (tmp_path / "vocab.txt").write_bytes("[UNK]\ncaf\u00e9\n".encode("latin-1"))
    with pytest.raises(ModelFormatError, match=r"vocab\.txt: not UTF-8"):
        load(tmp_path)


def test_a_tiktoken_model_is_named(tmp_path: Path) -> None:
    """A tokenizer that is there but not read is another thing than none."""
    (tmp_path / "tokenizer.model").write_bytes(b"IQ== 0\nIg== 1\n")
    source = CheckpointFolder(tmp_path)
    assert load_tokenizer(source) is None
    with pytest.raises(ParameterError, match=r"tokenizer\.model: .* tokenizer\.json beside it"):
        Prompts(None, 9, missing_tokenizer(source)).ids("text")


def test_tokens_beyond_the_rows(tmp_path: Path) -> None:
    """Ids of a text are checked as those that callers give."""
    t5(tmp_path)
    tokenizer = load(tmp_path)
    prompts = Prompts(tokenizer, tokenizer.end_of_model)
    assert prompts.ids("The fox")
    with pytest.raises(ParameterError, match="extra_id_7"):
        prompts.ids("fox <extra_id_7>")


def test_the_legacy_space(tmp_path: Path) -> None:
    """A space is put before each part of a text between special tokens, or, newer, before the first only."""
    for legacy, expected in ((True, " b"), (False, "b")):
        llama(tmp_path)
        config = json.loads((tmp_path / "tokenizer_config.json").read_text())
        write(tmp_path, "tokenizer_config.json", {**config, "legacy": legacy})
        tokenizer = load(tmp_path)
        after = tokenizer.encode("</s>b", special=False)[1:]
        assert tokenizer.decode([tokenizer.encode("a", special=False)[-1], *after])[1:] == expected


@pytest.mark.parametrize("beside", [False, True])
def test_an_empty_token_is_none(tmp_path: Path, beside: bool) -> None:
    """It gets no id, and is no beginning of other stop strings."""
    gpt2(tmp_path)
    end = len(json.loads((tmp_path / "vocab.json").read_text("utf-8")))
    listed = {str(end + i): added(content) for i, content in enumerate(("", "<s>", "</s>"))}
    config = {"tokenizer_class": "RobertaTokenizer"}
    if beside:
        write(tmp_path, "tokenizer_config.json", {**config, "added_tokens_decoder": listed})
    else:
        whole = json.loads((tmp_path / "tokenizer.json").read_text("utf-8"))
        whole["added_tokens"] += [{"id": int(i), **token} for i, token in listed.items()]
        write(tmp_path, "tokenizer.json", whole)
        write(tmp_path, "tokenizer_config.json", config)
    tokenizer = load(tmp_path)
    (start,) = tokenizer.encode("<s>", special=False)
    assert start == end and tokenizer.stop_tokens(["</s>"]) == [end + 1]
    assert tokenizer.decode([start, end + 1], skip_special=False) == "<s></s>"
    compare(tmp_path, 20)


def test_two_tokens_of_one_id(tmp_path: Path) -> None:
    """A file that stands as it is written keeps both."""
    llama_as_written(tmp_path)
    whole = json.loads((tmp_path / "tokenizer.json").read_text("utf-8"))
    whole["added_tokens"] += [{"id": 9999, **added("<x>")}, {"id": 9999, **added("<y>")}]
    write(tmp_path, "tokenizer.json", whole)
    tokenizer = load(tmp_path)
    x, y = tokenizer.encode("<x><y>", special=False)
    assert y == x + 1 == tokenizer.vocab_size - 1
    compare(tmp_path, 20)


@pytest.mark.parametrize("make", [gpt2, llama, llama_as_written, bert, t5], ids=lambda make: make.__name__)
@pytest.mark.parametrize(
    "said", [{}, {"pad_token": None}, {"pad_token": "<|user|>"}], ids=["unsaid", "none", "another"]
)
def test_the_token_of_padding(tmp_path: Path, make: Make, said: dict[str, str | None]) -> None:
    """It is a special token where no other file, and not the class, says another."""
    make(tmp_path)
    whole = json.loads((tmp_path / "tokenizer.json").read_text("utf-8"))
    padding = {"strategy": "BatchLongest", "direction": "Right", "pad_to_multiple_of": None, "pad_id": 0}
    whole["padding"] = {**padding, "pad_type_id": 0, "pad_token": "<tool>"}
    write(tmp_path, "tokenizer.json", whole)
    config = json.loads((tmp_path / "tokenizer_config.json").read_text("utf-8"))
    config.pop("pad_token", None)
    write(tmp_path, "tokenizer_config.json", {**config, **said})
    tokenizer = load(tmp_path)
    ours = tokenizer.special_tokens.get("pad_token")
    assert (ours == "<tool>") == (not said and make in (llama, llama_as_written))
    if ours == "<tool>":
        assert tokenizer.encode("<tool>", special=False) == [tokenizer.pad]
    compare(tmp_path, 20)
    assert ours == theirs(tmp_path).pad_token
