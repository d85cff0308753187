"""Files that are written whole or not at all, wherever that is, and what killed writers leave."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from fastlm.errors import FastlmError, ModelFileError, ModelMemoryError, ParameterError, file_error
from fastlm.weights import paths
from fastlm.weights.paths import path_of, replacing


def write(path: Any, data: bytes = b"new") -> None:
    with replacing(path) as file:
        file.write(data)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


# ---- paths that are none, or lead nowhere ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    "path", ["", b"", b"x", None, 7, 2.5, object(), "a\0b", "\ud800.flm", ["a"]], ids=lambda path: type(path).__name__
)
def test_what_is_no_path(path: Any) -> None:
    for call in (path_of, write):
        with pytest.raises(ParameterError, match="path"):
            call(path)


def loops(folder: Path) -> Path:
    (folder / "a").symlink_to(folder / "b")
    (folder / "b").symlink_to(folder / "a")
    return folder / "a"


PLACES = {
    "name too long": lambda folder: folder / ("x" * 300),
    "path too long": lambda folder: folder / "/".join(["y" * 200] * 40) / "m.flm",
    "link to itself": loops,
    "below a link to itself": lambda folder: loops(folder) / "m.flm",
    "no folder": lambda folder: folder / "none" / "m.flm",
    "below a file": lambda folder: Path(__file__) / "m.flm",
    "a folder": lambda folder: folder,
    "a device": lambda folder: Path(os.devnull),
}


@pytest.mark.parametrize("place", PLACES)
def test_places_where_nothing_can_be_written(tmp_path: Path, place: str) -> None:
    path = PLACES[place](tmp_path)
    before = names(tmp_path)
    with pytest.raises(ModelFileError, match="cannot be written") as caught:
        write(path)
    assert names(tmp_path) == before and len(str(caught.value)) < 500


@pytest.mark.parametrize(
    "name", ["x" * 255, "\u3042" * 81 + ".flm", "\U0001f600" * 60 + ".flm", "\u00e9" * 127, ".flm"]
)
def test_names_that_are_as_long_as_the_system_takes(tmp_path: Path, name: str) -> None:
    write(tmp_path / name)
    assert names(tmp_path) == [name] and (tmp_path / name).read_bytes() == b"new"


def test_names_that_are_no_text(tmp_path: Path) -> None:
    path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff\xfe.flm"))
    try:
        path.touch()
    except OSError:
        pytest.skip("this file system has names in UTF-8 only")
    write(path)
    assert path.read_bytes() == b"new"


# ---- what the system refuses ----------------------------------------------------------------------------------------


def test_a_folder_that_may_not_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file is written; that its name lasts through a power cut cannot be seen to, nor what was left over."""

    def refuse(*_: object, **__: object) -> Any:
        raise PermissionError(errno.EACCES, "Permission denied")

    real = os.open

    def open_no_folder(path: Any, flags: int, *rest: int) -> int:
        return refuse() if flags & os.O_DIRECTORY else real(path, flags, *rest)

    monkeypatch.setattr(Path, "iterdir", refuse)
    monkeypatch.setattr(os, "open", open_no_folder)
    write(tmp_path / "m.flm")
    monkeypatch.undo()
    assert names(tmp_path) == ["m.flm"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_folder_without_read_permission(tmp_path: Path) -> None:
    tmp_path.chmod(0o300)
    try:
        write(tmp_path / "m.flm")
        assert (tmp_path / "m.flm").read_bytes() == b"new"
    finally:
        tmp_path.chmod(0o700)


KINDS = [(errno.ENOMEM, ModelMemoryError), (errno.EIO, ModelFileError), (errno.EACCES, ModelFileError)]


@pytest.mark.parametrize(("number", "kind"), KINDS)
def test_what_is_missing_is_named(number: int, kind: type[FastlmError]) -> None:
    """Memory that the system lacks for a file is no fault of the file."""
    error = file_error("a/b.flm", "read", OSError(number, os.strerror(number)))
    assert type(error) is kind and str(error) == f"a/b.flm: cannot be read: {os.strerror(number)}"


@pytest.mark.parametrize(("number", "kind"), KINDS)
def test_an_error_while_writing(tmp_path: Path, number: int, kind: type[FastlmError]) -> None:
    (tmp_path / "m.flm").write_bytes(b"old")
    with pytest.raises(kind, match="cannot be written"), replacing(tmp_path / "m.flm") as file:
        file.write(b"new")
        raise OSError(number, os.strerror(number))
    assert names(tmp_path) == ["m.flm"] and (tmp_path / "m.flm").read_bytes() == b"old"


# ---- what killed writers leave --------------------------------------------------------------------------------------

WRITER = """
import sys, time
from fastlm.weights.paths import replacing
with replacing(sys.argv[1]) as file:
    file.write(b"slow")
    file.flush()
    print("writing", flush=True)
    sys.stdin.read()
"""


@contextmanager
def writer(path: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Another process in the midst of writing the file; it ends when its input does."""
    environment = {**os.environ, "PYTHONPATH": str(Path(paths.__file__).parents[2])}  # the package that runs here
    command = [sys.executable, "-c", WRITER, str(path)]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, env=environment, stdin=pipe, stdout=pipe, cwd=path.parent) as child:
        assert child.stdout is not None and child.stdout.readline() == b"writing\n"
        try:
            yield child
        finally:
            child.kill()


def test_what_a_killed_writer_left_is_removed(tmp_path: Path) -> None:
    path = tmp_path / "m.flm"
    for _ in range(3):
        with writer(path) as child:
            child.send_signal(signal.SIGKILL)
            child.wait(timeout=20)
    left = names(tmp_path)
    assert len(left) == 1, "each removed what the one before it had left"
    others = [".m.flm.0123456789abcdef.tmp.x", ".m.flm.0123.tmp", ".n.flm.0123456789abcdef.tmp", "m.flm.tmp"]
    for name in others:
        (tmp_path / name).touch()
    write(path)
    assert names(tmp_path) == sorted([*others, "m.flm"]) and path.read_bytes() == b"new"


def test_a_running_writer_keeps_its_file(tmp_path: Path) -> None:
    path = tmp_path / "m.flm"
    with writer(path) as child:
        write(path)
        assert len(names(tmp_path)) == 2 and path.read_bytes() == b"new"
        child.communicate(timeout=20)
        assert child.returncode == 0
    assert names(tmp_path) == ["m.flm"] and path.read_bytes() == b"slow"


def test_what_is_no_file_is_left_alone(tmp_path: Path) -> None:
    """A pipe or a link of such a name is nobody's left-over, and nothing waits for it."""
    pipe, link = (tmp_path / f".m.flm.{digit * 16}.tmp" for digit in "ab")
    os.mkfifo(pipe)
    (tmp_path / "precious").write_bytes(b"precious")
    link.symlink_to(tmp_path / "precious")
    write(tmp_path / "m.flm")
    assert (tmp_path / "precious").read_bytes() == b"precious" and link.is_symlink()


def test_a_file_that_is_taken_for_left_over_before_it_is_locked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Then another one is begun."""
    real, calls = paths._lock, 0

    def late(handle: int) -> bool | None:
        nonlocal calls
        calls += 1
        if calls == 1:
            (tmp_path / names(tmp_path)[0]).unlink()
        return False if calls == 2 else real(handle)

    monkeypatch.setattr(paths, "_lock", late)
    write(tmp_path / "m.flm")
    assert calls == 3 and (tmp_path / "m.flm").read_bytes() == b"new"


def test_a_file_system_without_locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing tells there what is left over, so nothing is removed."""
    left = tmp_path / ".m.flm.0123456789abcdef.tmp"
    left.touch()
    monkeypatch.setattr(paths, "_lock", lambda handle: None)
    write(tmp_path / "m.flm")
    assert names(tmp_path) == [left.name, "m.flm"]
