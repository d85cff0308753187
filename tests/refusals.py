"""What every refusal must be: the right typed error, with the right words, soon and in little memory."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from fastlm.errors import FastlmError

SECONDS = 1.0
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
def refused(kind: type[FastlmError], *words: str) -> Iterator[None]:
    """The block must raise just that error, and the text must hold these words."""
    forget_peak()
    before, start = peak_bytes(), time.perf_counter()
    with pytest.raises(FastlmError) as caught:
        yield
    assert time.perf_counter() - start < SECONDS
    assert peak_bytes() - before < BYTES
    text = str(caught.value)
    assert type(caught.value) is kind, text
    assert all(word in text for word in words), text
    assert len(text) < 1000 and "\n" not in text
