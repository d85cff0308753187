"""fastlm chat: on a terminal, and with questions from a pipe."""

from __future__ import annotations

import fcntl
import io
import json
import os
import pty
import re
import select
import struct
import subprocess
import sys
import termios
from contextlib import redirect_stdout
from pathlib import Path
from unittest.mock import patch

import pytest

import fastlm
from fastlm.cli.screen import Screen

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
    first, second, *_ = done.stderr.decode().splitlines()
    assert first.startswith(f"fastlm: {model}: llama (decoder)") and "context of 512 tokens" in first
    assert second == "fastlm: Ctrl-D ends the conversation, Ctrl-C an answer; /help shows what else there is"


def test_a_message_that_does_not_fit(model: Path) -> None:
    """It is left out of the conversation, which goes on; a pipe's questions are not left out without an error."""
    args, long = ("--model", model, *SHORT, "--context", "40"), b"red " * 100 + b"\n"
    done = chat_on_terminal(*args, typed=b"Once upon a\n" + long + b"Lily saw\n")
    told = [line for line in done.stderr.decode().splitlines() if "your last message is left out" in line]
    assert done.returncode == 0 and len(told) == 1 and "40" in told[0] and "/drop" in told[0]
    answers = done.stdout.replace(b"> ", b"").split(b"\n")
    fitting = chat(*args, data=b"Once upon a\nLily saw\n")
    assert answers == fitting.stdout.split(b"\n") and fitting.returncode == 0
    done = chat(*args, data=b"Once upon a\n" + long)
    assert done.returncode == 1 and b"40" in done.stderr and done.stderr.count(b"\n") == 1


def test_the_oldest_turns_go_where_that_is_asked_for(model: Path) -> None:
    args, questions = ("--model", model, *SHORT, "--context", "40"), [b"Once upon a time there was"] * 9
    kept = chat(*args, data=b"\n".join(questions))
    assert kept.returncode == 1 and b"more than the context of 40" in kept.stderr
    done = chat(*args, "--drop-oldest", data=b"\n".join(questions))
    assert done.returncode == 0 and b"of the oldest messages are forgotten" in done.stderr
    assert done.stdout.count(b"\n") >= len(questions)
    long = chat(*args, "--drop-oldest", data=b"red " * 100)
    assert long.returncode == 1 and b"more than the context" in long.stderr


def test_json_and_a_message_of_a_file(model: Path, tmp_path: Path) -> None:
    (tmp_path / "message.txt").write_text("Once upon\na time\n")
    done = chat("--model", model, *SHORT, "--json", "--prompt", tmp_path / "message.txt", data=b"not read\n")
    (record,) = map(json.loads, done.stdout.splitlines())
    with fastlm.load(model, threads=1) as own:
        messages = [{"role": "user", "content": "Once upon\na time"}]
        answer = own.chat(messages, max_tokens=4, temperature=0)
        assert (record["question"], record["text"]) == (messages[0]["content"], answer.text)
        assert record["usage"]["completion_tokens"] == len(answer.token_ids) and record["finish_reason"] == "length"
        text = chat("--model", model, *SHORT, "--prompt", "-", data=b"Once upon\na time").stdout.decode()
        assert text.rstrip("\n") == answer.text.rstrip("\n")
    done = chat("--model", model, *SHORT, "--json", data=b"Once upon a\nLily saw\n")
    assert [json.loads(line)["question"] for line in done.stdout.splitlines()] == ["Once upon a", "Lily saw"]


def test_reasoning_is_left_out_of_pipes(stories: Path, tmp_path: Path) -> None:
    thinking = save_thinking(stories, tmp_path / "thinks")
    done = chat("--model", thinking, *SHORT, "--json", data=b"Once upon a\n")
    record = json.loads(done.stdout)
    assert record["reasoning"] and record["text"] == ""
    assert chat("--model", thinking, *SHORT, data=b"Once upon a\n").stdout.strip() == b""


def save_thinking(stories: Path, folder: Path) -> Path:
    """A model whose prompts end in the midst of reasoning."""
    folder.mkdir()
    for path in stories.iterdir():
        (folder / path.name).symlink_to(path)
    template = "{% for m in messages %}{{ m.content.split('</think>')[-1] }} {% endfor %}<think>"
    (folder / "chat_template.jinja").write_text(template)
    return folder


# ---- a terminal -------------------------------------------------------------------------------------------------


