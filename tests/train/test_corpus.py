"""Documents, what is held out of them, rows and windows. Needs no torch."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastlm.errors import FastlmError, ModelFileError, ParameterError
from fastlm.train.corpus import Ids, Rows, TextFile, read_texts, split_documents, windows


class OneTokenPerWord:
    """A codec for texts of numbers."""

    def documents(self, texts: Sequence[str]) -> list[Ids]:
        return [np.array([0, *map(int, text.split())], dtype=np.int32) for text in texts]


def numbered(count: int, weight: float = 1.0, first: int = 1) -> TextFile:
    """Documents of nine tokens: 0 and eight times the document's number."""
    return TextFile("numbers", "", weight, [f"{n} " * 8 for n in range(first, first + count)], [])


def test_documents_are_what_stands_between_the_separators() -> None:
    text = "one\n\nstill one\n<|endoftext|>\n\n<|endoftext|>\n  \n<|endoftext|>\ntwo\n<|endoftext|>\nthree"
    assert split_documents(text) == ["one\n\nstill one", "two", "three"]
    assert split_documents("") == []


@pytest.mark.parametrize(("documents", "held"), [(2, 1), (20, 1), (21, 2), (100, 5), (101, 6)])
def test_the_last_documents_are_held_out(tmp_path: Path, documents: int, held: int) -> None:
    path = tmp_path / "a.txt"
    path.write_text("\n<|endoftext|>\n".join(f"document {n}" for n in range(documents)))
    (file,) = read_texts([path])
    assert file.train == [f"document {n}" for n in range(documents - held)]
    assert file.held_out == [f"document {n}" for n in range(documents - held, documents)]
    assert file.whole().train == file.train + file.held_out


def test_one_document_is_cut_at_a_line_end(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("\n".join(f"line {n}" for n in range(100)))
    (file,) = read_texts([path])
    lines = "\n".join([*file.train, *file.held_out]).split("\n")
    assert lines == [f"line {n}" for n in range(100)]
    assert 90 <= len(file.train[0].split("\n")) <= 95


@pytest.mark.parametrize(
    ("content", "error", "says"),
    [
        (b"", ParameterError, "holds no text"),
        (b"\n<|endoftext|>\n \n", ParameterError, "holds no text"),
        (b"one line", ParameterError, "too little to hold out"),
        (b"good\n\xff\xfe", ParameterError, "not UTF-8 text at byte 5"),
        (None, ModelFileError, "cannot be read"),
    ],
)
def test_bad_files_are_named(tmp_path: Path, content: bytes | None, error: type[FastlmError], says: str) -> None:
    path = tmp_path / "the_text.txt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(error, match=says) as raised:
        read_texts([path])
    assert "the_text.txt" in str(raised.value)


def test_weights_fit_the_files(corpus: Path) -> None:
    with pytest.raises(ParameterError, match="2 given for 1"):
        read_texts([corpus], [1, 2])
    with pytest.raises(ParameterError, match="over 0"):
        read_texts([corpus], [0])
    with pytest.raises(ParameterError, match="at least one"):
        read_texts([])


def rows_of(files: Sequence[TextFile], *, length: int = 16, batch: int = 4, seed: int = 0) -> Rows:
    return Rows(files, OneTokenPerWord(), length=length, batch=batch, seed=seed)


def test_batches_follow_from_seed_and_step() -> None:
    files = [numbered(50)]
    forwards, backwards = rows_of(files), rows_of(files)
    order = list(range(30))
    first = [forwards.batch(step) for step in order]
    second = [backwards.batch(step) for step in reversed(order)][::-1]
    assert all(np.array_equal(a, b) for a, b in zip(first, second, strict=True))
    assert first[0].shape == (4, 17) and first[0].dtype == np.int32
    assert not all(np.array_equal(a, rows_of(files, seed=1).batch(s)) for s, a in enumerate(first))
    assert not np.array_equal(first[0], first[13]), "another epoch has another order"


def test_every_token_is_an_input_once_and_a_target_once() -> None:
    rows = rows_of([numbered(50)], batch=1)
    epoch = [rows.batch(step)[0] for step in range(rows.epoch_tokens // 16 - 1)]
    assert all(a[-1] == b[0] for a, b in pairwise(epoch))
    seen = Counter(int(token) for row in epoch for token in row[1:])
    assert all(count <= 8 for token, count in seen.items() if token)
    assert sum(seen.values()) > 0.9 * rows.epoch_tokens


def test_weights_are_how_often_a_document_is_seen() -> None:
    rows = rows_of([numbered(100), numbered(100, 2.5, first=101)], batch=8)
    assert rows.epoch_tokens == 900 + 2250
    assert rows.steps(2.0) == -(-2 * 3150 // (16 * 8))
    seen = Counter(int(t) for step in range(rows.steps(20)) for t in rows.batch(step)[:, 1:].flatten() if t)
    light, heavy = (sum(seen[n] for n in numbers) for numbers in (range(1, 101), range(101, 201)))
    assert 2.3 < heavy / light < 2.7
    assert min(seen[n] for n in range(1, 201)) > 0


def test_too_little_text_is_said() -> None:
    with pytest.raises(ParameterError, match="too few for rows of 16"):
        rows_of([numbered(2)])


@given(st.integers(1, 200), st.integers(1, 40))
def test_windows_score_every_token_once_and_give_context(size: int, length: int) -> None:
    ids = np.arange(size + 1, dtype=np.int32)
    found = list(windows(ids, length))
    scored = [int(t) for window in found for t in window.ids[len(window.ids) - window.scored :]]
    assert scored == list(range(1, size + 1))
    assert all(len(window.ids) <= length + 1 for window in found)
    assert all(len(window.ids) - window.scored >= (length + 1) // 2 for window in found[1:])
