"""Where an answer is shown as it is written: a terminal, whose edge cuts no words, or a pipe."""

from __future__ import annotations

import os
import shutil
import sys
import unicodedata
from typing import Protocol

from fastlm.cli import streams

DIM, BRIGHT, CLEAR = "\x1b[2m", "\x1b[0m", "\x1b[K"
TAB = 8


class Printer(Protocol):
    """Takes an answer in pieces."""

    def text(self, piece: str) -> None: ...
    def reasoning(self, piece: str) -> None: ...
    def end(self) -> None: ...


class Nowhere:
    """Shows nothing: the answer is wanted whole."""

    def text(self, piece: str) -> None: ...
    def reasoning(self, piece: str) -> None: ...
    def end(self) -> None: ...


class Plain:
    """The text as it is; reasoning is left out, as it is in the text of `Model.chat`."""

    def text(self, piece: str) -> None:
        streams.write(piece)

    def reasoning(self, piece: str) -> None: ...

    def end(self) -> None:
        streams.write("\n")


class Screen:
    """A terminal: words that reach its edge go to the next line, and reasoning is dim."""

    def __init__(self, dims: bool) -> None:
        self._dims = dims
        self._column = 0
        self._word = ""  # that is being written, and stands at the end of the line
        self._reasons = False

    def text(self, piece: str) -> None:
        self._style(False)
        self._write(piece)

    def reasoning(self, piece: str) -> None:
        self._style(True)
        self._write(piece)

    def end(self) -> None:
        self._style(False)
        streams.write("\n" if self._column else "")
        self._column, self._word = 0, ""

    def _style(self, reasons: bool) -> None:
        if reasons == self._reasons:
            return
        marks = (DIM if reasons else BRIGHT) if self._dims else ""
        streams.write(marks + ("\n" if self._column else ""))
        self._reasons, self._column, self._word = reasons, 0, ""

    def _write(self, piece: str) -> None:
        most = max(shutil.get_terminal_size().columns - 1, 1)  # what stands in the last column wraps by itself
        streams.write("".join(self._placed(letter, most) for letter in map(_visible, piece)))

    def _placed(self, letter: str, most: int) -> str:
        """What to send for a letter."""
        if letter == "\n":
            self._column, self._word = 0, ""
            return letter
        if letter in " \t":
            self._word = ""
            width = TAB - self._column % TAB if letter == "\t" else 1
            self._column = self._column + width if self._column + width <= most else 0
            return letter if self._column else "\n"
        sent, width = "", cells(letter)
        if self._column + width > most:
            begun = cells(self._word)
            if begun == self._column:  # a word longer than the line
                sent, self._column, self._word = "\n", 0, ""
            else:
                back = f"\x1b[{begun}D{CLEAR}" if begun else ""
                sent, self._column = f"{back}\n{self._word}", begun
        self._word += letter
        self._column += width
        return sent + letter


def printer(as_json: bool) -> Printer:
    """What shows answers on standard output."""
    if as_json:
        return Nowhere()
    if not (sys.stdout and sys.stdout.isatty()) or os.environ.get("TERM", "dumb") == "dumb":
        return Plain()
    return Screen(dims=not os.environ.get("NO_COLOR"))


def cells(text: str) -> int:
    """Columns of a terminal that a text takes."""
    return sum(_cells(letter) for letter in text)


def _cells(letter: str) -> int:
    if unicodedata.combining(letter) or unicodedata.category(letter) in ("Me", "Cf"):
        return 0
    return 2 if unicodedata.east_asian_width(letter) in "WF" else 1


def _visible(letter: str) -> str:
    """A letter, or a picture of a control character, which could do anything to a terminal."""
    code = ord(letter)
    if code < 32 and letter not in "\n\t":
        return chr(0x2400 + code)
    return "\u2421" if code == 127 else "\ufffd" if 128 <= code < 160 else letter
