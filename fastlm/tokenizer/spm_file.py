"""SentencePiece's model files, read from their protobuf without its library.

A message is a row of fields: a number and a kind in one varint, then a value. What is not asked for is skipped.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator
from dataclasses import dataclass

from fastlm.errors import ModelFormatError
from fastlm.tokenizer.charsmap import longest_of
from fastlm.tokenizer.components import MAX_GROWTH
from fastlm.tokenizer.subwords import MAX_DEPTH

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5  # kinds of values
UNIGRAM, BPE = 1, 2  # trainer_spec.model_type
NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = range(1, 7)  # types of pieces
MAX_CHARACTERS = (
    1 << 22
)  # of all pieces of a BPE model together, whose merges are found from them (published: 2,000,000)
_FLOAT = struct.Struct("<f")

Value = int | bytes


@dataclass(frozen=True, slots=True)
class SentencePiece:
    """What a model file says.

    Attributes
    ----------
    pieces, scores, types
        Of each id.
    kind
        UNIGRAM or BPE.
    unknown
        The id of the unknown piece.
    byte_fallback
        Whether unknown characters become pieces of their bytes.
    charsmap
        The normalizer's map of characters; empty: none.
    add_dummy_prefix, remove_extra_whitespaces, escape_whitespaces
        What the normalizer does with spaces.
    """

    pieces: list[str]
    scores: list[float]
    types: list[int]
    kind: int
    unknown: int
    byte_fallback: bool
    charsmap: bytes
    add_dummy_prefix: bool
    remove_extra_whitespaces: bool
    escape_whitespaces: bool

    def merges(self) -> list[tuple[str, str]]:
        """Pairs of pieces that make one, in the order in which a BPE model merges them: by the id of what they make."""
        ids = {piece: i for i, piece in enumerate(self.pieces)}
        found: list[tuple[int, int, int, str, str]] = []
        for made, rank in ids.items():
            pairs = ((made[:at], made[at:]) for at in range(1, len(made)))
            found += [(rank, len(a), len(b), a, b) for a, b in pairs if a in ids and b in ids]
        found.sort(key=lambda pair: pair[:3])
        return [(left, right) for *_, left, right in found]


def read_spm(data: bytes, where: str) -> SentencePiece:
    """The model in a file.

    Raises
    ------
    ModelFormatError
        It is damaged, or of a kind that is neither Unigram nor BPE.
    """
    pieces: list[tuple[str, float, int]] = []
    trainer: dict[int, Value] = {}
    normalizer: dict[int, Value] = {}
    for number, value in _fields(data, 0, len(data), where):
        if number == 1:
            pieces.append(_piece(_message(value, 1, where), where, len(pieces)))
        elif number in (2, 3):
            known = trainer if number == 2 else normalizer
            content = _message(value, number, where)
            known.update(_fields(content, 0, len(content), where))
    if not pieces:
        raise ModelFormatError(f"{where}: holds no pieces: it is no SentencePiece model")
    made = SentencePiece(
        [piece for piece, _, _ in pieces],
        [score for _, score, _ in pieces],
        [kind for _, _, kind in pieces],
        kind=_number(trainer, 3, UNIGRAM, where),
        unknown=_number(trainer, 40, 0, where),
        byte_fallback=bool(_number(trainer, 35, 0, where)),
        charsmap=_message(normalizer.get(2, b""), 3, where),
        add_dummy_prefix=bool(_number(normalizer, 3, 1, where)),
        remove_extra_whitespaces=bool(_number(normalizer, 4, 1, where)),
        escape_whitespaces=bool(_number(normalizer, 5, 1, where)),
    )
    _check(made, trainer, where)
    return made


def _check(made: SentencePiece, trainer: dict[int, Value], where: str) -> None:
    """What spans several fields."""
    if made.kind not in (UNIGRAM, BPE):
        raise ModelFormatError(f"{where}: its model_type is {made.kind}; known: 1 (unigram), 2 (bpe)")
    if _number(trainer, 24, 0, where):
        raise ModelFormatError(f"{where}: treat_whitespace_as_suffix is not supported")
    if made.unknown >= len(made.pieces):
        raise ModelFormatError(f"{where}: its unk_id {made.unknown} is no id: it has {len(made.pieces)} pieces")
    if len(set(made.pieces)) < len(made.pieces):
        raise ModelFormatError(f"{where}: several pieces are equal")
    try:
        longest = longest_of(made.charsmap) if made.charsmap else 0
    except ValueError as error:
        raise ModelFormatError(f"{where}: its map of characters {error}") from None
    if longest > MAX_GROWTH:
        raise ModelFormatError(
            f"{where}: its map of characters makes {longest} of one; at most {MAX_GROWTH:g} are read"
        )
    if made.kind == BPE and sum(map(len, made.pieces)) > MAX_CHARACTERS:
        raise ModelFormatError(f"{where}: its pieces have over {MAX_CHARACTERS:,} characters")


def _piece(content: bytes, where: str, index: int) -> tuple[str, float, int]:
    text, score, kind = b"", 0.0, NORMAL
    for number, value in _fields(content, 0, len(content), where):
        if number == 1:
            text = _message(value, number, where)
        elif number == 2:
            score = _float(value, where, index)
        elif number == 3:
            kind = value if isinstance(value, int) else 0
    if not math.isfinite(score):
        raise ModelFormatError(f"{where}: the score of piece {index} is {score}")
    if not NORMAL <= kind <= BYTE:
        raise ModelFormatError(f"{where}: piece {index} is of no known type ({kind})")
    try:
        piece = text.decode("utf-8")
    except UnicodeDecodeError:
        raise ModelFormatError(f"{where}: piece {index} is not UTF-8") from None
    if not 1 <= len(piece) <= MAX_DEPTH:
        raise ModelFormatError(f"{where}: piece {index} has {len(piece):,} characters; from 1 to {MAX_DEPTH} are read")
    return piece, score, kind


def _message(value: Value, number: int, where: str) -> bytes:
    if not isinstance(value, bytes):
        raise ModelFormatError(f"{where}: field {number} is a number where bytes are expected")
    return value


def _number(fields: dict[int, Value], number: int, default: int, where: str) -> int:
    value = fields.get(number, default)
    if not isinstance(value, int) or value >= 1 << 31:
        raise ModelFormatError(f"{where}: field {number} is not a number that is expected there")
    return value


def _float(value: Value, where: str, index: int) -> float:
    if not isinstance(value, bytes) or len(value) != 4:
        raise ModelFormatError(f"{where}: the score of piece {index} is no float")
    return float(_FLOAT.unpack(value)[0])


def _fields(data: bytes, at: int, end: int, where: str) -> Iterator[tuple[int, Value]]:
    """Number and value of each field; numbers as int, all others as their bytes."""
    while at < end:
        tag, at = _varint(data, at, end, where)
        kind = tag & 7
        if kind == VARINT:
            number, at = _varint(data, at, end, where)
            yield tag >> 3, number
            continue
        if kind == BYTES:
            size, at = _varint(data, at, end, where)
        else:
            size = {FIXED64: 8, FIXED32: 4}.get(kind, -1)
        if size < 0 or tag < 8:
            raise ModelFormatError(f"{where}: byte {at}: no field of a SentencePiece model")
        if size > end - at:
            raise ModelFormatError(f"{where}: byte {at}: a field of {size:,} bytes is cut short after {end - at:,}")
        yield tag >> 3, data[at : at + size]
        at += size


def _varint(data: bytes, at: int, end: int, where: str) -> tuple[int, int]:
    """A number of seven bits per byte, the lowest first, and where the next field begins."""
    if at < end and data[at] < 128:
        return data[at], at + 1
    number = 0
    for i in range(at, min(end, at + 10)):
        number |= (data[i] & 127) << 7 * (i - at)
        if data[i] < 128:
            return number, i + 1
    raise ModelFormatError(f"{where}: byte {at}: a number is cut short, or too long")
