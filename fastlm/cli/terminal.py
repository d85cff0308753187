"""Talking on a terminal: lines that are edited, questions of several lines, and commands."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from fastlm.arguments import UNBOUNDED, whole
from fastlm.cli import streams
from fastlm.cli.parser import nearest
from fastlm.cli.screen import Printer
from fastlm.cli.talk import Answer, Talk
from fastlm.errors import ContextLengthError, FastlmError, ParameterError, StateError, file_error
from fastlm.weights.paths import path_of, replacing

FIRST, NEXT = "> ", ". "
QUOTES = '"""'
REMEDY = "/drop forgets the oldest turn, /undo the last one"
LINES = f"A \\ at the end of a line, or {QUOTES} before and behind several, makes them one message."
HISTORY_LINES = 1000


def converse(talk: Talk, show: Printer, as_json: bool) -> None:
    """Ask, and answer, until the input ends. Errors are told, and the conversation goes on."""
    commands, interrupted = _Commands(talk, show, as_json), False
    with _history():
        while not commands.ended:
            try:
                question = _question()
                interrupted = False
                if question is None:
                    break
                if question.strip():
                    commands.take(question)
            except KeyboardInterrupt:
                if interrupted:
                    raise
                interrupted = True
                streams.tell("")
                streams.note("Ctrl-D ends the conversation; Ctrl-C once more does, too")
            except (streams.InputError, streams.OutputError):  # the terminal is gone
                raise
            except ContextLengthError as error:
                streams.note(f"{error}: your last message is left out. {REMEDY}")
            except FastlmError as error:
                streams.note(str(error))
    if not commands.ended:
        streams.write("\n")


def _question() -> str | None:
    r"""What is typed: a line; several, each but the last with a \ at its end; or all between two lines of quotes."""
    line = streams.ask(FIRST)
    if line is None:
        return None
    if line.startswith(QUOTES):
        return _quoted(line.removeprefix(QUOTES))
    lines = [line]
    while lines[-1].endswith("\\"):
        lines[-1] = lines[-1][:-1]
        if (line := streams.ask(NEXT)) is None:
            break
        lines.append(line)
    return "\n".join(lines)


def _quoted(first: str) -> str:
    lines, line = [], first
    while not line.endswith(QUOTES):
        lines.append(line)
        found = streams.ask(NEXT)
        if found is None:
            return "\n".join(lines).strip("\n")
        line = found
    return "\n".join([*lines, line.removesuffix(QUOTES)]).strip("\n")


# ---- commands ---------------------------------------------------------------------------------------------------


