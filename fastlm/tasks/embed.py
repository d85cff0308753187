"""Vectors of texts."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fastlm.arguments import shown, whole
from fastlm.engine import Engine
from fastlm.errors import ParameterError, UnsupportedError
from fastlm.tasks.texts import Progress, given, groups, hidden, pooled, read
from fastlm.tasks.vectors import advance, pool, unit
from fastlm.tokenizer.reading import Reading
from fastlm.weights.modules import POOLINGS, Dense, Pooling, Step
from fastlm.weights.sentences import Sentences

Array = NDArray[np.float32]
OTHER_NAMES = {"first": "cls", "last": "lasttoken"}
ROWS = {"cls": "first", "mean": "mean", "lasttoken": "last"}  # what the core pools, as it calls it; a decoder's: last


@dataclass(frozen=True, slots=True)
class _Way:
    """From texts to vectors, as a call wants it.

    Attributes
    ----------
    skipped
        Tokens of the prompt, where they do not count.
    """

    setup: Sentences
    prompt: str
    pooling: Pooling
    skipped: int
    unit: bool


def embed(
    engine: Engine,
    texts: Iterable[object],
    *,
    prompt_name: str | None,
    pooling: str | Sequence[str],
    normalize: bool | str,
    dimensions: int | None,
    truncate: bool,
    progress: Progress | None,
) -> Array:
    """See `Model.embed`."""
    way = _way(engine, prompt_name, pooling, normalize)
    width = _width(engine, way)
    if dimensions is None:
        dimensions = min(way.setup.dimensions or width, width)
    dimensions = whole(dimensions, "dimensions", 1, width)
    single = isinstance(texts, str)
    found, done = [], 0
    for first, group in groups([texts] if single else given(texts), progress):
        begun = [begin(way.prompt, text) for text in group]
        readings = read(engine, begun, first=first, longest=way.setup.longest, truncate=truncate)
        vectors = _vectors(engine, readings, way, first)
        vectors = np.ascontiguousarray(vectors[:, :dimensions])
        found.append(unit(vectors) if way.unit else vectors)
        done = first + len(group)
    vectors = _together(found, done, dimensions)
    return vectors[0] if single else vectors


def _together(parts: list[Array], n: int, width: int) -> Array:
    """One array of all rows; a part is let go as soon as it is copied, so that there are never two of each."""
    if len(parts) == 1:
        return parts[0]
    found = np.empty((n, width), np.float32)
    while parts:
        found[n - len(parts[-1]) : n] = parts[-1]
        n -= len(parts.pop())
    return found


def _way(engine: Engine, prompt_name: str | None, pooling: object, normalize: object) -> _Way:
    if engine.kind == "encoder-decoder":
        raise UnsupportedError("embed: an encoder-decoder gives no vectors of texts")
    setup = engine.sentences
    if isinstance(pooling, str) and pooling == "auto" and (setup.late or setup.sparse):
        other = "embed_tokens" if setup.late else "embed_sparse"
        raise UnsupportedError(f"embed: this model is made for {other}; for one vector of hidden states, say a pooling")
    chosen = _pooling(setup, pooling)
    unit = setup.normalize if isinstance(normalize, str) and normalize == "auto" else normalize
    if not isinstance(unit, bool):
        raise ParameterError(f"normalize must be True, False or 'auto', not {shown(normalize)}")
    prompt = prompt_of(setup, prompt_name)
    skipped = 0
    if prompt and not chosen.include_prompt:
        (reading,) = read(engine, [prompt], "prompt")
        ends = engine.prompts.needed_tokenizer().piece_of(int(reading.ids[-1])) is None
        skipped = len(reading.ids) - ends  # a special token at the end is not the prompt's
    return _Way(setup, prompt, chosen, skipped, unit)


def _pooling(setup: Sentences, given: object) -> Pooling:
    if isinstance(given, str) and given == "auto":
        return setup.pooling
    names = [given] if isinstance(given, str) else list(given) if isinstance(given, list | tuple) else []
    modes = tuple(OTHER_NAMES.get(name, name) if isinstance(name, str) else "" for name in names)
    if not 1 <= len(modes) <= len(POOLINGS) or not set(modes) <= set(POOLINGS):
        known = ", ".join(("auto", "first", "last", *POOLINGS))
        raise ParameterError(f"pooling must be one of {known}, or a list of them, not {shown(given)}")
    n = len(setup.pooling.modes)
    if setup.steps and len(modes) != n:
        raise ParameterError(f"pooling: this model's modules read {n} pooled vectors, and {len(modes)} are asked for")
    return Pooling(modes, setup.pooling.include_prompt)


def _width(engine: Engine, way: _Way) -> int:
    """Numbers of a vector."""
    width = _after(way.setup.token_steps, engine.spec.hidden) * len(way.pooling.modes)
    return _after(way.setup.steps, width)


def _after(steps: Sequence[Step], width: int) -> int:
    return next((len(step.weight) for step in reversed(steps) if isinstance(step, Dense)), width)


def prompt_of(setup: Sentences, name: str | None) -> str:
    """The prompt of this name; None: the folder's own choice, "" without one."""
    name = setup.default_prompt if name is None else name
    if name is None:
        return ""
    if not isinstance(name, str) or name not in setup.prompts:
        known = ", ".join(setup.prompts) or "none"
        raise ParameterError(f"prompt_name: this model has no prompt {shown(name)} (known: {known})")
    return setup.prompts[name]


def begin(prompt: str, text: object) -> object:
    """A text, or the first of a pair, behind its prompt."""
    if isinstance(text, tuple | list) and text and isinstance(text[0], str):
        return (prompt + text[0], *text[1:])
    return prompt + text if isinstance(text, str) else text


def _vectors(engine: Engine, readings: Sequence[Reading], way: _Way, first: int) -> Array:
    """Pooled by the core where it can, else from hidden states; then what the folder's modules make of it."""
    modes, token_steps = way.pooling.modes, way.setup.token_steps
    rows = ROWS.get(modes[0]) if len(modes) == 1 else None
    if engine.kind == "decoder" and rows != "last":
        rows = None
    if rows is not None and not (token_steps or way.skipped or engine.spec.head):
        return advance(pooled(engine, readings, rows), way.setup.steps)
    for i, reading in enumerate(readings, first):
        if len(reading.ids) <= way.skipped:
            raise ParameterError(f"texts[{i}]: nothing is left of it behind the prompt, which is not to count")
    found = [pool(advance(x, token_steps), way.pooling, way.skipped) for x in hidden(engine, readings)]
    return advance(np.stack(found), way.setup.steps)
