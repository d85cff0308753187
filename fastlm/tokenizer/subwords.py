"""The model of a tokenizer (BPE, WordPiece, WordLevel or Unigram): checked, then made by the library."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import starmap
from operator import concat
from typing import TYPE_CHECKING, Any

from fastlm.errors import ModelFormatError

if TYPE_CHECKING:
    from tokenizers import models

MAX_PIECE = 1 << 14  # characters of a piece
MAX_DEPTH = 256  # characters of a piece of a Unigram model: each place of a text is looked up so deep (published: 16)
MAX_AFFIX = 64  # characters of a prefix or suffix of subwords
MAX_UNKNOWN = 256  # of the token that stands for what is unknown
MAX_WORD = 1000  # characters of a word that WordPiece looks at, in time that grows with their cube
SPARE_IDS = 100_000  # that the ids of a vocabulary with holes may go beyond twice its size


@dataclass(frozen=True, slots=True)
class Subwords:
    """What a model is made of.

    Attributes
    ----------
    kind
        "BPE", "WordPiece", "WordLevel" or "Unigram".
    ids
        Of each piece. (Of a Unigram model: its place.)
    scores
        Of a Unigram model: pieces and their scores, in order.
    merges
        Of a BPE model: pairs of pieces, the first merged first.
    options
        What else the library's model takes.
    """

    kind: str
    ids: dict[str, int]
    scores: list[tuple[str, float]]
    merges: list[tuple[str, str]]
    options: dict[str, Any]

    @property
    def size(self) -> int:
        """Number of pieces."""
        return len(self.scores) if self.kind == "Unigram" else len(self.ids)

    def end(self) -> int:
        """The first number after all ids."""
        return _ordered(self.ids)[-1] + 1 if self.ids else 0

    def pieces(self) -> tuple[list[str], set[int]]:
        """The piece of each id, and the ids that several pieces have: only the library knows which one it takes."""
        if self.kind == "Unigram":
            return [piece for piece, _ in self.scores], set()
        found = [""] * self.end()
        for piece, i in self.ids.items():
            found[i] = piece
        several = set(self.ids.values()) if len(set(self.ids.values())) < len(self.ids) else set()
        return found, several

    def library_model(self) -> models.Model:
        """The library's model."""
        from tokenizers import models

        if self.kind == "BPE":
            return models.BPE(self.ids, self.merges, **self.options)
        if self.kind == "Unigram":
            return models.Unigram(self.scores, **self.options)
        if self.kind == "WordPiece":
            return models.WordPiece(self.ids, **self.options)
        return models.WordLevel(self.ids, **self.options)


def read_subwords(model: object, where: str, byte_level: bool) -> Subwords:
    """The model that a tokenizer.json describes, checked.

    Parameters
    ----------
    byte_level
        Whether all characters that reach the model stand for bytes, so that it never meets an unknown one.

    Raises
    ------
    ModelFormatError
        The text names the field.
    """
    if not isinstance(model, dict):
        raise ModelFormatError(f"{where}: model must be an object")
    kind, name = _kind(model, where), f"{where}: model"
    if kind == "Unigram":
        return _unigram(model, name)
    ids = checked_ids(model.get("vocab"), f"{name}.vocab")
    if kind == "BPE":
        return _bpe(model, ids, name, byte_level)
    unknown = _text(model, "unk_token", name, MAX_UNKNOWN)
    if unknown is None:
        raise ModelFormatError(f"{name}: unk_token is missing")
    if kind == "WordLevel":
        return Subwords(kind, ids, [], [], {"unk_token": unknown})
    return word_piece(
        ids,
        unknown,
        name,
        prefix=_text(model, "continuing_subword_prefix", name, MAX_AFFIX),
        longest=model.get("max_input_chars_per_word"),
    )


