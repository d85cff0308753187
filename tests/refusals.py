"""What every refusal must be: the right typed error, with the right words, after little work and in little memory."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from fastlm.errors import FastlmError

EVENTS = 4_000_000  # calls and returns, of Python and of C functions: half a second or so
BYTES = 64 << 20


def peak_bytes() -> int:
    lines = Path("/proc/self/status").read_text().splitlines() if sys.platform == "linux" else []
    return sum(1024 * int(line.split()[1]) for line in lines if line.startswith("VmHWM"))


def forget_peak() -> None:
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return


@contextmanager
def little_work() -> Iterator[None]:
    """The block makes few calls. Unlike a time, that is the same whatever else the machine does."""
    events = 0

    def count(*_: object) -> None:
        nonlocal events
        events += 1

    before = sys.getprofile()
    sys.setprofile(count)
    try:
        yield
    finally:
        sys.setprofile(before)
    assert events < EVENTS


@contextmanager
def refused(kind: type[FastlmError], *words: str) -> Iterator[None]:
    """The block must raise just that error, and the text must hold these words."""
    forget_peak()
    before = peak_bytes()
    with little_work(), pytest.raises(FastlmError) as caught:
        yield
    assert peak_bytes() - before < BYTES
    text = str(caught.value)
    assert type(caught.value) is kind, text
    assert all(word in text for word in words), text
    assert len(text) < 1000 and "\n" not in text
