"""Log-likelihood and perplexity: a text runs in pieces, so that only the logits of a few tokens are in memory."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from fastlm import _core
from fastlm.arguments import whole
from fastlm.engine import Engine
from fastlm.errors import ContextLengthError, ParameterError, UnsupportedError, memory_for
from fastlm.tokenizer.prompts import Prompt

PIECE_VALUES = 1 << 24  # logits in memory at a time: 64 MiB


def _token_logprobs(engine: Engine, ids: list[int]) -> Iterator[NDArray[np.float64]]:
    """Natural log-probabilities of ids[1:], each given all before it, piece by piece."""
    if not engine.writes or engine.kind != "decoder":
        raise UnsupportedError("scoring a text needs a decoder that writes")
    session = engine.core.session()
    size = max(1, min(PIECE_VALUES // engine.vocab, 512))
    logits = np.empty((size, engine.vocab), np.float32)
    for at in range(0, len(ids) - 1, size):
        piece = ids[at : min(at + size, len(ids) - 1)]
        rows = logits[: len(piece)]
        item = _core.Item(session, np.array(piece, np.int32), rows="all", logits=rows, whole=len(ids))
        _core.forward(engine.core, [item])
        x = rows.astype(np.float64)
        top = x.max(axis=1, keepdims=True)
        log_sum = np.log(np.exp(x - top).sum(axis=1)) + top[:, 0]
        chosen = np.array(ids[at + 1 : at + 1 + len(piece)])
        yield x[np.arange(len(piece)), chosen] - log_sum


def _scores(engine: Engine, ids: list[int]) -> NDArray[np.float64]:
    with memory_for(f"the probabilities of {len(ids)} tokens"):
        return np.concatenate(list(_token_logprobs(engine, ids)))


def loglikelihood(engine: Engine, text: Prompt, continuation: Prompt | None) -> float:
    """Sum of log-probabilities of the continuation's tokens, or without one of all tokens but the first."""
    ids, after = engine.prompts.ids(text, name="text"), None
    if continuation is not None:
        after = engine.prompts.ids(continuation, start=False, name="continuation")
    if after == []:
        raise ParameterError("the continuation is empty: leave it out to score the text itself")
    both = ids + (after or [])
    if len(both) > engine.longest:
        limit = f"the context of {engine.longest}"
        raise ContextLengthError(f"{len(both)} tokens are more than {limit}: use perplexity's windows")
    if len(both) < 2:
        raise ParameterError("a text of one token has no likelihood: there is nothing before it")
    scores = _scores(engine, both)
    return float(scores[len(ids) - 1 :].sum() if after else scores.sum())


def perplexity(engine: Engine, text: Prompt, window: int | None, stride: int | None) -> float:
    """exp of the mean negative log-probability. Each window scores the tokens that the one before it did not reach."""
    ids, context = engine.prompts.ids(text, name="text"), engine.longest
    if len(ids) < 2:
        raise ParameterError("a text of one token has no perplexity")
    window = min(context, len(ids)) if window is None else whole(window, "window", 2, context)
    stride = max(1, window // 2) if stride is None else whole(stride, "stride (below window)", 1, window - 1)
    total, scored = 0.0, 1  # the first token has nothing before it
    for at in range(0, len(ids), stride):
        end = min(at + window, len(ids))
        if end <= scored:
            break
        scores = _scores(engine, ids[at:end])
        total -= float(scores[scored - end :].sum())
        scored = end
    try:
        return math.exp(total / (scored - 1))
    except OverflowError:  # the text is all but impossible
        return math.inf
