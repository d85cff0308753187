"""A run on disk: folders that are there whole or not at all, and a run that goes on where it was killed."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any

from fastlm.errors import ModelFileError, ParameterError, StateError
from fastlm.weights.paths import path_of

PARTIAL = ".partial"  # ends the name of a folder that is being written
SUMMARY = "training.json"  # of a finished run: its settings and its log


@contextlib.contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """A write that fails in the block is a ModelFileError that says what to do."""
    try:
        yield
    except (OSError, RuntimeError) as error:  # torch reports a full disk as a RuntimeError, safetensors as its own
        raise _told(error, path) from error
    except Exception as error:
        if type(error).__module__.startswith("safetensors") or "SafetensorError" in type(error).__name__:
            raise _told(error, path) from error
        raise


def _told(error: Exception, path: Path) -> Exception:
    full = getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT) or _free(path) < 1 << 16
    if full or "No space left" in str(error):
        return ModelFileError(
            f"{path}: the disk is full: free some space and repeat the command: it goes on from there"
        )
    return ModelFileError(f"{path}: cannot be written: {error}")


def _free(path: Path) -> int:
    existing = next((p for p in (path, *path.parents) if p.exists()), Path("/"))
    return shutil.disk_usage(existing).free


def write_folder(target: Path, write: Callable[[Path], None]) -> None:
    """Fill a folder by `write` under another name, sync it, and give it its own name in one step."""
    partial = target.with_name(target.name + PARTIAL)
    with disk_errors(target):
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        allowed = partial.stat().st_mode & 0o777  # by the umask; to ask for it is to change it, for all threads
        try:
            write(partial)
            for path in sorted(partial.rglob("*"), reverse=True):
                path.chmod(allowed if path.is_dir() else allowed & 0o666)  # some writers make files private
                _sync(path)
            _sync(partial)
            partial.rename(target)
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)
            raise
        _sync(target.parent)


def remove_folder(target: Path) -> None:
    """Take a folder's name away in one step, then what is in it."""
    partial = target.with_name(target.name + PARTIAL)
    shutil.rmtree(partial, ignore_errors=True)
    if target.exists():
        target.rename(partial)
        shutil.rmtree(partial, ignore_errors=True)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_json(path: Path, value: object) -> None:
    path.write_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


class Run:
    """One training run: its result goes to `out`, what it needs to go on after being killed to `out`.run.

    The folder `out`.run holds settings.json and the newest checkpoint, step-N; it goes when the result is there.
    """

    def __init__(self, out: str | os.PathLike[str], settings: Mapping[str, Any]) -> None:
        self.out = path_of(out)
        self.folder = self.out.with_name(self.out.name + ".run")
        self.settings = json.loads(json.dumps(settings))
        self._lock: IO[bytes] | None = None

    def __enter__(self) -> bool:
        """Start or go on; False if the run has finished before.

        Raises
        ------
        ParameterError
            `out` exists and is not a result of these settings, or was begun with others.
        StateError
            Another process is at it.
        """
        if self.out.exists():
            self._compare(self.out / SUMMARY)
            remove_folder(self.folder)
            return False
        if self.folder.exists():
            self._compare(self.folder / "settings.json")
        else:
            write_folder(self.folder, lambda folder: write_json(folder / "settings.json", {"settings": self.settings}))
        self._take_lock()
        beside = [path.with_name(path.name + PARTIAL) for path in (self.out, self.folder)]
        for partial in [*self.folder.glob("*" + PARTIAL), *beside]:
            shutil.rmtree(partial, ignore_errors=True)
        return True

    def __exit__(self, *raised: object) -> None:
        self._unlock()

    def _unlock(self) -> None:
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def _take_lock(self) -> None:
        try:
            self._lock = (self.folder / "settings.json").open("rb")
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self._unlock()
            raise StateError(f"{self.folder}: another process is training here") from None

    def _compare(self, path: Path) -> None:
        try:
            before = json.loads(path.read_bytes())["settings"]
        except (OSError, ValueError, KeyError, TypeError):
            raise ParameterError(f"{path.parent}: exists, and no training run wrote it: give another --out") from None
        names = sorted({*before, *self.settings})
        changed = [name for name in names if before.get(name) != self.settings.get(name)]
        if changed:
            told = ", ".join(f"{n} ({before.get(n)!r:.60} then, {self.settings.get(n)!r:.60} now)" for n in changed)
            raise ParameterError(
                f"{path.parent}: was begun with other settings: {told}; delete it or give another --out"
            )

    def once(self, name: str, write: Callable[[Path], None]) -> Path:
        """The folder of this name, filled by `write` unless it is there already."""
        target = self.folder / name
        if not target.exists():
            write_folder(target, write)
        return target

    def save(self, step: int, write: Callable[[Path], None]) -> None:
        """Write a checkpoint, then drop the ones before."""
        older = self._checkpoints()
        target = self.folder / f"step-{step:09d}"
        if target not in older:
            write_folder(target, write)
        for path in older:
            if path != target:
                remove_folder(path)

    def newest(self) -> Path | None:
        """The newest checkpoint."""
        return max(self._checkpoints(), default=None)

    def _checkpoints(self) -> list[Path]:
        return [path for path in self.folder.glob("step-*") if not path.name.endswith(PARTIAL)]

    def finish(self, log: object, write: Callable[[Path], None]) -> None:
        """Write the result and drop what was needed to go on."""

        def whole(folder: Path) -> None:
            write(folder)
            write_json(folder / SUMMARY, {"settings": self.settings, "log": log})

        write_folder(self.out, whole)
        self._unlock()
        remove_folder(self.folder)