class Terminal:
    """fastlm chat on a terminal of its own, which is typed to and read."""

    def __init__(self, home: Path, *args: str | Path, columns: int = 80, **env: str) -> None:
        self._own, theirs = pty.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
        command = [sys.executable, "-m", "fastlm", "chat", *map(str, args), "--threads", "1"]
        kept = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "NO_COLOR")}
        settings = {**kept, "TERM": "xterm", "XDG_STATE_HOME": str(home), "INPUTRC": os.devnull, **env}
        self._process = subprocess.Popen(
            command, stdin=theirs, stdout=theirs, stderr=theirs, cwd=ELSEWHERE, env=settings, start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
        )  # fmt: skip
        os.close(theirs)
        self.read(r"\n> $")

    def read(self, until: str) -> str:
        """What is shown, up to an end that a pattern describes."""
        shown = ""
        while not re.search(until, shown):
            ready, _, _ = select.select([self._own], [], [], 60)
            assert ready, f"{until!r} does not come: {shown!r}"
            try:
                part = os.read(self._own, 4096).decode()
            except OSError:  # it has ended
                part = ""
            assert part, f"{until!r} does not come: {shown!r}"
            shown += part.replace("\r\n", "\n").replace("\x1b[?2004h", "").replace("\x1b[?2004l\r", "")
        return shown

    def keys(self, text: str, until: str) -> str:
        os.write(self._own, text.encode())
        return self.read(until)

    def type(self, text: str, until: str = r"(?:^|\n)> $") -> str:
        """What is shown after a line, without the line and the next prompt."""
        return self.keys(text + "\n", until).partition("\n")[2].removesuffix("> ")

    def interrupt(self, until: str) -> str:
        """What is shown after Ctrl-C. Python hears it while it waits for a key, and not just before: then once more."""
        os.write(self._own, b"\x03")
        while not select.select([self._own], [], [], 0.5)[0]:
            os.write(self._own, b"\x03")
        return self.read(until)

    def end(self, keys: bytes = b"\x04") -> int:
        os.write(self._own, keys)
        status = self._process.wait(60)
        os.close(self._own)
        return status


def test_commands(model: Path, tmp_path: Path) -> None:
    terminal = Terminal(tmp_path / "state", "--model", model, "--draft", "lookup", *SHORT)
    first = terminal.type("Once upon a")
    assert "4 tokens; /params max_tokens=N" in first
    assert "/undo" in (shown := terminal.type("/help")) and "/quit" in shown and '"""' in shown
    assert terminal.type("/again") == first
    assert "written  4 tokens" in (stats := terminal.type("/stats")) and "of 512 tokens, 1 turns" in stats
    assert "max_tokens = 6" in (params := terminal.type("/params max_tokens=6")) and "Lookup(" in params
    assert "6 tokens; /params" in terminal.type("/again")
    assert "did you mean 'max_tokens'" in terminal.type("/params max_token=6")
    assert terminal.type("/params max_tokens=").count("max_tokens") == 0
    assert "there is none called 'zzz'" in terminal.type("/params adapter=zzz")  # and the conversation goes on
    terminal.type("/params max_tokens=4")
    kept = tmp_path / "talk.json"
    terminal.type("/system Be kind")
    assert f"{kept}: 1 turns" in terminal.type(f"/save {kept}")
    messages = json.loads(kept.read_text())
    assert [m["role"] for m in messages] == ["system", "user", "assistant"] and messages[0]["content"] == "Be kind"
    assert "forgotten: Once upon a" in terminal.type("/undo")
    assert "there is no turn yet" in terminal.type("/undo")
    assert "1 turns" in terminal.type(f"/load {kept}")
    assert "0 turns are left" in terminal.type("/drop") and "there are not 2 turns" in terminal.type("/drop 2")
    assert "unknown command /hepl; did you mean /help?" in terminal.type("/hepl")
    assert "/stats takes nothing" in terminal.type("/stats now")
    assert "/drop must be" in terminal.type("/drop " + "1" * 900)
    assert "stop" in terminal.type("/params stop=" + "[" * 900)
    kept.write_text('[{"role": "user", "content": "a"}]')
    assert "must follow each other" in terminal.type(f"/load {kept}")
    assert "cannot be read" in terminal.type("/load none.json")
    assert terminal.end(b"/quit\n") == 0


