"""What a model makes of each token of a text: its log-probability, and the most probable ones at its place."""

from __future__ import annotations

from itertools import chain

import numpy as np

from fastlm.engine import Engine
from fastlm.errors import memory_for
from fastlm.parameters import CancelFlag
from fastlm.results import TokenLogprob
from fastlm.tasks.continuations import log_rows


def token_logprobs(engine: Engine, ids: list[int], k: int, cancel: CancelFlag | None = None) -> list[TokenLogprob]:
    """Of all tokens but the first, each given all before it, with the k most probable ones at its place.

    Raises
    ------
    UnsupportedError
        The model is not a decoder that writes.
    ContextLengthError
        There are more tokens than the context holds.
    """
    tokenizer, k = engine.prompts.needed_tokenizer(), min(k, engine.vocab)
    found: list[TokenLogprob] = []
    with memory_for(f"the probabilities of {len(ids)} tokens"):
        for row in chain.from_iterable(log_rows(engine, ids, cancel)):
            likely = map(int, np.argpartition(-row, k - 1)[:k] if k else ())
            best = sorted(likely, key=lambda i: (-row[i], i))
            token = ids[len(found) + 1]
            top = tuple((i, tokenizer.piece(i), float(row[i])) for i in best)
            found.append(TokenLogprob(token, tokenizer.piece(token), float(row[token]), top))
    return found
