"""Rows of files through a model: what is read and written, errors beside their rows, and going on after a kill."""

from __future__ import annotations

import csv
import json
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from folder_models import BASES, TEXTS, save_decoder

import fastlm
from fastlm.batch import classify, embed, generate
from fastlm.batch.files import Results, rows_of
from fastlm.batch.template import Template

OPTIONS: dict[str, Any] = {"max_tokens": 12, "temperature": 0}
ROWS = [{"id": i, "text": f"Lily had {i} cats"} for i in range(40)]


@pytest.fixture(scope="module")
def model() -> Iterator[fastlm.Model]:
    with fastlm.load(threads=1) as loaded:
        yield loaded


def fastlm_map(*args: str | Path) -> list[str]:
    return [sys.executable, "-m", "fastlm", "map", *map(str, args), "--threads", "1", "--temperature", "0"]


def run(*args: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(fastlm_map(*args), capture_output=True, text=True, timeout=60, cwd=sys.prefix)


def save_rows(path: Path, rows: list[Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_rows_keep_their_order_and_columns(model: fastlm.Model) -> None:
    found = list(generate(iter(ROWS), model, "{text} and", at_once=7, **OPTIONS))
    assert [{k: row[k] for k in ("id", "text")} for row in found] == ROWS
    texts = [done.text for done in model.batch([f"{row['text']} and" for row in ROWS], **OPTIONS)]
    assert [row["output"] for row in found] == texts
    assert {row["finish_reason"] for row in found} <= {"length", "stop"} and "error" not in found[0]


def test_errors_stay_beside_their_rows(model: fastlm.Model) -> None:
    rows: list[Any] = [{"text": "a"}, {"other": 1}, {"text": "word " * 2000}, {"text": None}, {"text": [1, "é"]}]
    found = list(generate(rows, model, "{text}", output="said", **OPTIONS))
    assert [row["said"] is None for row in found] == [False, True, True, False, False]
    assert "'text'" in found[1]["error"] and "context" in found[2]["error"]
    for wrong in ({"temprature": 1}, {"n": 2}, {"at_once": 0}, {"system": "s"}):
        with pytest.raises(fastlm.ParameterError):
            list(generate(rows, model, "{text}", **wrong))
    with pytest.raises(fastlm.ParameterError, match="rows must be mappings"):
        list(generate(["a"], model, "{text}"))  # type: ignore[list-item]


def test_rows_have_parameters_of_their_own(model: fastlm.Model) -> None:
    own = [None, {"max_tokens": 3}, '{"temperature": 0.8, "seed": 1}', "", {"max_token": 3}, [1], {"n": 2}, "{"]
    rows: list[Any] = [{"text": "Tom", "own": value} for value in own]
    found = list(generate(rows, model, "{text}", row_params="own", **OPTIONS))
    assert found[0]["output"] == found[3]["output"] == model.generate("Tom", **OPTIONS).text
    assert found[1]["output"] == model.generate("Tom", max_tokens=3, temperature=0).text
    assert found[2]["output"] == model.generate("Tom", max_tokens=12, temperature=0.8, seed=1).text
    errors = ("did you mean 'max_tokens'", "expected a mapping", "one text", "no JSON")
    assert all(text in row["error"] for text, row in zip(errors, found[4:], strict=True))


def test_vectors_and_labels_of_rows(tmp_path: Path) -> None:
    rows: list[Any] = [{"id": i, "text": text} for i, text in enumerate(TEXTS)]
    long, other = {"text": "street " * 600}, {"id": 0}
    with fastlm.load(BASES["bert"](tmp_path / "vectors"), threads=1) as model:
        found = list(embed([*rows, long, other], model, "{text}", at_once=4))
        np.testing.assert_array_equal([row["embedding"] for row in found[:-2]], model.embed(TEXTS))
        assert [row["id"] for row in found[:-2]] == list(range(len(TEXTS)))
        assert all(row["embedding"] is None for row in found[-2:])
        assert re.match(r"\d+ tokens are more", found[-2]["error"]) and "no column 'text'" in found[-1]["error"]
        with pytest.raises(fastlm.ParameterError, match="dimensions"):
            embed(rows, model, "{text}", dimensions=0)
        with pytest.raises(fastlm.ParameterError, match=r"text: .* has a brace"):
            embed(rows, model, "{")
        with pytest.raises(fastlm.UnsupportedError, match="classify"):
            classify(rows, model, "{text}")
    with fastlm.load(BASES["label"](tmp_path / "labels"), threads=1) as model:
        found = list(classify([*rows, long], model, "{text}", top_k=1))
        assert [row["labels"] for row in found[:-1]] == model.classify(TEXTS, top_k=1) and "error" in found[-1]


def test_closing_ends_what_is_begun(model: fastlm.Model) -> None:
    rows = generate(iter(ROWS), model, "{text}", **OPTIONS)
    next(rows)
    rows.close()  # type: ignore[attr-defined]


def test_templates() -> None:
    row = {"a": "x", "b c": 2, "d": {"e": "é"}}
    assert Template("{{{a}}} {b c} {d} }}").fill(row) == '{x} 2 {"e": "é"} }'
    assert Template("{a}{a}").fill({"a": "{b c}"}) == "{b c}{b c}"
    for wrong in ("{", "}", "a {} b", "{a{b}}"):
        with pytest.raises(fastlm.ParameterError, match="brace"):
            Template(wrong)


def test_conversations(tmp_path: Path) -> None:
    template = "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}<assistant>"
    with fastlm.load(save_decoder(tmp_path, template), threads=1) as chat:
        (row,) = generate([{"text": "Hi"}], chat, "{text}!", chat=True, system="s", max_tokens=5)
        messages = [{"role": "system", "content": "s"}, {"role": "user", "content": "Hi!"}]
        assert row["output"] == chat.chat(messages, max_tokens=5).text


def test_from_jsonl_to_jsonl(tmp_path: Path, model: fastlm.Model) -> None:
    data = save_rows(tmp_path / "data.jsonl", [*ROWS[:3], "a string"])
    done = run(data, "--prompt", "{text}", "--out", tmp_path / "out.jsonl", "--max-tokens", "5")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    found = read(tmp_path / "out.jsonl")
    assert [row["text"] for row in found] == [*(row["text"] for row in ROWS[:3]), "a string"]
    assert found[3]["output"] == model.generate("a string", max_tokens=5, temperature=0).text


def test_tables(tmp_path: Path) -> None:
    """Commas, quotes and line ends in cells."""
    cells = ["plain", 'with "quotes", and commas', "two\nlines", ""]
    with (tmp_path / "data.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerows([["id", "text"], *enumerate(cells)])
    out = tmp_path / "out.tsv"
    done = run(tmp_path / "data.csv", "--prompt", "a {text}", "--out", out, "--max-tokens", "4")
    assert done.returncode == 0, done.stderr
    with out.open(newline="") as file:
        found = list(csv.DictReader(file, delimiter="\t"))
    assert [row["text"] for row in found] == cells and list(found[0]) == [
        "id",
        "text",
        "output",
        "finish_reason",
        "error",
    ]
    whole = out.read_bytes()
    again = run(tmp_path / "data.csv", "--prompt", "a {text}", "--out", out, "--max-tokens", "4")
    assert again.returncode == 0 and out.read_bytes() == whole and "has 4 of 4 rows" in again.stderr
    for size in (len(whole) - 3, 5):
        out.write_bytes(whole[:size])
        assert run(tmp_path / "data.csv", "--prompt", "a {text}", "--out", out, "--max-tokens", "4").returncode == 0
        assert out.read_bytes() == whole


def test_what_a_kill_leaves_goes_on(tmp_path: Path, model: fastlm.Model) -> None:
    """Killed at random moments, the file ends with what one run gives."""
    data, out, whole = tmp_path / "data.jsonl", tmp_path / "out.jsonl", tmp_path / "whole.jsonl"
    save_rows(data, [{"id": i, "text": f"Tom saw {i} dogs"} for i in range(600)])
    options = ("--prompt", "{text}", "--max-tokens", "20", "--at-once", "16")
    rng = random.Random(2)
    for _ in range(3):
        process = subprocess.Popen(fastlm_map(data, *options, "--out", out), cwd=sys.prefix, stderr=subprocess.DEVNULL)
        before = out.stat().st_size if out.exists() else 0
        while process.poll() is None and (not out.exists() or out.stat().st_size <= before):
            time.sleep(0.005)
        time.sleep(0.1 * rng.random())
        process.send_signal(signal.SIGKILL)
        process.wait()
    kept = out.read_bytes().count(b"\n")
    assert run(data, *options, "--out", out).returncode == 0
    assert run(data, *options, "--out", whole).returncode == 0
    assert out.read_bytes() == whole.read_bytes() and kept > 0


def test_results_of_other_rows(tmp_path: Path) -> None:
    out = save_rows(tmp_path / "out.jsonl", [{"text": "other", "output": "x", "finish_reason": "stop"}])
    data = save_rows(tmp_path / "data.jsonl", [{"text": "a"}])
    done = run(data, "--prompt", "{text}", "--out", out)
    assert done.returncode == 2 and "is no result of row 1" in done.stderr
    assert len(read(out)) == 1
    with Results(str(out), "jsonl", ()), pytest.raises(fastlm.ModelFileError, match="another process"):
        Results(str(out), "jsonl", ())


@pytest.mark.parametrize(
    ("lines", "kind", "text"),
    [
        (['{"a": 1}', "{"], "jsonl", "line 2"),
        (["[1]"], "jsonl", "expected an object"),
        (["a,b\n", "1\n"], "csv", "line 2"),
        (["a,b\n", "1,2,3\n"], "csv", "line 2"),
        (["a\n", '"1\n'], "csv", "no table"),
    ],
)
def test_malformed_rows(lines: list[str], kind: str, text: str) -> None:
    with pytest.raises(fastlm.ParameterError, match=text):
        list(rows_of(lines, kind, "data"))


def test_wrong_use(tmp_path: Path) -> None:
    data = save_rows(tmp_path / "data.jsonl", [{"text": "a"}])
    for args, text in (
        ((data, "--prompt", "{text}", "--out", "out.txt"), "must end in"),
        ((data, "--prompt", "{text", "--out", tmp_path / "o.jsonl"), "brace"),
        ((tmp_path / "none.jsonl", "--prompt", "{text}", "--out", tmp_path / "o.jsonl"), "none.jsonl"),
        ((data, "--prompt", "{text}", "--out", tmp_path / "none" / "o.jsonl"), "cannot be written"),
    ):
        done = run(*args)
        assert done.returncode in (1, 2) and text in done.stderr and "Traceback" not in done.stderr
    done = run(data, "--prompt", "{other}", "--out", tmp_path / "o.jsonl")
    assert done.returncode == 1 and "1 rows could not be answered" in done.stderr
    assert "error" in read(tmp_path / "o.jsonl")[0]
