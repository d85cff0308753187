"""Text of tokens as they arrive, by the decoder of a tokenizer.json.

What comes out adds up to what the library's decoder makes of all tokens at once, and each token is looked at once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from fastlm.tokenizer.components import Part
from fastlm.tokenizer.library import library_decoder
from fastlm.tokenizer.stages import (
    AtTheEnd,
    ByteLevel,
    Bytes,
    Distinct,
    Each,
    EndOfWord,
    Pipeline,
    Replaced,
    Stage,
    StripFirst,
    StripSpaces,
)

TIDY = (  # English, by the library
    (" .", "."),
    (" ?", "?"),
    (" !", "!"),
    (" ,", ","),
    (" ' ", "'"),
    (" n't", "n't"),
    (" 'm", "'m"),
    (" do not", " don't"),
    (" 's", "'s"),
    (" 've", "'ve"),
    (" 're", "'re"),
)
CLEAN_UP = tuple(pair for pair in TIDY if pair[0] != " do not")  # by transformers: clean_up_tokenization_spaces


def tidied(text: str) -> str:
    """A text without the spaces that word pieces leave before punctuation."""
    for old, new in TIDY:
        text = text.replace(old, new)
    return text


def make_pipeline(parts: Sequence[Part], replacements: Sequence[tuple[str, str]], strips: bool) -> Pipeline:
    """The stages of a decoder, in their first state.

    Parameters
    ----------
    parts
        Of the decoder, in order; empty: pieces are joined by spaces, as the library does without a decoder.
    replacements, strips
        See `Description`.
    """
    stages: list[Stage] = [] if parts else [Each(lambda piece, first: piece if first else " " + piece)]
    fused = False  # all pieces are one text
    for i, part in enumerate(parts):
        found = _of_fused(part) if fused else _of_pieces(part)
        if found is None:
            stages.append(AtTheEnd(library_decoder(parts[i:])))
            break
        stages += found
        fused = fused or part["type"] in ("Fuse", "ByteLevel")
    stages += [Replaced(old, new) for old, new in replacements]
    return Pipeline([*stages, StripSpaces()] if strips else stages)


def _of_fused(part: Part) -> list[Stage] | None:
    """The stages of a part that sees one text; None: there are none."""
    if part["type"] == "Fuse":
        return []
    if part["type"] == "Strip":
        return [StripFirst(part["content"], part["start"])]
    if part["type"] == "Replace" and (old := part["pattern"].get("String")):
        return [Replaced(old, part["content"])]
    return None


def _of_pieces(part: Part) -> list[Stage]:
    """The stages of a part that sees a piece for each token."""
    kind = part["type"]
    if kind == "ByteLevel":
        return [ByteLevel(part.get("errors", "replace"))]
    if kind == "ByteFallback":
        return [Bytes()]
    if kind == "BPEDecoder":
        return [EndOfWord(part["suffix"])]
    if kind == "Metaspace":
        return [Each(_metaspace(part))]
    if kind == "WordPiece":
        return [Each(_word_piece(part["prefix"], part["cleanup"]))]
    if kind == "CTC":
        return [Distinct(), Each(_ctc(part["pad_token"], part["word_delimiter_token"], part["cleanup"]))]
    if kind == "Fuse":
        return []
    if kind == "Replace" and (old := part["pattern"].get("String")):
        new = part["content"]
        return [Each(lambda piece, first: piece.replace(old, new))]
    decode = library_decoder([part])  # which looks at each piece by itself
    return [Each(lambda piece, first: decode([piece]))]


def starts_without_space(part: Part) -> bool:
    """Whether a Metaspace drops the spaces of the first piece."""
    scheme = "never" if part.get("add_prefix_space") is False else part.get("prepend_scheme", "always")
    return bool(scheme != "never")


def _metaspace(part: Part) -> Callable[[str, bool], str]:
    space, drops = part["replacement"], starts_without_space(part)
    return lambda piece, first: piece.replace(space, "" if first and drops else " ")


def _word_piece(prefix: str, cleanup: bool) -> Callable[[str, bool], str]:
    def function(piece: str, first: bool) -> str:
        if not first:
            piece = piece[len(prefix) :] if piece.startswith(prefix) else " " + piece
        return tidied(piece) if cleanup else piece

    return function


def _ctc(pad: str, delimiter: str, cleanup: bool) -> Callable[[str, bool], str | None]:
    def function(piece: str, first: bool) -> str | None:
        piece = piece.replace(pad, "")
        if cleanup:
            piece = tidied(piece).replace(delimiter, " ")
        return piece or None

    return function