def test_lines_and_history(model: Path, tmp_path: Path) -> None:
    """Several lines are one message; lines are edited, and are there again in the next conversation."""
    with fastlm.load(model, threads=1) as own:
        messages = [{"role": "user", "content": "Once upon\na time"}]
        answer = own.chat(messages, max_tokens=4, temperature=0).text.splitlines()[0]
    terminal = Terminal(tmp_path / "state", "--model", model, *SHORT)
    assert answer in terminal.type("Once upon\\\na time")
    terminal.type("/undo")
    assert answer in terminal.type('"""Once upon\na time"""')
    terminal.type("/undo")
    assert "there is no turn yet" in terminal.type("/unxdo\x1b[D\x1b[D\x7f")  # two to the left, and one away
    assert terminal.end() == 0
    history = tmp_path / "state" / "fastlm" / "history"
    assert history.stat().st_mode & 0o777 == 0o600 and "a time" in history.read_text()
    terminal = Terminal(tmp_path / "state", "--model", model, *SHORT)
    assert "there is no turn yet" in terminal.type("\x1b[A")
    assert terminal.end() == 0


def test_words_are_not_cut_at_the_edge(model: Path, tmp_path: Path) -> None:
    options = ("--max-tokens", "60", "--temperature", "0")
    with fastlm.load(model, threads=1) as own:
        whole = own.chat([{"role": "user", "content": "Once upon a time"}], max_tokens=60, temperature=0).text
    terminal = Terminal(tmp_path / "state", "--model", model, *options, columns=24)
    shown = terminal.type("Once upon a time", until=r"max_tokens=N allows for more\s*> $")
    text = "\n".join(rendered(shown.partition("fastlm: ")[0], 23))
    assert text.split() == whole.split() and all(len(line) < 24 for line in text.splitlines())
    assert terminal.end() == 0


def rendered(sent: str, columns: int) -> list[str]:
    """The lines of a terminal that understands what is sent: wide letters, cursor left, clear to the end."""
    lines: list[list[str]] = [[]]
    at = 0
    for mark, count, letter in re.findall(r"(\x1b\[(\d*)[DKm])|(.|\n)", sent):
        if mark.endswith("D"):
            at -= int(count)
        elif mark.endswith("K"):
            del lines[-1][at:]
        elif letter == "\n":
            lines.append([])
            at = 0
        elif letter:
            taken = [letter, ""] if letter in "漢字" else [letter]
            assert at + len(taken) <= columns
            lines[-1][at : at + len(taken)] = taken
            at += len(taken)
    return ["".join(line) for line in lines]


def test_screen() -> None:
    """Wide letters, words longer than a line, pieces of words, control characters, and reasoning."""
    for pieces, wanted in (
        (["ab cde", "fg h i"], ["ab", "cdefg h", "i"]),
        (["abcdefghijk"], ["abcdefg", "hijk"]),
        (["a ", "漢字漢", "字 b"], ["a", "漢字漢", "字 b"]),
        (["ab\tcd"], ["ab", "cd"]),
        (["a\x1b[2J\x07b"], ["a␛[2J␇b"]),
        (["one\ntwo"], ["one", "two"]),
    ):
        sent = io.StringIO()
        with redirect_stdout(sent), patch.dict(os.environ, COLUMNS="8"):
            screen = Screen(dims=True)
            for piece in pieces:
                screen.text(piece)
            screen.end()
        lines = [line.rstrip() for line in rendered(sent.getvalue(), 99)]
        assert lines == [*wanted, ""], pieces
    sent = io.StringIO()
    with redirect_stdout(sent):
        screen = Screen(dims=True)
        screen.reasoning("think")
        screen.text("say")
        screen.end()
    assert sent.getvalue() == "\x1b[2mthink\x1b[0m\nsay\n"


def test_reasoning_is_dim(stories: Path, tmp_path: Path) -> None:
    thinking = save_thinking(stories, tmp_path / "thinks")
    terminal = Terminal(tmp_path / "state", "--model", thinking, *SHORT)
    assert terminal.type("Once upon a").startswith("\x1b[2m")
    assert terminal.end() == 0


def test_ctrl_c(model: Path, tmp_path: Path) -> None:
    """It ends an answer, then a line; the second one at a prompt ends the conversation."""
    terminal = Terminal(
        tmp_path / "state", "--model", model, "--max-tokens", "400", "--ignore-eos", "--temperature", "0"
    )
    terminal.type("Once upon a time", until=r"\n\w+ \w+ \w+ \w+ \w+")
    terminal.interrupt(r"> $")
    assert "written" in (stats := terminal.type("/stats")) and " 400 tokens in" not in stats
    terminal.keys("half a line", until="half a line$")
    terminal.interrupt(r"Ctrl-C once more does, too\s*> $")
    terminal.interrupt("fastlm: interrupted")
    assert terminal.end(b"") == 130
