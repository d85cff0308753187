"""Weights of words for texts, as SPLADE makes them."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from fastlm.arch.head_tasks import FILL
from fastlm.arguments import whole
from fastlm.engine import Engine
from fastlm.errors import memory_for
from fastlm.tasks.embed import begin, prompt_of
from fastlm.tasks.texts import Progress, by_token, given, groups, only, read
from fastlm.weights.chain import Splade

Array = NDArray[np.float32]


def embed_sparse(
    engine: Engine,
    texts: Iterable[object],
    *,
    prompt_name: str | None,
    top_k: int | None,
    truncate: bool,
    progress: Progress | None,
) -> list[dict[str, float]]:
    """See `Model.embed_sparse`."""
    setup = engine.sentences
    if setup.sparse is None:
        raise engine.refusal("embed_sparse: this checkpoint lists no SpladePooling in modules.json")
    only(engine, FILL, "embed_sparse")
    if top_k is not None:
        top_k = whole(top_k, "top_k", 1, engine.vocab)
    prompt = prompt_of(setup, prompt_name)
    found: list[dict[str, float]] = []
    for first, group in groups(given(texts), progress):
        begun = [begin(prompt, text) for text in group]
        readings = read(engine, begun, first=first, longest=setup.longest, truncate=truncate)
        with memory_for("the logits of a text's tokens"):
            weights = (_weights(logits, setup.sparse) for logits in by_token(engine, readings))
            found += [_words(engine, row, top_k) for row in weights]
    return found


def _weights(logits: Array, way: Splade) -> Array:
    """Of every word, from logits (tokens, V). What grows with its input may as well come behind the maximum."""
    x = np.maximum(logits if way.adds else logits.max(axis=0), 0)
    for _ in range(1 + way.twice):
        x = np.log1p(x)
    return np.asarray(x.sum(axis=0) if way.adds else x)


def _words(engine: Engine, weights: Array, top_k: int | None) -> dict[str, float]:
    """The words that have a weight, the heaviest first."""
    tokenizer = engine.prompts.needed_tokenizer()
    there = np.flatnonzero(weights > 0)
    order = there[np.argsort(-weights[there], kind="stable")][:top_k]
    return {tokenizer.name_of(int(i)): float(weights[i]) for i in order}
