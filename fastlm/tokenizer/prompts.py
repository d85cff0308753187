"""Prompts: text or token ids, checked and turned into ids."""

from __future__ import annotations

from collections.abc import Iterable

from fastlm.arguments import items, token_id
from fastlm.errors import ParameterError
from fastlm.tokenizer.tokenizer import Tokenizer

Prompt = str | Iterable[int]


class Prompts:
    """What a model accepts as a prompt.

    Parameters
    ----------
    tokenizer
        None: only token ids.
    vocab
        Token ids of prompts are from 0 to vocab - 1.
    missing
        Why there is no tokenizer.
    """

    def __init__(self, tokenizer: Tokenizer | None, vocab: int, missing: str = "this model has no tokenizer") -> None:
        self.tokenizer = tokenizer
        self._vocab = vocab
        self._missing = missing

    def needed_tokenizer(self) -> Tokenizer:
        """The tokenizer, or an error that says what is missing."""
        if self.tokenizer is None:
            raise ParameterError(f"{self._missing}: give token ids, not text")
        return self.tokenizer

    def ids(
        self, prompt: Prompt, start: bool = True, name: str = "prompt", source_lang: str | None = None
    ) -> list[int]:
        """Ids of a prompt: text is tokenised (with special tokens at the start of a sequence), ids are checked.

        name: the argument's, in error texts; source_lang: the language of a text to translate.
        """
        if isinstance(prompt, str):
            ids = self.of_text(prompt, name, special=start, start=start, source_lang=source_lang)
        elif source_lang is not None:
            raise ParameterError(f"source_lang: the {name} is token ids, which say their language themselves")
        else:
            ids = self.check(prompt, name, "text or a list of token ids")
        if not ids and start:
            raise ParameterError(f"the {name} is empty: give text, or ids such as [bos_token_id]")
        return ids

    def of_text(
        self,
        text: str,
        name: str = "prompt",
        *,
        special: bool = True,
        start: bool = True,
        source_lang: str | None = None,
    ) -> list[int]:
        """Ids of a text, which must all have a row in the model; see `Tokenizer.encode`, `Tokenizer.encode_source`."""
        tokenizer = self.needed_tokenizer()
        if source_lang is not None:
            ids = tokenizer.encode_source(text, source_lang)
        else:
            ids = tokenizer.encode(text, special=special, start=start)
        if ids and max(ids) >= self._vocab:
            beyond = next(i for i in ids if i >= self._vocab)
            raise ParameterError(
                f"{name}: the tokenizer makes token {beyond} ({tokenizer.piece(beyond)!r:.40}) of it, but the model "
                f"has rows for {self._vocab} only: leave that part of the text out"
            )
        return ids

    def target_start(self, target_lang: str) -> int:
        """The token that a translation into a language begins with; see `Tokenizer.target_start`."""
        return self.needed_tokenizer().target_start(target_lang)

    def check(self, ids: object, name: str, what: str = "a list of token ids", vocab: int = 0) -> list[int]:
        """Token ids as a list of int, all of them in the vocabulary; vocab: its size, if it is not that of prompts."""
        return [token_id(value, vocab or self._vocab, name) for value in items(ids, name, what)]

    def echo(self, prompt: Prompt, ids: list[int], wanted: bool) -> str:
        """The prompt's text if it is wanted before what is written."""
        if not wanted:
            return ""
        return prompt if isinstance(prompt, str) else self.needed_tokenizer().decode(ids)
