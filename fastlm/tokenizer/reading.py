"""Texts and pairs of texts as encoders read them: ids, token types, and where in the text each token is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from fastlm.arguments import has_surrogate, shown
from fastlm.errors import ParameterError
from fastlm.tokenizer.library import library_errors

if TYPE_CHECKING:
    import tokenizers

Text = str | tuple[str, str] | Sequence[str]  # or a pair


class Tokens(Protocol):
    """What of a text a model reads: ids, and token types."""

    @property
    def ids(self) -> list[int]: ...
    @property
    def types(self) -> list[int]: ...


@dataclass(frozen=True, slots=True)
class Assembled:
    """Tokens that are not those of a text alone: filled up, or made by a template."""

    ids: list[int]
    types: list[int]


@dataclass(frozen=True, slots=True)
class Reading:
    """A text's tokens.

    Attributes
    ----------
    ids, types
        Of every token, special ones included.
    spans
        Its characters: [start, end) in the text that it is of.
    parts
        Which text of a pair it is of, 0 or 1; None: it is a special token.
    words
        Numbers of the words that the tokenizer cuts a text into, or None.
    """

    ids: list[int]
    types: list[int]
    spans: list[tuple[int, int]]
    parts: list[int | None]
    words: list[int | None]


def pair(text: object, name: str) -> tuple[str, ...]:
    """The one or two strings of a text.

    Raises
    ------
    ParameterError
        It is neither a string nor a pair of strings, or holds a lone surrogate.
    """
    parts = (text,) if isinstance(text, str) else tuple(text) if isinstance(text, tuple | list) else ()
    if len(parts) not in (1, 2) or not all(isinstance(part, str) for part in parts):
        raise ParameterError(f"{name} must be a string or a pair of strings, not {shown(text)}")
    if any(has_surrogate(part) for part in parts):
        raise ParameterError(f"{name} holds a lone surrogate, which UTF-8 cannot say")
    return parts


def read(
    library: tokenizers.Tokenizer, texts: Sequence[tuple[str, ...]], longest: int = 0, special: bool = True
) -> list[Reading]:
    """The readings of some texts or pairs, with special tokens or without.

    `longest` > 0 cuts what is longer off, the longer text of a pair first.
    """
    given = [text[0] if len(text) == 1 else text for text in texts]
    with library_errors("text: the tokenizer cannot encode it", ParameterError):
        encodings = library.encode_batch(given, add_special_tokens=special and not longest)
        if longest:
            encodings = [_cut(library, encoding, longest, special) for encoding in encodings]
        return [Reading(e.ids, e.type_ids, e.offsets, e.sequence_ids, e.word_ids) for e in encodings]


def _cut(
    library: tokenizers.Tokenizer, encoding: tokenizers.Encoding, longest: int, special: bool
) -> tokenizers.Encoding:
    """An encoding without special tokens: cut, then with them where they are wanted."""
    added = library.num_special_tokens_to_add(False) if special else 0
    encoding.truncate(max(longest - added, 0))
    return library.post_process(encoding, add_special_tokens=special)
