"""Parts of a decoder as stages that take the texts of some tokens and give what is final of them.

A stage holds back only what later tokens can change: bytes of an unfinished character, the beginning of what a
replacement looks for, spaces that may turn out to be the last ones.
"""

from __future__ import annotations

import codecs
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence

from fastlm.tokenizer.alphabet import bytes_of

_BYTE_PIECE = re.compile(r"<0x\+?([0-9A-Fa-f]{1,2})>")


class Stage(ABC):
    """A part of a decoder: texts of tokens in, texts of tokens out."""

    @abstractmethod
    def push(self, pieces: list[str]) -> list[str]:
        """Take the next pieces and give those that are final."""

    def end(self) -> list[str]:
        """The end: what is still held back."""
        return []


class Each(Stage):
    """A function of each piece, which is told whether it is the first one; None: the piece goes."""

    def __init__(self, function: Callable[[str, bool], str | None]) -> None:
        self._function = function
        self._first = True

    def push(self, pieces: list[str]) -> list[str]:
        found = []
        for piece in pieces:
            if (text := self._function(piece, self._first)) is not None:
                found.append(text)
            self._first = False
        return found


class EndOfWord(Stage):
    """BPEDecoder: the suffix of words becomes a space, but for that of the last piece, which goes."""

    def __init__(self, suffix: str) -> None:
        self._suffix = suffix
        self._last: str | None = None

    def push(self, pieces: list[str]) -> list[str]:
        if not pieces:
            return []
        waiting = [] if self._last is None else [self._last]
        *done, self._last = [*waiting, *pieces]
        return [piece.replace(self._suffix, " ") for piece in done]

    def end(self) -> list[str]:
        return [] if self._last is None else [self._last.replace(self._suffix, "")]


class Distinct(Stage):
    """CTC: of equal pieces in a row, one."""

    def __init__(self) -> None:
        self._last: str | None = None

    def push(self, pieces: list[str]) -> list[str]:
        found = []
        for piece in pieces:
            if piece != self._last:
                found.append(piece)
            self._last = piece
        return found


class Bytes(Stage):
    """ByteFallback: rows of pieces like <0x41> become the text that they spell, or a U+FFFD each."""

    def __init__(self) -> None:
        self._row = bytearray()

    def push(self, pieces: list[str]) -> list[str]:
        found = []
        for piece in pieces:
            byte = _BYTE_PIECE.fullmatch(piece) if len(piece) == 6 else None
            if byte:
                self._row.append(int(byte[1], 16))
            else:
                found += [*self.end(), piece]
        return found

    def end(self) -> list[str]:
        row, self._row = bytes(self._row), bytearray()
        try:
            return [row.decode("utf-8")] if row else []
        except UnicodeDecodeError:
            return ["\ufffd"] * len(row)


class ByteLevel(Stage):
    """Characters that stand for bytes become those, and the bytes of all pieces one text; errors: see bytes.decode."""

    def __init__(self, errors: str) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors)

    def push(self, pieces: list[str]) -> list[str]:
        return [self._decoder.decode(bytes_of(piece)) for piece in pieces]

    def end(self) -> list[str]:
        return [self._decoder.decode(b"", True)]


class Printed(Stage):
    """Pieces print these bytes, whatever stands beside them."""

    def __init__(self, table: Mapping[str, bytes]) -> None:
        self._table = table
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def push(self, pieces: list[str]) -> list[str]:
        return [self._decoder.decode(self._table[piece]) for piece in pieces]

    def end(self) -> list[str]:
        return [self._decoder.decode(b"", True)]


class StripFirst(Stage):
    """Strip after Fuse: up to so many characters at the beginning of the whole text."""

    def __init__(self, content: str, start: int) -> None:
        self._content = content
        self._left = start

    def push(self, pieces: list[str]) -> list[str]:
        text = "".join(pieces)
        if self._left and text:
            rest = text.lstrip(self._content)
            gone = min(len(text) - len(rest), self._left)
            text, self._left = text[gone:], self._left - gone if not rest else 0
        return [text]


class Replaced(Stage):
    """Replace in the text of all pieces: the end that may begin what is looked for waits."""

    def __init__(self, old: str, new: str) -> None:
        self._old, self._new = old, new
        self._held = ""

    def push(self, pieces: list[str]) -> list[str]:
        *parts, rest = (self._held + "".join(pieces)).split(self._old)
        tail = next((n for n in range(min(len(self._old) - 1, len(rest)), 0, -1) if rest.endswith(self._old[:n])), 0)
        self._held = rest[len(rest) - tail :]
        return ["".join(part + self._new for part in parts) + rest[: len(rest) - tail]]

    def end(self) -> list[str]:
        return [self._held]


class StripSpaces(Stage):
    """No space at the beginning and the end of the whole text."""

    def __init__(self) -> None:
        self._held = ""
        self._begun = False

    def push(self, pieces: list[str]) -> list[str]:
        text = self._held + "".join(pieces)
        text = text if self._begun else text.lstrip()
        self._begun = self._begun or bool(text)
        shown = text.rstrip()
        self._held = text[len(shown) :]
        return [shown]


class AtTheEnd(Stage):
    """Whatever has no stage of its own: the library's decoder, which sees the one text at the end."""

    def __init__(self, decode: Callable[[list[str]], str]) -> None:
        self._decode = decode
        self._pieces: list[str] = []

    def push(self, pieces: list[str]) -> list[str]:
        self._pieces += pieces
        return []

    def end(self) -> list[str]:
        return [self._decode(["".join(self._pieces)])] if self._pieces else []


class Pipeline:
    """Stages in a row: pieces of tokens to text."""

    def __init__(self, stages: Sequence[Stage]) -> None:
        self._stages = stages

    def push(self, pieces: list[str]) -> str:
        """Take pieces and return the text that is final."""
        return self._through(pieces, 0)

    def end(self) -> str:
        """The rest of the text; nothing may be pushed after it."""
        return "".join(self._through(stage.end(), i + 1) for i, stage in enumerate(self._stages))

    def _through(self, pieces: list[str], first: int) -> str:
        for stage in self._stages[first:]:
            pieces = stage.push(pieces)
        return "".join(pieces)
