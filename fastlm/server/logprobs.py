"""Log-probabilities of written tokens, in both of OpenAI's shapes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import accumulate
from typing import Any

from fastlm.results import TokenLogprob
from fastlm.tokenizer.tokenizer import Tokenizer

LEAST = -9999.0  # what JSON writes for minus infinity, as OpenAI does


def of_chat(tokenizer: Tokenizer | None, tokens: Iterable[TokenLogprob] | None) -> dict[str, Any] | None:
    """As chat completions have them; None where nobody asked."""
    if tokens is None:
        return None
    return {
        "content": [
            {
                **_entry(tokenizer, one.id, one.text, one.logprob),
                "top_logprobs": [_entry(tokenizer, *top) for top in one.top],
            }
            for one in tokens
        ],
        "refusal": None,
    }


def _entry(tokenizer: Tokenizer | None, token: int, text: str, logprob: float) -> dict[str, Any]:
    return {"token": text, "logprob": max(logprob, LEAST), "bytes": list(_bytes(tokenizer, token, text))}


def _bytes(tokenizer: Tokenizer | None, token: int, text: str) -> bytes:
    """Those that a token prints, which may be a part of a letter."""
    table = None if tokenizer is None else tokenizer.table
    if table is not None and token < len(table.pieces):
        return table.pieces[token]
    return text.encode("utf-8", "replace")


def of_text(tokens: Sequence[TokenLogprob] | None, offset: int, top: bool, first: str | None = None) -> Any:
    """As completions have them.

    Parameters
    ----------
    offset
        Where in the text the first token begins.
    top
        Whether the most probable ones were asked for.
    first
        A token before the others, of which nothing is known: that which begins a prompt.
    """
    if tokens is None:
        return None
    texts = [*([] if first is None else [first]), *(one.text for one in tokens)]
    nothing: list[None] = [] if first is None else [None]
    return {
        "tokens": texts,
        "token_logprobs": [*nothing, *(max(one.logprob, LEAST) for one in tokens)],
        "top_logprobs": [*nothing, *map(_best, tokens)] if top else None,
        "text_offset": [offset + length for length in accumulate(map(len, texts[:-1]), initial=0)][: len(texts)],
    }


def _best(one: TokenLogprob) -> dict[str, float]:
    """The most probable tokens by their texts, and the chosen one."""
    found: dict[str, float] = {}
    for _, text, logprob in (*one.top, (one.id, one.text, one.logprob)):
        found.setdefault(text, max(logprob, LEAST))
    return found
