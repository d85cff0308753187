"""Vectors of texts, and how well documents answer a query."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fastlm import _core
from fastlm.arch.heads import CLASSIFY
from fastlm.arguments import shown, whole
from fastlm.engine import Engine
from fastlm.errors import ParameterError, UnsupportedError
from fastlm.tasks.labels import sigmoid, softmax
from fastlm.tasks.texts import groups, only, pooled, read, scores
from fastlm.tokenizer.reading import Reading
from fastlm.weights.sentences import Sentences

Array = NDArray[np.float32]
POOLINGS = ("first", "last", "mean")
OTHER_NAMES = {"cls": "first", "lasttoken": "last"}
TINY = np.float32(1e-12)  # below which a vector has no direction


def embed(
    engine: Engine,
    texts: Iterable[object],
    *,
    prompt_name: str | None,
    pooling: str,
    normalize: bool | str,
    dimensions: int | None,
    truncate: bool,
    progress: Callable[[int, int | None], None] | None,
) -> Array:
    """See `Model.embed`."""
    if engine.kind == "encoder-decoder":
        raise UnsupportedError("embed: an encoder-decoder gives no vectors of texts")
    setup = engine.sentences
    rows = _pooling(setup, pooling)
    prompt = _prompt(setup, prompt_name)
    unit = setup.normalize if normalize == "auto" else normalize
    if not isinstance(unit, bool):
        raise ParameterError(f"normalize must be True, False or 'auto', not {shown(normalize)}")
    width = engine.spec.hidden
    if dimensions is not None:
        dimensions = whole(dimensions, "dimensions", 1, width)
    single = isinstance(texts, str)
    total = len(texts) if isinstance(texts, Sequence) and not single else None
    found, done = [], 0
    for group in groups([texts] if single else _list(texts)):
        begun = [_with(prompt, text) for text in group]
        vectors = _vectors(engine, read(engine, begun, longest=setup.longest, truncate=truncate), rows)
        vectors = vectors[:, :dimensions]
        found.append(_unit(vectors) if unit else vectors)
        done += len(group)
        if progress is not None:
            progress(done, total)
    vectors = np.concatenate(found) if found else np.empty((0, dimensions or width), np.float32)
    return vectors[0] if single else vectors


def _list(texts: object) -> Iterable[object]:
    if isinstance(texts, bytes) or not isinstance(texts, Iterable):
        raise ParameterError(f"texts must be a text or a list of texts, not {shown(texts)}")
    return texts


def _pooling(setup: Sentences, pooling: str) -> str:
    name = setup.pooling if pooling == "auto" else OTHER_NAMES.get(pooling, pooling)
    if name not in POOLINGS:
        known = ", ".join(("auto", *POOLINGS))
        raise ParameterError(f"pooling must be one of {known}, not {shown(pooling)}")
    return name


def _prompt(setup: Sentences, name: str | None) -> str:
    name = setup.default_prompt if name is None else name
    if name is None:
        return ""
    if name not in setup.prompts:
        known = ", ".join(setup.prompts) or "none"
        raise ParameterError(f"prompt_name: this model has no prompt {shown(name)} (known: {known})")
    return setup.prompts[name]


def _with(prompt: str, text: object) -> object:
    return prompt + text if isinstance(text, str) else text


def _vectors(engine: Engine, readings: Sequence[Reading], rows: str) -> Array:
    """Pooled hidden states; where the model has a head, which the core would apply, from all hidden states."""
    if not engine.spec.head:
        return pooled(engine, readings, rows)
    return np.stack([_pool(_hidden(engine, reading), rows) for reading in readings])


def _hidden(engine: Engine, reading: Reading) -> Array:
    found = np.empty((len(reading.ids), engine.spec.hidden), np.float32)
    types = np.array(reading.types, np.int32) if engine.spec.main.embed.types > 1 else None
    ids = np.array(reading.ids, np.int32)
    _core.forward(engine.core, [_core.Item(engine.core.session(), ids, rows="none", types=types, hidden=found)])
    return found


def _pool(hidden: Array, rows: str) -> Array:
    pooled: Array = {"first": hidden[0], "last": hidden[-1]}.get(rows, hidden.mean(axis=0))
    return pooled


def _unit(vectors: Array) -> Array:
    """Each row divided by its length."""
    lengths = np.sqrt(np.einsum("nd,nd->n", vectors, vectors))
    return np.asarray(vectors / np.maximum(lengths, TINY)[:, None], np.float32)


@dataclass(frozen=True, slots=True)
class Ranked:
    """A document, its place in the list that was given, and its score."""

    index: int
    score: float
    document: str


def rerank(engine: Engine, query: str, docs: Iterable[str], top_n: int | None) -> list[Ranked]:
    """See `Model.rerank`."""
    only(engine, CLASSIFY)
    documents = list(docs)
    if top_n is not None:
        top_n = whole(top_n, "top_n", 1, 2**31 - 1)
    logits = [scores(engine, read(engine, [(query, d) for d in group], "docs")) for group in groups(documents)]
    values = _relevance(engine.config, np.concatenate(logits)) if logits else np.empty(0)
    order = np.argsort(-values, kind="stable")[:top_n]
    return [Ranked(int(i), float(values[i]), documents[i]) for i in order]


def _relevance(config: Mapping[str, object], logits: Array) -> NDArray[np.float64]:
    """As sentence-transformers' CrossEncoder: the sigmoid of one label, unless its folder says not to."""
    x = logits.astype(np.float64)
    if x.shape[1] > 2:
        raise UnsupportedError(f"rerank: this head tells {x.shape[1]} labels apart; it needs one, or two")
    if x.shape[1] == 2:
        return softmax(x)[:, 1]
    own = config.get("sentence_transformers")
    name = str(own.get("activation_fn", "")) if isinstance(own, Mapping) else ""
    return x[:, 0] if name.endswith("Identity") else sigmoid(x[:, 0])
