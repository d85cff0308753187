"""The commands for whole texts, as a user runs them: embed, classify, tag, fill-mask, answer, rerank."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bert_models import HIDDEN, save_bert

import fastlm
from fastlm.cli import main
from fastlm.cli.texts import GROUP

ELSEWHERE = sys.prefix  # not the repository, whose package is not built in place
SENTENCES = ["the animal was tired", "it was too wide", "paris is the capital of france"]
Ended = subprocess.CompletedProcess[bytes]


def command(*args: str | Path, data: bytes | None = None, **options: Any) -> Ended:
    line = [sys.executable, "-m", "fastlm", *map(str, args)]
    streams = {"stdin": subprocess.DEVNULL} if data is None else {"input": data}
    return subprocess.run(line, capture_output=True, timeout=60, cwd=ELSEWHERE, **streams, **options)


def lines(done: Ended) -> list[Any]:
    assert (done.returncode, done.stderr) == (0, b"")
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_bert(tmp_path_factory.mktemp("encoder"))


@pytest.fixture(scope="module")
def vectors(encoder: Path) -> Any:
    with fastlm.load(encoder) as model:
        yield model.embed(SENTENCES)


# ---- where texts come from ------------------------------------------------------------------------------------------


def written(folder: Path, kind: str) -> Path:
    file = folder / f"texts.{kind}"
    if kind == "jsonl":
        rows = [json.dumps(SENTENCES[0]), "", *(json.dumps({"id": 1, "text": text}) for text in SENTENCES[1:])]
        file.write_text("\n".join(rows))
    elif kind in ("csv", "tsv"):
        comma = {"csv": ",", "tsv": "\t"}[kind]
        file.write_text("".join(f'{a}{comma}"{b}"\r\n' for a, b in [("id", "text"), *enumerate(SENTENCES)]), newline="")
    else:
        file.write_text("\ufeff" + "\r\n".join(SENTENCES), encoding="utf-8", newline="")
    return file


@pytest.mark.parametrize("kind", ["txt", "jsonl", "csv", "tsv"])
def test_texts_from_anywhere(encoder: Path, vectors: Any, tmp_path: Path, kind: str) -> None:
    """A file, and standard input; what is shown is what float32 holds."""
    file = written(tmp_path, kind)
    shown = command("embed", "--model", encoder, "--file", file).stdout.decode().splitlines()
    assert np.array_equal(np.array([line.split() for line in shown], np.float32), vectors)
    form = [] if kind == "txt" else ["--input", kind]
    for args in ([], ["-"], ["--file", "-"]):
        found = lines(command("embed", "--model", encoder, *args, *form, "--json", data=file.read_bytes()))
        assert [row["text"] for row in found] == SENTENCES
        assert np.array_equal(np.array([row["vector"] for row in found], np.float32), vectors)


def test_texts_as_arguments_and_as_one(encoder: Path, vectors: Any, tmp_path: Path) -> None:
    found = lines(command("embed", *SENTENCES, "--model", encoder, "--json", data=b"not this"))
    assert np.array_equal(np.array([row["vector"] for row in found], np.float32), vectors)
    (tmp_path / "x.txt").write_text("the animal\nwas tired\n")
    (row,) = lines(command("embed", "--model", encoder, "--json", "--input", "text", "--file", tmp_path / "x.txt"))
    assert row["text"] == "the animal\nwas tired"


def test_an_empty_line_is_a_text(encoder: Path) -> None:
    """So that rows are lines."""
    assert [row["text"] for row in lines(command("embed", "--model", encoder, "--json", data=b"a\n\nb\n"))] == [
        "a",
        "",
        "b",
    ]


WRONG = [
    ([], None, 2, "there is no text: give one in quotes, --file PATH, or a pipe"),
    (["a", "--file", "x"], None, 2, "--file: a text is given already"),
    (["--file", "/nowhere/x"], None, 1, "/nowhere/x: cannot be read: No such file"),
    ([], b"good\ncaf\xe9\n", 2, "standard input, line 2 is not UTF-8"),
    (["--input", "jsonl"], b'"a"\n{"a"\n', 2, "standard input, line 2: is no JSON"),
    (["--input", "jsonl"], b"3\n", 2, "line 1: expected a text or a pair of texts, found 3"),
    (["--input", "jsonl"], b'{"a": 1, "b": 2}\n', 2, "line 1: has no 'text' (there is: a, b); --column names it"),
    (["--input", "csv"], b"a,b\n1,2\n", 2, "line 2: has no 'text' (there is: a, b)"),
    (["--input", "csv", "--column", "b"], b"a,b\n1\n", 2, "line 2: has no 'b'"),
    (["--input", "csv"], b'text\n"a"b\n', 2, "is no table"),
    (["--input", "csv", "--column", "text"], b'text\n"' + b"a" * 200_000 + b'"\n', 2, "is no table: field larger"),
    ([], b"a\n" + b"a " * 100 + b"\n", 1, "standard input, line 2: 102 tokens are more than the context of 64"),
    (["a", "--out", "x.txt"], None, 2, "--out: the name of the file must end in .npy or .jsonl, not x.txt"),
    (["a", "--out", "/nowhere/x.npy"], None, 1, "/nowhere/x.npy: cannot be written"),
    (["a", "--json", "--out", "x.npy"], None, 2, "not allowed with argument --json"),
    (["a", "--pooling", "best"], None, 2, "pooling must be one of"),
    (["a", "--dimensions", "99"], None, 2, "dimensions must be from 1 to 32"),
    (["a", "--threads", "1", "b"], None, 2, "texts go together, before the options or after them"),
]


@pytest.mark.parametrize(("args", "data", "status", "words"), WRONG, ids=[words[:40] for *_, words in WRONG])
def test_what_is_wrong_is_said(encoder: Path, args: list[str], data: bytes | None, status: int, words: str) -> None:
    done = command("embed", "--model", encoder, *args, data=data)
    assert done.returncode == status and words in done.stderr.decode() and done.stdout == b""
    assert b"Traceback" not in done.stderr


def test_a_text_that_is_the_name_of_a_file(encoder: Path, tmp_path: Path) -> None:
    (tmp_path / "a").write_text("a")
    done = command("embed", "--model", encoder, tmp_path / "a")
    assert done.returncode == 0 and b"did you mean --file" in done.stderr


# ---- where results go -----------------------------------------------------------------------------------------------


def test_vectors_in_files(encoder: Path, vectors: Any, tmp_path: Path) -> None:
    for name in ("v.npy", "v.jsonl"):
        assert command("embed", "--model", encoder, *SENTENCES, "--out", tmp_path / name).stdout == b""
    found = np.load(tmp_path / "v.npy")
    assert found.dtype == np.float32 and np.array_equal(found, vectors)
    rows = [json.loads(line) for line in (tmp_path / "v.jsonl").read_text(encoding="utf-8").splitlines()]
    assert np.array_equal(np.array([row["vector"] for row in rows], np.float32), vectors)
    command("embed", "--model", encoder, "--out", tmp_path / "none.npy", data=b"")
    assert np.load(tmp_path / "none.npy").shape == (0, HIDDEN)


def test_an_error_leaves_the_file_as_it_was(encoder: Path, tmp_path: Path) -> None:
    """Also one that comes after texts that were fine."""
    file = tmp_path / "v.npy"
    file.write_bytes(b"before")
    data = b"a\n" * (GROUP + 5) + b"a " * 100
    done = command("embed", "--model", encoder, "--out", file, data=data)
    assert done.returncode == 1 and f"line {GROUP + 6}: ".encode() in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["v.npy"] and file.read_bytes() == b"before"


def test_ctrl_c_leaves_no_file(encoder: Path, tmp_path: Path) -> None:
    """While it waits for more lines."""
    line = [sys.executable, "-m", "fastlm", "embed", "--model", str(encoder), "--out", str(tmp_path / "v.npy")]
    with subprocess.Popen(line, stdin=subprocess.PIPE, stderr=subprocess.PIPE, cwd=ELSEWHERE) as process:
        assert process.stdin is not None and process.stderr is not None
        process.stdin.write(b"a\n")
        process.stdin.flush()
        while not list(tmp_path.iterdir()):
            assert process.poll() is None
            time.sleep(0.01)
        time.sleep(0.5)  # until it waits
        process.send_signal(signal.SIGINT)
        assert process.stderr.read() == b"\nfastlm: interrupted\n"
    assert process.returncode == 130 and not list(tmp_path.iterdir())


def test_many_lines_are_read_as_they_are_needed(encoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """When a group of texts is embedded, no more has been read than it and the groups before."""
    from fastlm.cli import streams
    from fastlm.encoding import Encoding

    file, taken, seen = tmp_path / "many.txt", 0, []
    file.write_text("a b c\n" * (4 * GROUP + 7))
    read, embed = streams.lines_of, Encoding.embed

    def counted(path: str) -> Iterator[str]:
        nonlocal taken
        for line in read(path):
            taken += 1
            yield line

    def noted(self: Any, texts: Any, **options: Any) -> Any:
        seen.append((taken, len(texts)))
        return embed(self, texts, **options)

    monkeypatch.setattr(streams, "lines_of", counted)
    monkeypatch.setattr(Encoding, "embed", noted)
    out = tmp_path / "v.npy"
    assert main(["embed", "--model", str(encoder), "--file", str(file), "--out", str(out)]) == 0
    assert seen == [(0, 0), *((i * GROUP, GROUP) for i in range(1, 5)), (4 * GROUP + 7, 7)]
    found = np.load(out)
    assert len(found) == 4 * GROUP + 7 and np.all(found == found[0])


def test_counts_are_for_terminals(encoder: Path, tmp_path: Path) -> None:
    keyboard, terminal = pty.openpty()
    line = [
        sys.executable,
        "-m",
        "fastlm",
        "embed",
        "--model",
        str(encoder),
        "--out",
        str(tmp_path / "v.npy"),
        "a",
        "b",
    ]
    try:
        subprocess.run(line, stdin=subprocess.DEVNULL, stderr=terminal, check=True, timeout=60, cwd=ELSEWHERE)
        assert b"2 texts in " in os.read(keyboard, 10_000)
    finally:
        os.close(keyboard)
        os.close(terminal)


# ---- tasks ----------------------------------------------------------------------------------------------------------


def test_classify(tmp_path: Path) -> None:
    folder = save_bert(tmp_path, "BertForSequenceClassification", ("bad", "good", "fair"))
    with fastlm.load(folder) as model:
        expected = model.classify(SENTENCES)
        pairs = model.classify([("paris is", "the capital"), ("it was", "too wide")], top_k=1)
    found = lines(command("classify", "--model", folder, *SENTENCES, "--json"))
    shown = [[(label["label"], label["score"]) for label in row["labels"]] for row in found]
    assert shown == [[(label.label, label.score) for label in row] for row in expected]
    text = command("classify", "--model", folder, *SENTENCES).stdout.decode().splitlines()
    assert [text[0], text[4], text[8]] == SENTENCES
    assert f"{100 * expected[0][0].score:6.2f} %  {expected[0][0].label}" in text[1]
    table = b"a,b\nparis is,the capital\nit was,too wide\n"
    args = ["--input", "csv", "--column", "a", "--column", "b", "--top-k", "1", "--json"]
    found = lines(command("classify", "--model", folder, *args, data=table))
    assert found[0]["text"] == ["paris is", "the capital"]
    assert [row["labels"][0]["score"] for row in found] == [row[0].score for row in pairs]


def test_classify_by_labels_of_ones_own(tmp_path: Path) -> None:
    folder = save_bert(tmp_path, "BertForSequenceClassification", ("contradiction", "entailment"))
    with fastlm.load(folder) as model:
        ((best, other),) = model.classify([SENTENCES[0]], labels=["animal", "capital"])
    args = ["classify", SENTENCES[0], "--model", folder, "--label", "animal", "--label", "capital"]
    shown = command(*args, env={**os.environ, "PYTHONIOENCODING": "ascii"}).stdout.decode().splitlines()
    assert [line.split()[2] for line in shown[1:]] == [best.label, other.label] and "#" in shown[1]


def test_tag_fill_mask_answer(tmp_path: Path) -> None:
    folder = save_bert(tmp_path / "t", "BertForTokenClassification", ("O", "B-PER", "I-PER"))
    with fastlm.load(folder) as model:
        spans = model.tag(SENTENCES[2])
    (row,) = lines(command("tag", "--model", folder, SENTENCES[2], "--json"))
    assert [(x["label"], x["start"], x["end"]) for x in row["spans"]] == [(x.label, x.start, x.end) for x in spans]
    shown = command("tag", "--model", folder, SENTENCES[2]).stdout.decode().splitlines()
    assert spans and f"%  {spans[0].label}: {spans[0].text} " in shown[1]

    folder, masked = save_bert(tmp_path / "f", "BertForMaskedLM"), "paris is [MASK] capital [MASK] france"
    with fastlm.load(folder) as model:
        gaps = model.fill_mask(masked, 2)
    (row,) = lines(command("fill-mask", "--model", folder, masked, "--top-k", "2", "--json"))
    assert [[x["token"] for x in gap] for gap in row["masks"]] == [[x.token for x in gap] for gap in gaps]
    assert command("fill-mask", "--model", folder, masked).stdout.decode().splitlines()[6] == "mask 2"
    done = command("fill-mask", "--model", folder, data=b"paris is [MASK]\nparis\n")
    assert done.returncode == 2 and b"standard input, line 2: there is no [MASK] in it" in done.stderr
    done = command("fill-mask", "--model", folder, "--input", "jsonl", data=b'"paris is [MASK]"\n["paris", "[MASK]"]\n')
    assert done.returncode == 2 and b"standard input, line 2: must be a string, not " in done.stderr

    folder = save_bert(tmp_path / "a", "BertForQuestionAnswering")
    (tmp_path / "x.txt").write_text("the animal was\ntired")
    with fastlm.load(folder) as model:
        best = model.answer("what was it", "the animal was\ntired", 2)
    args = ["answer", "what was it", "--model", folder, "--top-k", "2", "--json"]
    (row,) = lines(command(*args, "--file", tmp_path / "x.txt"))
    assert [(x["text"], x["score"]) for x in row["answers"]] == [(x.text, x.score) for x in best]
    assert len(lines(command(*args, "--input", "lines", "--file", tmp_path / "x.txt"))) == 2


def test_rerank(tmp_path: Path) -> None:
    folder = save_bert(tmp_path, "BertForSequenceClassification", ("score",))
    documents = [" ".join(SENTENCES[i % 3].split()[: 1 + i % 4]) for i in range(GROUP + 9)]
    with fastlm.load(folder) as model:
        expected = model.rerank("what is in france", documents, top_n=7)
    data = "\n".join(documents).encode()
    args = ["rerank", "what is in france", "--model", folder, "--top-n", "7"]
    found = lines(command(*args, "--json", data=data))
    assert [(x["index"], x["score"]) for x in found] == [(x.index, x.score) for x in expected]
    shown = command(*args, data=data).stdout.decode().splitlines()
    assert [line.split(maxsplit=1)[1] for line in shown] == [x.document for x in expected]
    done = command("rerank", "what", "a", "--model", folder, "--top-n", "0")
    assert done.returncode == 2 and b"--top-n must be at least 1" in done.stderr


@pytest.mark.parametrize("task", ["classify", "tag", "fill-mask", "answer", "rerank"])
def test_a_model_without_the_head(encoder: Path, task: str) -> None:
    done = command(task, *(["a"] if task in ("answer", "rerank") else []), "b", "--model", encoder)
    assert done.returncode == 1 and b"it can: embed" in done.stderr and done.stdout == b""


def test_texts_of_terminals() -> None:
    """What is shown of a text moves no cursor and fits a line."""
    from fastlm.cli.outputs import line_of

    assert line_of("a\x1b[2Jb\n\tc") == "a [2Jb c"
    assert len(line_of("x" * 500)) == 100 and line_of(("a", "b")) == "a / b"
