"""Standard input, output and error, whatever they are: closed, full, without a reader, of another encoding."""

from __future__ import annotations

import io
import json
import os
import stat
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from fastlm.errors import FastlmError, ModelFileError, ParameterError

STDIN = "-"


class OutputError(ModelFileError):
    """Standard output cannot be written."""


class InputError(ModelFileError):
    """Standard input cannot be read."""


def prepare() -> None:
    """Have the streams take any text: pipes bring UTF-8, and what the encoding of the output lacks is an escape."""
    if sys.stderr is None:
        sys.stderr = Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
    if isinstance(sys.stdin, io.TextIOWrapper):
        encoding = None if sys.stdin.isatty() else "utf-8"
        sys.stdin.reconfigure(encoding=encoding, errors="surrogateescape", newline="")


# ---- output -----------------------------------------------------------------------------------------------------


def write(text: str) -> None:
    """Show a text at once.

    Raises
    ------
    OutputError
        Standard output is closed, or the disk that it goes to is full.
    """
    if sys.stdout is None:
        raise OutputError("standard output is closed: send it to a file, or to /dev/null")
    try:
        sys.stdout.write(text)
        sys.stdout.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        raise OutputError(f"standard output cannot be written: {error.strerror}") from error


def write_json(value: Any) -> None:
    """Show a value as JSON on one line, in ASCII where the encoding of the output lacks some of its letters."""
    text = json.dumps(value, ensure_ascii=False)
    write((text if can_show(text) else json.dumps(value)) + "\n")


def can_show(text: str) -> bool:
    """Whether the encoding of standard output has these letters."""
    try:
        text.encode(getattr(sys.stdout, "encoding", None) or "utf-8")
    except UnicodeEncodeError:
        return False
    return True


def flush() -> None:
    """Show what is left, so that an error is told here and not at exit."""
    if sys.stdout is not None:
        write("")


def drop_output() -> None:
    """Let what is left in standard output go nowhere, where Python would try again at exit."""
    if sys.stdout is not None:
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, sys.stdout.fileno())
        os.close(null)


def note(text: str) -> None:
    """Tell something on standard error."""
    tell(f"fastlm: {text}")


def tell(text: str) -> None:
    """The same, but that it does not say who tells it."""
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()


# ---- input ------------------------------------------------------------------------------------------------------


def given_text(argument: str | None, file: str | None) -> str | None:
    """The text that a command is given: its argument, a file, or standard input where that is a pipe or a file.

    One line end at the end, which files and `echo` have, does not count. None: there is no text.

    Raises
    ------
    ParameterError
        There are two, or it is not UTF-8.
    ModelFileError
        It cannot be read.
    """
    if argument is not None and file is not None:
        raise ParameterError("--file: a text is given already: keep one of the two")
    source = argument if file is None else file
    if source is None:
        return _standard_input() or None if brings_text() else None
    if source == STDIN:
        return _standard_input()
    return utf8(source, "the text") if file is None else without_line_end(_read_file(file))


def warn_of_name(text: str) -> None:
    """Say so where a prompt is the name of a file, which was perhaps meant to be read."""
    if not text:  # Path("") is the folder that we are in
        return
    try:
        is_folder = stat.S_ISDIR(Path(text).stat().st_mode)
    except (OSError, ValueError):  # there is none, or it cannot be a name
        return
    option = "--model" if is_folder or text.endswith(".flm") else "--file"
    note(f"the text is the name of a {'folder' if is_folder else 'file'}; did you mean {option} {text}?")


def asks() -> bool:
    """Whether standard input is a terminal, whose lines are asked for."""
    return sys.stdin is not None and sys.stdin.isatty()


def ask(prompt: str) -> str | None:
    """A line of standard input, a terminal, which is asked for it; None: there are no more."""
    write("")  # who asks must be heard
    try:
        return utf8(without_line_end(input(prompt)), "standard input")
    except EOFError:
        return None
    except OSError as error:
        raise InputError(f"standard input cannot be read: {error.strerror}") from error


def lines() -> Iterator[str]:
    """The lines of standard input, a pipe or a file, as they come."""
    while sys.stdin is not None:
        try:
            line = sys.stdin.readline()
        except OSError as error:
            raise InputError(f"standard input cannot be read: {error.strerror}") from error
        if not line:
            return
        yield utf8(without_line_end(line), "standard input")


def utf8(text: str, what: str) -> str:
    """A text whose bytes Python took for another encoding than UTF-8, as it does in some locales.

    Raises
    ------
    ParameterError
        It is not UTF-8.
    """
    try:
        return text.encode("utf-8", "surrogateescape").decode("utf-8")
    except UnicodeError:
        raise ParameterError(f"{what} is not UTF-8") from None


def brings_text() -> bool:
    """Whether standard input is a pipe or a file: a terminal or /dev/null brings none."""
    try:
        mode = os.fstat(sys.stdin.fileno()).st_mode
    except (OSError, ValueError, AttributeError):  # closed, or none of the system's
        return False
    return stat.S_ISFIFO(mode) or stat.S_ISREG(mode) or stat.S_ISSOCK(mode)


def _standard_input() -> str:
    if sys.stdin is None:
        raise ParameterError("-: standard input is closed: give a text, or --file")
    try:
        text = sys.stdin.read()
    except OSError as error:
        raise InputError(f"standard input cannot be read: {error.strerror}") from error
    return without_line_end(utf8(text, "standard input"))


def _read_file(path: str) -> str:
    with _errors_of(path):
        try:
            return Path(path).expanduser().read_bytes().decode("utf-8-sig")
        except UnicodeDecodeError as error:
            raise ParameterError(f"{path}: is not UTF-8 (byte {error.start})") from None


@contextmanager
def _errors_of(path: str) -> Iterator[None]:
    """What the system says of a file, or of its name."""
    try:
        yield
    except FastlmError:
        raise
    except (OSError, ValueError, RuntimeError) as error:
        raise ModelFileError(f"{path}: cannot be read: {getattr(error, 'strerror', None) or error}") from error


def lines_of(path: str) -> Iterator[str]:
    """The lines of a file or of standard input (-), with their ends, read as they are needed.

    The mark of UTF-8 at the beginning is no part of them.

    Raises
    ------
    ParameterError
        A line is not UTF-8, or standard input is closed.
    ModelFileError
        It cannot be read.
    """
    name = "standard input" if path == STDIN else path
    if path == STDIN and sys.stdin is None:
        raise ParameterError(f"{STDIN}: standard input is closed: give a text, or --file")
    with _errors_of(name), ExitStack() as stack:
        file: Iterator[str] = sys.stdin
        if path != STDIN:
            opened = Path(path).expanduser().open(encoding="utf-8", errors="surrogateescape", newline="")
            file = stack.enter_context(opened)
        for number, line in enumerate(file, 1):
            text = utf8(line, f"{name}, line {number}")
            yield text.removeprefix("\ufeff") if number == 1 else text


def without_line_end(text: str) -> str:
    return text.removesuffix("\n").removesuffix("\r")
