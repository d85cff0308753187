"""fastlm chat: on a terminal, and with questions from a pipe."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest

ELSEWHERE = sys.prefix  # not the repository, whose package is not built in place
Ended = subprocess.CompletedProcess[bytes]
SHORT = ("--max-tokens", "4", "--temperature", "0")


@pytest.fixture
def model(stories: Path, tmp_path: Path) -> Path:
    """A model with a chat template, though it was trained to write stories."""
    for path in stories.iterdir():
        (tmp_path / path.name).symlink_to(path)
    (tmp_path / "chat_template.jinja").write_text("{% for m in messages %}{{ m.content }} {% endfor %}")
    return tmp_path


def chat(*args: str | Path, data: bytes, **env: str) -> Ended:
    command = [sys.executable, "-m", "fastlm", "chat", *map(str, args)]
    return subprocess.run(
        command, capture_output=True, input=data, timeout=60, cwd=ELSEWHERE, env={**os.environ, **env}
    )


def chat_on_terminal(*args: str | Path, typed: bytes) -> Ended:
    """What a person types, all at once, with Ctrl-D at the end."""
    keyboard, terminal = pty.openpty()
    command = [sys.executable, "-m", "fastlm", "chat", *map(str, args)]
    try:
        os.write(keyboard, typed + b"\x04")
        return subprocess.run(command, stdin=terminal, capture_output=True, timeout=60, cwd=ELSEWHERE)
    finally:
        os.close(keyboard)
        os.close(terminal)


def test_questions_from_a_pipe(model: Path) -> None:
    done = chat("--model", model, *SHORT, data=b"Once upon a\nLily \xe2\x80\x94 saw", PYTHONIOENCODING="ascii")
    assert (done.returncode, done.stderr) == (0, b"")
    assert len(done.stdout.decode().splitlines()) >= 2 and b"> " not in done.stdout
    done = chat("--model", model, *SHORT, data=b"caf\xe9\n")
    assert done.returncode == 2 and b"standard input is not UTF-8" in done.stderr


def test_empty_lines_are_no_questions(model: Path) -> None:
    done = chat("--model", model, *SHORT, data=b"\nOnce upon a\n\n  \r\nLily saw\n\n")
    assert done.returncode == 0 and done.stdout
    assert done.stdout == chat("--model", model, *SHORT, data=b"Once upon a\nLily saw\n").stdout


def test_models_that_cannot_chat_say_so_before_they_ask(stories: Path) -> None:
    done = chat(data=b"Hello\n")
    assert (done.returncode, done.stdout) == (1, b"")
    assert b"has no chat template" in done.stderr and b"fastlm chat --model path/to/checkpoint" in done.stderr
    done = chat("--model", stories, data=b"Hello\n")
    assert (done.returncode, done.stdout) == (1, b"")
    assert f"{stories}: has no chat template".encode() in done.stderr and b"chat_template.jinja" in done.stderr


def test_a_terminal_is_told_how_to_leave(model: Path) -> None:
    done = chat_on_terminal("--model", model, *SHORT, typed=b"Once upon a\n")
    assert done.returncode == 0 and done.stdout.count(b"> ") == 2
    assert done.stderr == f"fastlm: {model}; Ctrl-D ends the conversation, Ctrl-C an answer\n".encode()


def test_a_message_that_does_not_fit(model: Path) -> None:
    """It is left out of the conversation, which goes on; a pipe's questions are not left out without an error."""
    args, long = ("--model", model, *SHORT, "--context", "40"), b"red " * 100 + b"\n"
    done = chat_on_terminal(*args, typed=b"Once upon a\n" + long + b"Lily saw\n")
    _, told = done.stderr.decode().splitlines()
    assert done.returncode == 0 and "40" in told and "your last message is left out" in told
    answers = done.stdout.replace(b"> ", b"").split(b"\n")
    fitting = chat(*args, data=b"Once upon a\nLily saw\n")
    assert answers == fitting.stdout.split(b"\n") and fitting.returncode == 0
    done = chat(*args, data=b"Once upon a\n" + long)
    assert done.returncode == 1 and b"40" in done.stderr and done.stderr.count(b"\n") == 1
