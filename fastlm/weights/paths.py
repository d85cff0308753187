"""Paths that callers give, and files that are written whole or not at all."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from fastlm.errors import FastlmError, ModelFileError, ParameterError, file_error

_NAME_BYTES = 200  # of a name that its temporary file takes over: with what is added, file systems still take it


def path_of(given: object) -> Path:
    """A path that a caller gives. A `~` at its beginning is the home folder, as shells read it.

    Raises
    ------
    ParameterError
        It is none: of another type, empty, or with a character that no file system takes.
    """
    try:
        if isinstance(given, (str, os.PathLike)) and os.fspath(given) and b"\0" not in os.fsencode(given):
            return _at_home(Path(os.fsdecode(given)))
    except UnicodeEncodeError:
        pass
    raise ParameterError(f"path: expected the name of a file or folder, found {given!r:.200}")


def _at_home(path: Path) -> Path:
    try:
        return path.expanduser()
    except RuntimeError:  # there is no home
        return path


def identity_of(found: os.stat_result) -> tuple[int, ...]:
    """What tells a file from one that takes its name, and from itself before it was away: a rename sets ctime."""
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns


@contextmanager
def replacing(path: object) -> Iterator[BinaryIO]:
    """A file to write, which takes the place of `path` at the end of the block.

    Its bytes go to a temporary file beside it that is renamed at the end, so `path` may be a file that is being read,
    and an error in the block, Ctrl-C or a full disk leaves what was there before. A symbolic link is followed.

    Who writes holds a lock on the temporary file, which ends with the process: one without a lock was left behind by a
    process that was killed, and is removed by the next who writes a file of that name.

    Raises
    ------
    ModelFileError, ModelMemoryError
        The file cannot be written, whatever of it fails.
    ParameterError
        `path` is none.
    """
    target, temporary = _followed(path), None
    try:
        if target.is_symlink() or (target.exists() and not target.is_file()):
            raise ModelFileError(f"{path}: cannot be written: it exists and is not a file")
        name = os.fsencode(target.name)[:_NAME_BYTES].decode("utf-8", "ignore")  # cut between letters
        prefix = f".{os.fsdecode(name.encode())}."
        _remove_left_over(target.parent, prefix)
        temporary, file = _open_locked(target.parent, prefix)
        with file:
            yield file
            file.flush()
            os.fsync(file.fileno())
            temporary.replace(target)
        _sync_folder(target.parent)
    except BaseException as error:
        if temporary is not None:
            with suppress(OSError):
                temporary.unlink()
        if isinstance(error, OSError) and not isinstance(error, FastlmError):
            raise file_error(path, "written", error) from error
        raise


def _followed(path: object) -> Path:
    """Where links lead to."""
    try:
        return path_of(path).resolve()
    except (OSError, RuntimeError) as error:  # RuntimeError: of a link that leads to itself
        raise file_error(path, "written", error) from error


def _open_locked(folder: Path, prefix: str) -> tuple[Path, BinaryIO]:
    while True:
        path = folder / f"{prefix}{os.urandom(8).hex()}.tmp"
        file = path.open("xb")
        try:
            if _lock(file.fileno()) is not False and path.exists():
                return path, file
        except BaseException:
            file.close()
            raise
        file.close()  # another took it for left over, before it was locked


def _lock(handle: int) -> bool | None:
    """Lock a file without waiting for it; None: this system, or file system, has no locks."""
    try:
        import fcntl

        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except (ImportError, OSError):
        return None
    return True


def _remove_left_over(folder: Path, prefix: str) -> None:
    """Remove the temporary files that nobody holds a lock on, as far as this process may."""
    named = re.compile(re.escape(prefix) + "[0-9a-f]{16}\\.tmp")
    with suppress(OSError):
        for path in [entry for entry in folder.iterdir() if named.fullmatch(entry.name)]:
            with suppress(OSError):
                handle = os.open(path, os.O_RDWR | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0))
                try:
                    if _lock(handle):
                        path.unlink()
                finally:
                    os.close(handle)


def _sync_folder(folder: Path) -> None:
    """Make a rename last through a power cut, where folders can be opened, and this one may be read."""
    if not hasattr(os, "O_DIRECTORY"):
        return
    try:
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    except PermissionError:
        return
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