class _Commands:
    """What a line asks for: an answer, or what its first word says."""

    def __init__(self, talk: Talk, show: Printer, as_json: bool) -> None:
        self._talk = talk
        self._show = show
        self._as_json = as_json
        self.ended = False
        self._known: dict[str, tuple[str, str, Callable[[str], None]]] = {
            "/help": ("", "show this", self._help),
            "/system": ("[TEXT]", "show, or set, the message before the conversation; - takes it away", self._system),
            "/undo": ("", "forget the last question and its answer", self._undo),
            "/again": ("", "answer the last question anew", self._again),
            "/drop": ("[N]", "forget the oldest turn, or the N oldest", self._drop),
            "/params": (
                "[NAME=VALUE ...]",
                "show, or set, how answers are written; NAME= unsets",
                self._params,
            ),
            "/stats": ("", "what the last answer took, and how full the context is", self._stats),
            "/save": ("FILE", "keep the conversation as JSON", self._save),
            "/load": ("FILE", "go on with one that was kept", self._load),
            "/quit": ("", "end, as Ctrl-D does", self._quit),
        }

    def take(self, line: str) -> None:
        """Do what a line says. // at its beginning is a / of the message."""
        if not line.startswith("/") or line.startswith("//"):
            self._tell(self._talk.ask(line.removeprefix("/") if line.startswith("//") else line, self._show))
            return
        name, _, rest = line.partition(" ")
        if name not in self._known:
            near = nearest(name, self._known)
            hint = f"did you mean {near}?" if near else "/help shows those that there are"
            raise ParameterError(f"unknown command {name}; {hint} (a message that begins with / is written //)")
        takes, _, run = self._known[name]
        if rest.strip() and not takes:
            raise ParameterError(f"{name} takes nothing, and there is {rest.strip()!r:.60}")
        run(rest.strip())

    def _tell(self, answer: Answer) -> None:
        if self._as_json:
            streams.write_json(answer.record())
        if answer.fills_context:
            streams.note(f"{self._talk.full()}. {REMEDY}")
        elif answer.done.finish_reason == "length":
            n = len(answer.done.token_ids)
            streams.note(f"the answer ends at {n:,} tokens; /params max_tokens=N allows for more")

    def _help(self, rest: str) -> None:
        width = max(len(f"{name} {takes}") for name, (takes, _, _) in self._known.items())
        for name, (takes, what, _) in self._known.items():
            streams.tell(f"  {f'{name} {takes}':<{width}}  {what}")
        streams.tell(f"  {LINES}")

    def _system(self, rest: str) -> None:
        if rest:
            self._talk.system = None if rest == "-" else rest
        streams.tell(self._talk.system or "there is no message before the conversation")

    def _undo(self, rest: str) -> None:
        streams.tell(f"forgotten: {self._talk.undo()}")

    def _again(self, rest: str) -> None:
        self._tell(self._talk.again(self._show))

    def _drop(self, rest: str) -> None:
        n = 1 if not rest else whole(int(rest) if rest.isdecimal() and len(rest) < 10 else rest, "/drop", 1, UNBOUNDED)
        self._talk.drop(n)
        streams.tell(f"{len(self._talk.messages) // 2} turns are left")

    def _params(self, rest: str) -> None:
        given = dict(_setting(word) for word in rest.split())
        if given:
            self._talk.change(given)
        for name, value in self._talk.params.items():
            if value is not None:
                streams.tell(f"  {name} = {json.dumps(value, ensure_ascii=False, default=repr)}")
        streams.tell("  what is not here is as the model's generation_config.json says, or off")

    def _stats(self, rest: str) -> None:
        last = self._talk.last
        if last is None:
            raise StateError("there is no answer yet")
        usage, times = last.done.usage, last.done.timings
        n = usage.completion_tokens
        rate = f", {(n - 1) / times.decode_seconds:,.1f} tokens a second" if n > 1 and times.decode_seconds > 0 else ""
        streams.tell(f"  written  {n:,} tokens in {times.decode_seconds:.2f} s{rate}")
        kept = f", {usage.cached_tokens:,} of them known from before" if usage.cached_tokens else ""
        streams.tell(f"  read     {usage.prompt_tokens:,} tokens in {times.prompt_seconds:.2f} s{kept}")
        used, context = usage.prompt_tokens + n, self._talk.model.context
        streams.tell(f"  context  {used:,} of {context:,} tokens, {len(self._talk.messages) // 2} turns")

    def _save(self, rest: str) -> None:
        path = _named(rest, "/save")
        with replacing(path) as file:
            file.write(json.dumps(self._talk.whole(), ensure_ascii=False, indent=1).encode() + b"\n")
        streams.tell(f"{path}: {len(self._talk.messages) // 2} turns")

    def _load(self, rest: str) -> None:
        path = _named(rest, "/load")
        try:
            found = json.loads(path.read_text("utf-8"))
        except OSError as error:
            raise file_error(path, "read", error) from error
        except (ValueError, RecursionError) as error:
            raise ParameterError(f"{path}: is no JSON: {error}") from None
        try:
            self._talk.restore(found)
        except ParameterError as error:
            raise ParameterError(f"{path}: {error}") from None
        streams.tell(f"{path}: {len(self._talk.messages) // 2} turns")

    def _quit(self, rest: str) -> None:
        self.ended = True


def _named(rest: str, name: str) -> Path:
    if not rest:
        raise ParameterError(f"{name}: say the name of a file: {name} talk.json")
    return path_of(rest)


def _setting(word: str) -> tuple[str, Any]:
    """NAME=VALUE, which is JSON or a text; NAME=: None."""
    name, equals, value = word.partition("=")
    if not equals:
        raise ParameterError(f"/params: expected NAME=VALUE, found {word}")
    try:
        return name, json.loads(value) if value else None
    except (ValueError, RecursionError):
        return name, value


# ---- lines that were typed before -------------------------------------------------------------------------------


@contextmanager
def _history() -> Iterator[None]:
    """Editing of lines, with those of earlier conversations, where Python has readline and standard output shows it."""
    readline = _readline()
    if readline is None:
        yield
        return
    path = Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state") / "fastlm" / "history"
    readline.set_history_length(HISTORY_LINES)
    try:
        readline.read_history_file(path)
    except FileNotFoundError:
        readline.clear_history()
    except OSError as error:
        streams.note(f"{path}: cannot be read: {error.strerror}")
    try:
        yield
    finally:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch(0o600)  # what is asked is nobody else's
            readline.write_history_file(path)
        except OSError as error:
            streams.note(f"{path}: cannot be written: {error.strerror}")


def _readline() -> Any:
    import sys

    if not (sys.stdout and sys.stdout.isatty()):
        return None
    try:
        import readline
    except ImportError:
        return None
    return readline
