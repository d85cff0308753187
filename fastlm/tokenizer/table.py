"""What each token prints, for decoders that are such a table: C makes text of it."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from fastlm.errors import UnsupportedError
from fastlm.tokenizer.alphabet import bytes_of
from fastlm.tokenizer.components import Part
from fastlm.tokenizer.streaming import starts_without_space

_BYTE_PIECE = re.compile(r"<0x([0-9A-Fa-f]{2})>")
_KINDS = re.compile(r"B|M|R*F?J?S?")  # ByteLevel, Metaspace, Replace, ByteFallback, Fuse (join), Strip
_LETTERS = {"ByteLevel": "B", "Metaspace": "M", "Replace": "R", "ByteFallback": "F", "Fuse": "J", "Strip": "S"}


@dataclass(frozen=True, slots=True)
class PieceTable:
    """What each id prints.

    Attributes
    ----------
    pieces, special
        By id. Special tokens print nothing.
    strip_first_space
        Whether a text begins without the space of its first token.
    """

    pieces: list[bytes]
    special: list[bool]
    strip_first_space: bool


def is_table(parts: Sequence[Part], pieces: Callable[[], Sequence[str]]) -> bool:
    """Whether a decoder is a table.

    Parameters
    ----------
    parts
        Of the decoder, in order.
    pieces
        All pieces, which only Metaspace makes a difference of.
    """
    kinds = "".join(_LETTERS.get(part["type"], "?") for part in parts)
    if not kinds or not _KINDS.fullmatch(kinds):
        return False
    last = parts[-1]
    if kinds == "M":  # which drops every U+2581 of the first piece: C drops one space at its start
        space = last["replacement"]
        return not starts_without_space(last) or not any(p[:1] == " " or space in p[1:] for p in pieces())
    if "S" in kinds and ("J" not in kinds or (last["content"], last["start"], last["stop"]) != (" ", 1, 0)):
        return False
    return all(map(_is_plain, parts))


def piece_table(parts: Sequence[Part], pieces: Sequence[str], special: list[bool]) -> PieceTable:
    """The table of a decoder for which `is_table` holds; pieces and special by id."""
    kinds = {part["type"] for part in parts}
    strips = "Strip" in kinds or any(part["type"] == "Metaspace" and starts_without_space(part) for part in parts)
    if "ByteLevel" in kinds:
        return PieceTable([bytes_of(piece) for piece in pieces], special, False)
    for part in parts:
        if part["type"] == "Replace":
            old, new = part["pattern"]["String"], part["content"]
            pieces = [piece.replace(old, new) for piece in pieces]
        elif part["type"] == "Metaspace":
            pieces = [piece.replace(part["replacement"], " ") for piece in pieces]
    table = [piece.encode("utf-8") for piece in pieces]
    if "ByteFallback" in kinds:
        for i, piece in enumerate(pieces):
            if byte := _BYTE_PIECE.fullmatch(piece):
                table[i] = bytes([int(byte[1], 16)])
    return PieceTable(table, special, strips)


def plain_table(parts: Sequence[Part], pieces: Sequence[str], special: list[bool], name: str) -> PieceTable:
    """What pieces print wherever they stand: without what decoders do at the beginning and at the end of a text.

    Raises
    ------
    UnsupportedError
        More than a piece decides; `name` is what wants to know.
    """
    kinds = [part["type"] for part in parts]
    if not parts:
        printed = [" " + piece for piece in pieces]
    elif kinds == ["WordPiece"]:
        prefix = parts[0]["prefix"]
        printed = [piece[len(prefix) :] if piece.startswith(prefix) else " " + piece for piece in pieces]
    elif kinds == ["BPEDecoder"]:
        printed = [piece.replace(parts[0]["suffix"], " ") for piece in pieces]
    elif set(kinds) <= _LETTERS.keys() and all(_is_plain(part) for part in parts):
        return PieceTable(piece_table(parts, pieces, special).pieces, special, False)
    else:
        raise UnsupportedError(f"{name}: this tokenizer's decoder ({', '.join(kinds)}) gives single tokens no text")
    written = [text.encode("utf-8") if piece else b"" for text, piece in zip(printed, pieces, strict=True)]
    return PieceTable(written, special, False)


def _is_plain(part: Part) -> bool:
    return part["type"] != "Replace" or bool(part["pattern"].get("String"))
