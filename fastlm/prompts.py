"""Prompts: text or token ids, checked and turned into ids."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np

from fastlm.errors import ParameterError
from fastlm.tokenizer import Tokenizer

Prompt = str | Iterable[int]


class Prompts:
    """What a model accepts as a prompt.

    Parameters
    ----------
    tokenizer
        None: only token ids.
    vocab
        Token ids are from 0 to vocab - 1.
    """

    def __init__(self, tokenizer: Tokenizer | None, vocab: int) -> None:
        self._tokenizer = tokenizer
        self._vocab = vocab

    def tokenizer(self) -> Tokenizer:
        """The tokenizer, or an error that says what is missing."""
        if self._tokenizer is None:
            raise ParameterError("this model has no tokenizer (tokenizer.json is missing): give token ids, not text")
        return self._tokenizer

    def ids(self, prompt: Prompt, start: bool = True) -> list[int]:
        """Ids of a prompt: text is tokenised (with special tokens at the start of a sequence), ids are checked."""
        ids = self.tokenizer().encode(prompt, special=start) if isinstance(prompt, str) else self.check(prompt)
        if not ids and start:
            raise ParameterError("the prompt is empty: give text, or ids such as [bos_token_id]")
        return ids

    def check(self, ids: object) -> list[int]:
        """Token ids as a list of int, all of them in the vocabulary."""
        if isinstance(ids, (str, bytes, bytearray)) or not isinstance(ids, Iterable):
            raise ParameterError(f"expected a list of token ids, not {type(ids).__name__}")
        return [token_id(value, self._vocab) for value in ids]

    def echo(self, prompt: Prompt, wanted: bool) -> str:
        """The prompt's text if it is wanted before what is written."""
        if not wanted:
            return ""
        return prompt if isinstance(prompt, str) else self.tokenizer().decode(list(prompt))


def token_id(value: object, vocab: int, what: str = "") -> int:
    """A token id as int; `what` names the parameter in error texts."""
    name = f"{what}: " if what else ""
    if isinstance(value, (bool, np.bool_)) or not hasattr(value, "__index__"):
        raise ParameterError(f"{name}{value!r:.100} is not a token id")
    token = int(value.__index__())
    if not 0 <= token < vocab:
        raise ParameterError(f"{name}token id {token} is outside of the vocabulary of {vocab}")
    return token


def first_id(first: Mapping[str, object], then: Mapping[str, object], name: str) -> int | None:
    """A token id that one of two config files names, the first with precedence."""
    for source in (first, then):
        value = source.get(name)
        if isinstance(value, list) and value:
            value = value[0]
        if isinstance(value, int) and not isinstance(value, bool):
            return value
    return None
