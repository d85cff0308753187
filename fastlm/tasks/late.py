"""Vectors of tokens, and how well those of a document answer those of a query: late interaction."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fastlm import _core
from fastlm.arguments import items
from fastlm.engine import Engine
from fastlm.errors import ParameterError, UnsupportedError
from fastlm.tasks.embed import begin, prompt_of
from fastlm.tasks.texts import Progress, given, groups, hidden, read
from fastlm.tasks.vectors import advance
from fastlm.tokenizer.reading import Assembled, Reading, Tokens
from fastlm.weights.late import DOCUMENT, QUERY, Expansion, Mask

Array = NDArray[np.float32]


def embed_tokens(
    engine: Engine,
    texts: Iterable[object],
    *,
    prompt_name: str | None,
    truncate: bool,
    progress: Progress | None,
) -> list[Array]:
    """See `Model.embed_tokens`."""
    setup = engine.sentences
    late = setup.late
    if late is None:
        raise engine.refusal("embed_tokens: this folder has no modules for vectors of tokens")
    kind = prompt_name or setup.default_prompt or DOCUMENT
    prompt = prompt_of(setup, kind)
    expansion = late.expansion if kind == QUERY else None
    longest = expansion.length if expansion and expansion.fixed else late.longest(kind)
    scored = _scored(engine, late.mask, kind)
    found: list[Array] = []
    for first, group in groups(given(texts), progress):
        begun = [begin(prompt, text) for text in group]
        readings = read(engine, begun, first=first, longest=longest or setup.longest, truncate=truncate)
        filled = readings if expansion is None else [_filled(engine, reading, expansion) for reading in readings]
        apart = expansion is not None and not expansion.attend
        made = _apart(engine, filled, readings) if apart else hidden(engine, filled)
        for reading, states in zip(filled, made, strict=True):
            found.append(advance(states[scored[reading.ids]], setup.token_steps))
    return found


def _scored(engine: Engine, mask: Mask, kind: str) -> NDArray[np.bool_]:
    """Of each token of the vocabulary, whether it has a vector in texts of this kind."""
    found = np.ones(engine.vocab, np.bool_)
    if kind != QUERY and mask.kept:
        found[:] = False
        found[[token for token in mask.kept if token < engine.vocab]] = True
    if (kind if kind == QUERY else DOCUMENT) in mask.tasks:
        tokenizer = engine.prompts.needed_tokenizer()
        ids = [tokenizer.id_of(word) for word in mask.words]
        found[[token for token in ids if token is not None and token < engine.vocab]] = False
    return found


def _filled(engine: Engine, reading: Reading, expansion: Expansion) -> Tokens:
    """A query filled up with mask tokens; with ends of the text, where the tokenizer has no mask."""
    n = expansion.length - len(reading.ids)
    if n <= 0:
        return reading
    tokenizer = engine.prompts.needed_tokenizer()
    names = [expansion.token, *(tokenizer.special_tokens.get(name) for name in ("mask_token", "eos_token"))]
    name = next((name for name in names if name is not None), None)
    token = None if name is None else tokenizer.id_of(name)
    if token is None:
        raise UnsupportedError("embed_tokens: queries are to be filled up, and the tokenizer has no mask token")
    return Assembled([*reading.ids, *[token] * n], [*reading.types, *[0] * n])


def _apart(engine: Engine, filled: Sequence[Tokens], readings: Sequence[Tokens]) -> Iterator[Array]:
    """Hidden states of filled queries, whose new tokens look at the others and are not looked at."""
    if engine.kind != "encoder":
        raise UnsupportedError("embed_tokens: queries are to be filled up so that no token sees it; a decoder's would")
    for query, own in zip(filled, readings, strict=True):
        ids, types = (np.array(values, np.int32) for values in (query.ids, query.types))
        states = np.empty((len(ids), engine.spec.hidden), np.float32)
        typed = types if engine.spec.main.embed.types > 1 else None
        item = _core.Item(engine.session(), ids, rows="none", types=typed, hidden=states, seen=len(own.ids))
        _core.forward(engine.core, [item])
        yield states


def max_sim(query: ArrayLike, docs: ArrayLike | Sequence[ArrayLike]) -> Array | float:
    """How well documents answer a query, by late interaction (Khattab and Zaharia 2020).

    Parameters
    ----------
    query
        Vectors of its tokens, (tokens, D), from `Model.embed_tokens` with prompt_name="query".
    docs
        Those of a document, (tokens, D), or of a list of them.

    Returns
    -------
    For a list, float32 (n,): the sum, over the query's tokens, of the largest product with a token of the document.
    For one document, that number.

    Raises
    ------
    ParameterError
        The arrays do not have such shapes.
    """
    one = isinstance(docs, np.ndarray) and docs.ndim == 2
    asked = _matrix(query, "query")
    listed = [docs] if one else list(items(docs, "docs", "a list of arrays"))
    scores = np.empty(len(listed), np.float32)
    for i, doc in enumerate(listed):
        found = _matrix(doc, f"docs[{i}]")
        if found.shape[1] != asked.shape[1]:
            raise ParameterError(
                f"docs[{i}]: vectors of {found.shape[1]} numbers; those of the query have {asked.shape[1]}"
            )
        scores[i] = (asked @ found.T).max(axis=1).sum()
    return float(scores[0]) if one else scores


def _matrix(values: object, name: str) -> Array:
    try:
        found = np.asarray(values, np.float32)
    except (OverflowError, TypeError, ValueError) as error:
        raise ParameterError(f"{name}: expected numbers of shape (tokens, D): {error}") from None
    if found.ndim != 2 or not len(found):
        raise ParameterError(f"{name}: expected an array of shape (tokens, D), found {list(found.shape)}")
    return found
