"""How far loading is: a caller's function, or a bar."""

from __future__ import annotations

import sys
from collections.abc import Callable

from fastlm.arguments import shown
from fastlm.errors import ParameterError

Progress = Callable[[int, int, str], None]  # bytes done, bytes in all, and the tensor


def reporter(progress: Progress | bool | None) -> Progress:
    if callable(progress):
        return progress
    if not isinstance(progress, bool | None):
        raise ParameterError(f"progress must be a function, True or False, not {shown(progress)}")
    return _bar if progress else lambda done, total, name: None


def _bar(done: int, total: int, name: str) -> None:
    part = done / total if total else 1.0
    filled = round(30 * part)
    end = "\n" if done == total else ""
    sys.stderr.write(f"\r[{'#' * filled}{' ' * (30 - filled)}] {done / 1e6:.0f} / {total / 1e6:.0f} MB{end}")
    sys.stderr.flush()
