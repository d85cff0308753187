"""Texts and pairs of texts as encoders read them: ids, token types, and where in the text each token is."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Protocol

from fastlm.arguments import has_surrogate, shown
from fastlm.errors import ParameterError
from fastlm.tokenizer.library import library_errors

if TYPE_CHECKING:
    import tokenizers

Text = str | tuple[str, str] | Sequence[str]  # or a pair
PIECE_TEXTS, PIECE_CHARACTERS = 64, 1 << 15  # that the library is given at a time: some milliseconds


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


class Reading:
    """A text's tokens, taken from what the library found when they are first asked for.

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

    def __init__(self, encoding: tokenizers.Encoding) -> None:
        self._encoding = encoding
        self.ids: list[int] = encoding.ids

    @cached_property
    def types(self) -> list[int]:
        return list(self._encoding.type_ids)

    @cached_property
    def spans(self) -> list[tuple[int, int]]:
        return list(self._encoding.offsets)

    @cached_property
    def parts(self) -> list[int | None]:
        return list(self._encoding.sequence_ids)

    @cached_property
    def words(self) -> list[int | None]:
        return list(self._encoding.word_ids)


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
    library: tokenizers.Tokenizer,
    texts: Sequence[tuple[str, ...]],
    *,
    longest: int = 0,
    special: bool = True,
    spans: bool = True,
    threads: int = 1,
) -> list[Reading]:
    """The readings of some texts or pairs.

    longest: > 0 cuts what has more tokens off, the longer text of a pair first; special: whether special tokens are
    added; spans: whether places of tokens are asked for; threads: how many read side by side.
    """
    encode = library.encode_batch if spans else library.encode_batch_fast

    def read_piece(piece: Sequence[tuple[str, ...]]) -> list[Reading]:
        given = [text[0] if len(text) == 1 else text for text in piece]
        encodings = encode(given, add_special_tokens=special and not longest)
        if longest:
            encodings = [_cut(library, encoding, longest, special) for encoding in encodings]
        return [Reading(encoding) for encoding in encodings]

    with library_errors("text: the tokenizer cannot encode it", ParameterError):
        return _side_by_side(read_piece, list(_pieces(texts)), threads)


def _pieces(texts: Sequence[tuple[str, ...]]) -> Iterator[Sequence[tuple[str, ...]]]:
    first, size = 0, 0
    for i, text in enumerate(texts):
        size += sum(map(len, text))
        if size >= PIECE_CHARACTERS or i - first + 1 == PIECE_TEXTS:
            yield texts[first : i + 1]
            first, size = i + 1, 0
    if first < len(texts):
        yield texts[first:]


def _side_by_side(
    work: Callable[[Sequence[tuple[str, ...]]], list[Reading]], pieces: list[Sequence[tuple[str, ...]]], threads: int
) -> list[Reading]:
    """What `work` makes of all pieces, in their order; the library lets go of the interpreter's lock meanwhile."""
    if threads == 1 or len(pieces) < 2:
        return [reading for piece in pieces for reading in work(piece)]
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(min(threads, len(pieces))) as pool:
        try:
            return [reading for readings in pool.map(work, pieces) for reading in readings]
        except BaseException:  # an interrupt waits for the pieces in hand, not for all
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _cut(
    library: tokenizers.Tokenizer, encoding: tokenizers.Encoding, longest: int, special: bool
) -> tokenizers.Encoding:
    """An encoding without special tokens: cut, then with them where they are wanted."""
    added = library.num_special_tokens_to_add(False) if special else 0
    encoding.truncate(max(longest - added, 0))
    return library.post_process(encoding, add_special_tokens=special)
