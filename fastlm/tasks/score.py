"""Log-likelihood and perplexity: a text runs in pieces, so that only the logits of a few tokens are in memory."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from fastlm import _core
from fastlm.arguments import whole
from fastlm.errors import ContextLengthError, ParameterError, UnsupportedError, memory_for

PIECE_VALUES = 1 << 24  # logits in memory at a time: 64 MiB


def _token_logprobs(core: _core.Model, ids: list[int], vocab: int) -> Iterator[NDArray[np.float64]]:
    """Natural log-probabilities of ids[1:], each given all before it, piece by piece."""
    if core.info()["kind"] != "decoder":
        raise UnsupportedError("scoring a text needs a decoder")
    session = core.session()
    size = max(1, min(PIECE_VALUES // vocab, 512))
    logits = np.empty((size, vocab), np.float32)
    for at in range(0, len(ids) - 1, size):
        piece = ids[at : min(at + size, len(ids) - 1)]
        rows = logits[: len(piece)]
        _core.forward(core, [_core.Item(session, np.array(piece, np.int32), rows=2, logits=rows)])
        x = rows.astype(np.float64)
        top = x.max(axis=1, keepdims=True)
        log_sum = np.log(np.exp(x - top).sum(axis=1)) + top[:, 0]
        chosen = np.array(ids[at + 1 : at + 1 + len(piece)])
        yield x[np.arange(len(piece)), chosen] - log_sum


def _scores(core: _core.Model, ids: list[int], vocab: int) -> NDArray[np.float64]:
    with memory_for(f"the probabilities of {len(ids)} tokens"):
        return np.concatenate(list(_token_logprobs(core, ids, vocab)))


def loglikelihood(core: _core.Model, ids: list[int], continuation: list[int] | None, vocab: int, context: int) -> float:
    """Sum of log-probabilities of the continuation's tokens, or without one of all tokens but the first."""
    if continuation is not None and not continuation:
        raise ParameterError("the continuation is empty: leave it out to score the text itself")
    both = ids + (continuation or [])
    if len(both) > context:
        raise ContextLengthError(f"{len(both)} tokens are more than the context of {context}: use perplexity's windows")
    if len(both) < 2:
        raise ParameterError("a text of one token has no likelihood: there is nothing before it")
    scores = _scores(core, both, vocab)
    return float(scores[len(ids) - 1 :].sum() if continuation else scores.sum())


def perplexity(
    core: _core.Model, ids: list[int], vocab: int, context: int, window: int | None, stride: int | None
) -> float:
    """Mean negative log-probability per token. Each window scores the tokens that the one before it did not reach."""
    if len(ids) < 2:
        raise ParameterError("a text of one token has no perplexity")
    window = min(context, len(ids)) if window is None else whole(window, "window", 2, context)
    stride = max(1, window // 2) if stride is None else whole(stride, "stride (below window)", 1, window - 1)
    total, scored = 0.0, 1  # the first token has nothing before it
    for at in range(0, len(ids), stride):
        end = min(at + window, len(ids))
        if end <= scored:
            break
        scores = _scores(core, ids[at:end], vocab)
        total -= float(scores[scored - end :].sum())
        scored = end
    return total / (scored - 1)
