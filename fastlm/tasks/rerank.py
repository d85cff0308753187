"""How well documents answer a query: by a cross-encoder, or by a decoder that says yes or no."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fastlm.arch.head_tasks import CLASSIFY
from fastlm.arguments import whole
from fastlm.engine import Engine
from fastlm.errors import ParameterError, UnsupportedError, error_of
from fastlm.tasks.embed import begin, prompt_of
from fastlm.tasks.forward import softmax
from fastlm.tasks.texts import RUN_AT_ONCE, check, given, groups, only, pooled, read, scores
from fastlm.tasks.vectors import activated
from fastlm.tokenizer.reading import Assembled, Tokens
from fastlm.weights.chain import Score
from fastlm.weights.late import DOCUMENT, QUERY

Array = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Ranked:
    """A document, its place in the list that was given, and its score."""

    index: int
    score: float
    document: str


def rerank(engine: Engine, query: str, docs: Iterable[str], top_n: int | None, prompt_name: str | None) -> list[Ranked]:
    """See `Model.rerank`."""
    score = engine.sentences.score
    if score is None:
        only(engine, CLASSIFY, "rerank")
    if top_n is not None:
        top_n = whole(top_n, "top_n", 1, 2**31 - 1)
    if not isinstance(query, str):
        raise ParameterError("query must be a string")
    documents = list(given(docs, "docs"))
    prompt = prompt_of(engine.sentences, prompt_name)
    found: list[Array] = []
    for first, group in groups(documents):
        if score is None:
            pairs = [(begin(prompt, query), document) for document in group]
            found.append(scores(engine, read(engine, pairs, "docs", first=first, joins=True)))
        else:
            found.append(_said(engine, _asked(engine, prompt, query, group, first), score))
    values = _relevance(engine.sentences.activation, np.concatenate(found)) if found else np.empty(0)
    order = np.argsort(-values, kind="stable")[:top_n]
    return [Ranked(int(i), float(values[i]), documents[i]) for i in order]


def _relevance(activation: str, logits: Array) -> NDArray[np.float64]:
    """As sentence-transformers' CrossEncoder: the sigmoid of one label, unless its folder names another activation."""
    x = logits.astype(np.float64)
    if x.shape[1] > 2:
        raise UnsupportedError(f"rerank: this head tells {x.shape[1]} labels apart; it needs one, or two")
    if x.shape[1] == 2:
        return softmax(x)[:, 1]
    return activated(x[:, 0], activation or "Sigmoid")


def _asked(engine: Engine, prompt: str, query: str, documents: Sequence[object], first: int) -> Sequence[Tokens]:
    """A query and each document as the model's chat template puts them; as a pair where it has none."""
    if engine.templates is None:
        return read(engine, [(prompt + query, document) for document in documents], "docs", first=first, joins=True)
    tokenizer, setup = engine.prompts.needed_tokenizer(), engine.sentences
    variables = {"add_generation_prompt": False, **setup.template}
    parts = engine.templates.reads_parts if setup.parts is None else setup.parts
    found = []
    for i, document in enumerate(documents, first):
        with error_of(f"docs[{i}]"):
            if not isinstance(document, str):
                raise ParameterError("a document must be a string")
            messages = _messages(parts, prompt, query, document)
            ids = tokenizer.encode(engine.templates.render(messages, variables), special=False)
            reading = Assembled(ids, [0] * len(ids))
            check(engine, reading, min(setup.longest or engine.longest, engine.longest))
            found.append(reading)
    return found


def _messages(parts: bool, prompt: str, query: str, document: str) -> list[dict[str, object]]:
    said = [*((("system", prompt),) if prompt else ()), (QUERY, query), (DOCUMENT, document)]
    return [{"role": role, "content": [{"type": "text", "text": text}] if parts else text} for role, text in said]


def _said(engine: Engine, readings: Sequence[Tokens], score: Score) -> Array:
    """(n, 1): the logit of yes behind the last token, less that of no."""
    found = np.empty((len(readings), 1), np.float32)
    for at in range(0, len(readings), RUN_AT_ONCE):
        logits = pooled(engine, readings[at : at + RUN_AT_ONCE], "last")
        value = logits[:, score.true]
        found[at : at + RUN_AT_ONCE, 0] = value if score.false is None else value - logits[:, score.false]
    return found
