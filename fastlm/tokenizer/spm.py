"""A SentencePiece model as the library's: the model, and stages around it that do what SentencePiece does."""

from __future__ import annotations

import base64
import re

from fastlm.errors import ModelFormatError
from fastlm.tokenizer.components import MAX_LENGTH, Part
from fastlm.tokenizer.description import Description
from fastlm.tokenizer.library import Token
from fastlm.tokenizer.settings import Settings
from fastlm.tokenizer.spm_file import BPE, BYTE, CONTROL, NORMAL, USER_DEFINED, SentencePiece
from fastlm.tokenizer.subwords import Subwords

SPACE = "\u2581"


def replace_part(pattern: str, content: str, kind: str = "String") -> Part:
    return {"type": "Replace", "pattern": {kind: pattern}, "content": content}


def charsmap_part(spm: SentencePiece) -> Part | None:
    """The normalizer's map of characters; None: it has none."""
    if not spm.charsmap:
        return None
    return {"type": "Precompiled", "precompiled_charsmap": base64.b64encode(spm.charsmap).decode()}


def added_tokens(spm: SentencePiece) -> tuple[Token, ...]:
    """Pieces that are looked for in a text before all others: control symbols, which are special, and the user's."""
    kinds = zip(spm.pieces, spm.types, strict=True)
    return tuple(Token(piece, special=kind == CONTROL) for piece, kind in kinds if kind in (CONTROL, USER_DEFINED))


def unigram(scores: list[tuple[str, float]]) -> Subwords:
    return Subwords("Unigram", {piece: i for i, (piece, _) in enumerate(scores)}, scores, [], {})


def scored(spm: SentencePiece) -> list[tuple[str, float]]:
    return list(zip(spm.pieces, spm.scores, strict=True))


def as_it_is(spm: SentencePiece, settings: Settings) -> Subwords:
    """A Unigram model of the pieces in their order."""
    return unigram(scored(spm))


def bpe_as_it_is(spm: SentencePiece, settings: Settings) -> Subwords:
    """A BPE model of the pieces in their order."""
    return Subwords("BPE", {piece: i for i, piece in enumerate(spm.pieces)}, [], spm.merges(), {})


def as_sentencepiece(spm: SentencePiece, where: str, by_name: bool = False) -> Description:
    """A tokenizer that cuts a text as SentencePiece itself does, and adds nothing.

    by_name: not the ids of pieces count, but what they are called.

    Raises
    ------
    ModelFormatError
        The user's own pieces are more than a pattern may hold.
    """
    normalizers = [part] if (part := charsmap_part(spm)) else []
    if spm.remove_extra_whitespaces:
        last = f"[ {SPACE}]" if spm.escape_whitespaces else " "  # marks of spaces are stripped from the end, too
        normalizers += [replace_part(rf"\A +|{last}+\z", "", "Regex"), replace_part(" {2,}", " ", "Regex")]
    if spm.escape_whitespaces:
        normalizers.append(replace_part(" ", SPACE))
    before: list[Part] = []
    if spm.add_dummy_prefix:  # Metaspace puts none before a text that begins with one
        normalizers.append(replace_part(rf"\A{SPACE}", 2 * SPACE, "Regex"))
        before.append({"type": "Metaspace", "replacement": SPACE, "prepend_scheme": "always", "split": False})
    own = [piece for piece, kind in zip(spm.pieces, spm.types, strict=True) if kind == USER_DEFINED]
    if own:
        pattern = "|".join(re.escape(piece) for piece in sorted(own, key=len, reverse=True))
        if len(pattern) > MAX_LENGTH:
            raise ModelFormatError(f"{where}: its {len(own):,} user-defined pieces are too many")
        before.append({"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False})
    stages: dict[str, Part | None] = {
        "normalizer": {"type": "Sequence", "normalizers": normalizers},
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": before} if before else None,
        "post_processor": None,
        "decoder": {"type": "Sequence", "decoders": _decoders(spm)},
    }
    return Description(_model(spm, bool(own), by_name), stages)


def _decoders(spm: SentencePiece) -> list[Part]:
    parts = [replace_part(SPACE, " "), *([{"type": "ByteFallback"}] if spm.byte_fallback else []), {"type": "Fuse"}]
    return [*parts, *([{"type": "Strip", "content": " ", "start": 1, "stop": 0}] if spm.add_dummy_prefix else [])]


def _model(spm: SentencePiece, whole: bool, by_name: bool) -> Subwords:
    if spm.kind != BPE:
        made = unigram(_found_in_texts(spm) if by_name else scored(spm))
        unknown = 0 if by_name else spm.unknown
        return Subwords("Unigram", made.ids, made.scores, [], {"unk_id": unknown, "byte_fallback": spm.byte_fallback})
    options = {"unk_token": spm.pieces[spm.unknown], "fuse_unk": True, "byte_fallback": spm.byte_fallback}
    ids = {piece: i for i, piece in enumerate(spm.pieces)}
    return Subwords("BPE", ids, [], _by_score(spm), {**options, "ignore_merges": whole})


def _found_in_texts(spm: SentencePiece) -> list[tuple[str, float]]:
    """What stands for the unknown, and the pieces that a text can become: no control symbols, whatever it says."""
    kinds = zip(spm.pieces, spm.scores, spm.types, strict=True)
    pieces = [(piece, score) for piece, score, kind in kinds if kind in (NORMAL, USER_DEFINED, BYTE)]
    return [(f"\0{spm.pieces[spm.unknown]}\0", 0.0), *pieces]


def _by_score(spm: SentencePiece) -> list[tuple[str, str]]:
    """Merges of normal pieces, in the order of their scores."""
    of = {piece: i for i, (piece, kind) in enumerate(zip(spm.pieces, spm.types, strict=True)) if kind == NORMAL}
    found: list[tuple[float, int, str, str]] = []
    for made, i in of.items():
        pairs = ((made[:at], made[at:]) for at in range(1, len(made)))
        found += [(-spm.scores[i], i, left, right) for left, right in pairs if left in of and right in of]
    return [(left, right) for *_, left, right in sorted(found)]
