"""The `tokenizers` library behind one door: how it is set up, and its errors as typed ones.

It has a thread pool of its own, which its batch calls start unless TOKENIZERS_PARALLELISM says otherwise. fastlm uses
these calls only because they let go of the interpreter's lock, so it switches the pool off when it first loads a
tokenizer, if the variable is not set: by setting it to "false", for the whole process.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fastlm.errors import FastlmError, ModelFormatError, ModelMemoryError, ParameterError

if TYPE_CHECKING:
    import tokenizers

    from fastlm.tokenizer.components import Part

PARALLELISM = "TOKENIZERS_PARALLELISM"
STAGES = ("normalizer", "pre_tokenizer", "post_processor", "decoder")


@dataclass(frozen=True, slots=True)
class Token:
    """A token that is looked for in a text before anything else: the fields of the library's AddedToken."""

    content: str
    single_word: bool = False
    lstrip: bool = False
    rstrip: bool = False
    normalized: bool = False
    special: bool = True


class library_errors:  # used as contextlib.suppress is; as a generator it would cost each call a microsecond
    """Whatever the library raises in the block becomes an error of `kind`, or a ModelMemoryError.

    Parameters
    ----------
    what
        The beginning of the error text: the file, or what is done.

    Notes
    -----
    A panic of its Rust code is a BaseException without a name to import. When memory runs out where it can say so, its
    exception has no text.
    """

    __slots__ = ("_kind", "_what")

    def __init__(self, what: str, kind: type[ModelFormatError] | type[ParameterError] = ModelFormatError) -> None:
        self._what = what
        self._kind = kind

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if error is None or isinstance(error, FastlmError):
            return
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            return
        text = "" if isinstance(error, MemoryError) else str(error)
        if not text:
            raise ModelMemoryError(f"{self._what}: out of memory") from error
        raise self._kind(f"{self._what}: {text:.300}") from error


def make_library(
    model: tokenizers.models.Model, stages: Mapping[str, Part | None], tokens: tuple[Token, ...]
) -> tokenizers.Tokenizer:
    """The library's tokenizer: a model, the stages around it (by their names in a tokenizer.json), and added tokens."""
    from tokenizers import AddedToken

    os.environ.setdefault(PARALLELISM, "false")
    library = _frame(stages)
    library.model = model
    library.add_tokens([AddedToken(**{name: getattr(token, name) for name in Token.__slots__}) for token in tokens])
    return library


def library_decoder(parts: Sequence[Part]) -> Callable[[list[str]], str]:
    """The library's decoder of these parts: pieces to text."""
    decoder = _frame({"decoder": {"type": "Sequence", "decoders": list(parts)}}).decoder

    def decode(pieces: list[str]) -> str:
        with library_errors("the tokenizer's decoder fails"):
            return str(decoder.decode(pieces))

    return decode


def library_normalizer(part: Part) -> Callable[[str], str]:
    """The library's normalizer of a part: text to text."""
    normalizer = _frame({"normalizer": part}).normalizer

    def normalize(text: str) -> str:
        with library_errors("the tokenizer's normalizer fails"):
            return str(normalizer.normalize_str(text))

    return normalize


def _frame(stages: Mapping[str, Part | None]) -> tokenizers.Tokenizer:
    """A tokenizer with an empty model."""
    from tokenizers import Tokenizer

    model = {"type": "BPE", "vocab": {}, "merges": []}
    whole: dict[str, object] = {"version": "1.0", "added_tokens": [], "model": model, **dict.fromkeys(STAGES), **stages}
    return Tokenizer.from_str(json.dumps(whole))
