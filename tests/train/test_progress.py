"""The line that tells how far training is: one line of a terminal, or a line for each validation."""

from __future__ import annotations

import io
import sys

import pytest

from fastlm.train.loop import Progress, State

STEPS, EVERY = 12345, 5


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def told(stream: io.StringIO, monkeypatch: pytest.MonkeyPatch, steps: int = 20) -> str:
    """What is told of some steps in the midst of a long run."""
    monkeypatch.setattr(sys, "stderr", stream)
    state = State(step=11000, seconds=3.0)
    progress = Progress(STEPS, 16 * 512, state)
    for step in range(1, steps + 1):
        state.step, state.seconds = 11000 + step, 3.0 + 4000 * step
        state.loss_sum, state.loss_steps = 3.0 * step, step
        if step % EVERY == 0:
            state.loss_sum, state.loss_steps = 0.0, 0
            progress.line({"bits_per_byte": {"all": 1.2345}, "loss": 2.5})
        progress.show(state)
    return stream.getvalue()


@pytest.mark.parametrize("columns", [40, 79, 80, 200])
def test_a_terminal_shows_one_line(columns: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is written over at each step, and stays after a validation; it never fills the line, which would begin a new
    one."""
    monkeypatch.setenv("COLUMNS", str(columns))
    text = told(Terminal(), monkeypatch)
    shown = text.split("\r\x1b[K")[1:]
    assert len(shown) == 20 and text.count("\n") == 20 // EVERY
    assert all(len(line.rstrip("\n")) < columns for line in shown)
    assert all(line.endswith("\n") == (i % EVERY == EVERY - 1) for i, line in enumerate(shown))
    assert shown[-1].startswith("step 11020/12345  loss 2.5000  1.23"[: columns - 1])


def test_what_the_line_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    last = told(Terminal(), monkeypatch).split("\r\x1b[K")[-1]
    for words in ("step 11020/12345", "loss 2.5000", "1.2345 bits/byte", " h ", " left", "2 tokens/s"):
        assert words in last


def test_elsewhere_a_line_for_each_validation(monkeypatch: pytest.MonkeyPatch) -> None:
    text = told(io.StringIO(), monkeypatch)
    assert text.count("\n") == 20 // EVERY and "\r" not in text and "\x1b" not in text
    assert all("bits/byte" in line for line in text.splitlines())