def word_piece(
    ids: dict[str, int], unknown: str, where: str, prefix: str | None = "##", longest: object = 100
) -> Subwords:
    """A WordPiece model."""
    if unknown not in ids:
        raise ModelFormatError(f"{where}: the unknown token {unknown!r:.60} is not in the vocabulary")
    if prefix is None:
        raise ModelFormatError(f"{where}: continuing_subword_prefix is missing")
    if type(longest) is not int or not 0 <= longest <= MAX_WORD:
        raise ModelFormatError(f"{where}: max_input_chars_per_word must be a whole number up to {MAX_WORD:,}")
    options = {"unk_token": unknown, "continuing_subword_prefix": prefix, "max_input_chars_per_word": longest}
    return Subwords("WordPiece", ids, [], [], options)


def _ordered(vocab: dict[str, int]) -> list[int]:
    """Its ids, the least first: most files have them so, and sorting that takes a tenth of the time of `max`."""
    return sorted(vocab.values())


def checked_ids(vocab: object, where: str) -> dict[str, int]:
    """A vocabulary of pieces and their ids.

    Raises
    ------
    ModelFormatError
        It is none, or its ids go far beyond the number of pieces.
    """
    if not isinstance(vocab, dict) or not set(map(type, vocab.values())) <= {int}:
        raise ModelFormatError(f"{where}: must map pieces to token ids")
    bound, ordered = 2 * len(vocab) + SPARE_IDS, _ordered(vocab)
    if vocab and (ordered[0] < 0 or ordered[-1] >= bound):
        piece = next(piece for piece, i in vocab.items() if not 0 <= i < bound)
        raise ModelFormatError(f"{where}: the id {vocab[piece]} of {piece!r:.60} fits no {len(vocab):,} pieces")
    longest = max(map(len, vocab), default=0)
    if longest > MAX_PIECE:
        raise ModelFormatError(f"{where}: a piece has over {MAX_PIECE:,} characters")
    if longest > MAX_UNKNOWN and len(set(vocab.values())) < len(vocab):  # a short piece may come out as a long one
        raise ModelFormatError(f"{where}: several pieces have one id")
    return vocab


def merges_of_lines(lines: list[str], where: str) -> list[tuple[str, str]]:
    """Merges as texts "left right".

    Raises
    ------
    ModelFormatError
        One has not two parts.
    """
    pairs = [(left, right) for left, _, right in (line.partition(" ") for line in lines)]
    if not all(left and right and " " not in right for left, right in pairs):
        line = next(line for line in lines if line.count(" ") != 1 or line.strip(" ") != line)
        raise ModelFormatError(f"{where}: the merge {line!r:.80} must be two pieces with a space between them")
    return pairs


def check_merges(merges: list[tuple[str, str]], ids: dict[str, int], where: str, prefix: str = "") -> None:
    """Check that what merges make is in the vocabulary. (That their parts are, the library checks.)

    Raises
    ------
    ModelFormatError
        Something is not.
    """
    skipped = len(prefix)
    try:
        if prefix and not all(starmap(lambda left, right: right.startswith(prefix), merges)):
            raise ModelFormatError(f"{where}: the right part of each must begin with {prefix!r}")
        made = list(starmap((lambda left, right: left + right[skipped:]) if prefix else concat, merges))
        if not _holds_in_order(ids, made) and not all(map(ids.__contains__, made)):
            piece = next(piece for piece in made if piece not in ids)
            raise ModelFormatError(f"{where}: a merge makes {piece!r:.60}, which is not in the vocabulary")
    except (TypeError, AttributeError):  # one has three parts, or one that is no text
        raise ModelFormatError(f"{where}: must be pairs of pieces") from None


def _holds_in_order(ids: dict[str, int], made: list[str]) -> bool:
    """Whether a vocabulary lists what its merges make in order, as most do: to compare is faster than to look up."""
    if not made or made[0] not in ids:
        return False
    pieces = list(ids)
    first = pieces.index(made[0])
    return pieces[first : first + len(made)] == made


