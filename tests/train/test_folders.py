"""Folders are there whole or not at all, and a run knows its own. Needs no torch."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path
from typing import Any

import pytest

from fastlm.errors import ModelFileError, ParameterError, StateError
from fastlm.train import folders
from fastlm.train.folders import PARTIAL, Run, write_folder


def fill(folder: Path) -> None:
    (folder / "a.txt").write_text("a")
    (folder / "inner").mkdir()
    (folder / "inner" / "b.txt").write_text("b")


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_folder_appears_whole(tmp_path: Path) -> None:
    seen = []

    def look(folder: Path) -> None:
        fill(folder)
        seen.extend(names(tmp_path))

    write_folder(tmp_path / "x", look)
    assert seen == ["x" + PARTIAL] and names(tmp_path) == ["x"] and names(tmp_path / "x") == ["a.txt", "inner"]


@pytest.mark.parametrize("mask", [0o022, 0o027, 0o077])
def test_modes_are_those_of_the_umask(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mask: int) -> None:
    """Which is not touched: it belongs to all threads of the process."""

    def write(folder: Path) -> None:
        fill(folder)
        (folder / "a.txt").chmod(0o600)  # as some libraries make their files

    before = os.umask(mask)
    try:
        with monkeypatch.context() as patched:
            patched.setattr(os, "umask", lambda mask: pytest.fail("the umask was changed"))
            write_folder(tmp_path / "x", write)
    finally:
        os.umask(before)
    modes = {path.name: path.stat().st_mode & 0o777 for path in (tmp_path / "x", *(tmp_path / "x").rglob("*"))}
    file, folder = 0o666 & ~mask, 0o777 & ~mask
    assert modes == {"x": folder, "a.txt": file, "inner": folder, "b.txt": file}


@pytest.mark.parametrize("error", [ValueError("broken"), KeyboardInterrupt()])
def test_a_writer_that_fails_leaves_nothing(tmp_path: Path, error: BaseException) -> None:
    def fail(folder: Path) -> None:
        fill(folder)
        raise error

    with pytest.raises(type(error)):
        write_folder(tmp_path / "x", fail)
    assert names(tmp_path) == []


@pytest.mark.parametrize("call", ["fsync", "mkdir", "rename"])
def test_a_full_disk_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str) -> None:
    def full(*given: Any, **named: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    if call == "fsync":
        monkeypatch.setattr(folders.os, "fsync", full)
    else:
        monkeypatch.setattr(Path, call, full)
    with pytest.raises(ModelFileError, match="disk is full: free some space and repeat"):
        write_folder(tmp_path / "x", fill)
    monkeypatch.undo()
    assert names(tmp_path) == []


def test_a_writer_that_hides_the_full_disk(tmp_path: Path) -> None:
    def full(folder: Path) -> None:
        raise RuntimeError("[enforce fail at inline_container.cc] . No space left on device")

    with pytest.raises(ModelFileError, match="disk is full"):
        write_folder(tmp_path / "x", full)


def test_a_run_goes_on_with_the_same_settings_only(tmp_path: Path) -> None:
    out = tmp_path / "deep" / "out"
    with Run(out, {"lr": 1.0, "steps": 3}) as unfinished:
        assert unfinished
    with (
        pytest.raises(ParameterError, match=r"other settings: lr \(1.0 then, 2.0 now\); delete it or"),
        Run(out, {"lr": 2.0, "steps": 3}),
    ):
        pass
    run = Run(out, {"lr": 1.0, "steps": 3})
    with run as unfinished:
        assert unfinished and run.newest() is None
        run.save(1, fill)
        run.save(2, fill)
        assert run.newest() == run.folder / "step-000000002"
        assert names(run.folder) == ["settings.json", "step-000000002"]
        run.finish([1, 2], fill)
    assert names(out.parent) == ["out"] and names(out) == ["a.txt", "inner", "training.json"]
    assert json.loads((out / "training.json").read_text()) == {"settings": {"lr": 1.0, "steps": 3}, "log": [1, 2]}
    with Run(out, {"lr": 1.0, "steps": 3}) as unfinished:
        assert not unfinished
    with pytest.raises(ParameterError, match="other settings"), Run(out, {"lr": 1.0, "steps": 4}):
        pass


def test_a_foreign_folder_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    fill(tmp_path / "out")
    with pytest.raises(ParameterError, match="no training run wrote it"), Run(tmp_path / "out", {}):
        pass
    assert names(tmp_path / "out") == ["a.txt", "inner"]


def test_leftovers_of_a_kill_go(tmp_path: Path) -> None:
    run = Run(tmp_path / "out", {})
    with run:
        pass
    for left in (run.folder / ("step-000000005" + PARTIAL), tmp_path / ("out" + PARTIAL)):
        left.mkdir()
        (left / "half").write_text("")
    with run:
        assert names(tmp_path) == ["out.run"] and names(run.folder) == ["settings.json"]
        assert run.newest() is None


def test_one_process_at_a_time(tmp_path: Path) -> None:
    first, second = Run(tmp_path / "out", {}), Run(tmp_path / "out", {})
    with first, pytest.raises(StateError, match="another process"), second:
        pass
    with second as unfinished:
        assert unfinished


def test_once_writes_once(tmp_path: Path) -> None:
    run, calls = Run(tmp_path / "out", {}), []

    def write(folder: Path) -> None:
        calls.append(folder)
        fill(folder)

    with run:
        assert names(run.once("tokenizer", write)) == names(run.once("tokenizer", write)) == ["a.txt", "inner"]
    assert len(calls) == 1
