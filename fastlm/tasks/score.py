"""Log-likelihood and perplexity of a text."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from fastlm.arguments import whole
from fastlm.engine import Engine
from fastlm.errors import ContextLengthError, ParameterError, memory_for
from fastlm.tasks.continuations import Continuation, continuations
from fastlm.tokenizer.prompts import Prompt


def _scores(engine: Engine, ids: list[int], n: int) -> NDArray[np.float64]:
    """Natural log-probabilities of the last n ids, each given all before it."""
    with memory_for(f"the probabilities of {len(ids)} tokens"):
        return continuations(engine, [Continuation(ids, n)])[0].logprobs


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
    return float(_scores(engine, both, len(after or ids[1:])).sum())


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
        total -= float(_scores(engine, ids[at:end], end - scored).sum())
        scored = end
    try:
        return math.exp(total / (scored - 1))
    except OverflowError:  # the text is all but impossible
        return math.inf