def _kind(model: dict[str, Any], where: str) -> str:
    """Its type; old files say none, but have fields of one type only."""
    kind = model.get("type")
    if kind is None:
        if isinstance(model.get("vocab"), list):
            return "Unigram"
        if "merges" in model:
            return "BPE"
        return "WordPiece" if "max_input_chars_per_word" in model else "WordLevel"
    if not isinstance(kind, str) or kind not in ("BPE", "WordPiece", "WordLevel", "Unigram"):
        raise ModelFormatError(f"{where}: model: unknown type {kind!r:.60}")
    return kind


def _text(model: dict[str, Any], field: str, where: str, longest: int) -> str | None:
    value = model.get(field)
    if value is not None and (not isinstance(value, str) or len(value) > longest):
        raise ModelFormatError(f"{where}: {field} must be a text of at most {longest} characters, or null")
    return value


def _flag(model: dict[str, Any], field: str, where: str) -> bool:
    value = model.get(field)
    if value is not None and not isinstance(value, bool):
        raise ModelFormatError(f"{where}: {field} must be true or false")
    return bool(value)


def _bpe(model: dict[str, Any], ids: dict[str, int], where: str, byte_level: bool) -> Subwords:
    listed = model.get("merges")
    if not isinstance(listed, list):
        raise ModelFormatError(f"{where}: merges must be a list")
    kinds = set(map(type, listed))
    if kinds <= {str}:
        merges = merges_of_lines([m for m in listed if not m.startswith("#version")], f"{where}.merges")
    elif kinds == {list}:
        merges = list(map(tuple, listed))
    else:
        raise ModelFormatError(f"{where}.merges: must be pairs of pieces")
    affixes = {f: _text(model, f, where, MAX_AFFIX) for f in ("continuing_subword_prefix", "end_of_word_suffix")}
    check_merges(merges, ids, f"{where}.merges", affixes["continuing_subword_prefix"] or "")
    flags = {f: _flag(model, f, where) for f in ("fuse_unk", "byte_fallback", "ignore_merges")}
    options = {**affixes, **flags, "unk_token": _text(model, "unk_token", where, MAX_UNKNOWN)}
    return Subwords("BPE", ids, [], merges, known_unknown(options, ids, byte_level, where))


def known_unknown(options: dict[str, Any], ids: dict[str, int], byte_level: bool, where: str) -> dict[str, Any]:
    """Options of a BPE model whose unk_token is in the vocabulary, or left out where the model never needs it.

    Raises
    ------
    ModelFormatError
        It is needed, but not there.
    """
    unknown = options.get("unk_token")
    if unknown is not None and unknown not in ids:
        if not byte_level:
            raise ModelFormatError(f"{where}: the unk_token {unknown!r:.60} is not in the vocabulary")
        options = {**options, "unk_token": None}
    return {name: value for name, value in options.items() if value is not None}


def _unigram(model: dict[str, Any], where: str) -> Subwords:
    vocab = model.get("vocab")
    if (
        not isinstance(vocab, list)
        or not set(map(type, vocab)) <= {list}
        or not set(map(len, vocab)) <= {2}
        or not all(type(p) is str and (type(s) is float or (type(s) is int and abs(s) < 1 << 53)) for p, s in vocab)
    ):
        raise ModelFormatError(f"{where}.vocab: must be pairs of a piece and its score")
    scores = [(piece, float(score)) for piece, score in vocab]
    if not all(math.isfinite(score) for _, score in scores):
        raise ModelFormatError(f"{where}.vocab: a score is not finite")
    if max((len(piece) for piece, _ in scores), default=0) > MAX_DEPTH:
        raise ModelFormatError(f"{where}.vocab: a piece has over {MAX_DEPTH} characters")
    unknown = model.get("unk_id")
    if unknown is not None and (type(unknown) is not int or not 0 <= unknown < len(scores)):
        raise ModelFormatError(f"{where}: unk_id must be the place of a piece in the vocabulary")
    ids = {piece: i for i, (piece, _) in enumerate(scores)}
    options = {"unk_id": unknown, "byte_fallback": _flag(model, "byte_fallback", where)}
    return Subwords("Unigram", ids, scores, [], options)
