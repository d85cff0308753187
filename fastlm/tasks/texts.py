"""Many texts through an encoder: read, sorted by length, and run in groups, none of which is padded."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from fastlm import _core
from fastlm.arch.spec import Pool
from fastlm.arguments import shown
from fastlm.engine import Engine
from fastlm.errors import ContextLengthError, ParameterError, UnsupportedError, error_of
from fastlm.tasks.forward import head_rows
from fastlm.tokenizer.reading import Reading, Tokens, pair

Array = NDArray[np.float32]
READ_AT_ONCE = 1024  # texts, which are then sorted
RUN_AT_ONCE = 64  # texts in a call of the core, which may be cancelled between two of them
VALUES_AT_ONCE = 1 << 24  # that such a call gives for tokens: 64 MiB, or more of one text


def only(engine: Engine, task: str, name: str = "") -> None:
    """An error where the checkpoint has no head of this task, which `name` (or the task) is a method for."""
    if engine.task != task:
        can = ", ".join(engine.tasks) or "forward"
        raise UnsupportedError(f"{name or task}: this checkpoint has no head for it; it can: {can}")


def given(texts: object, name: str = "texts") -> Iterable[object]:
    """An iterable of texts; one text alone is a mistake that would run once for each of its letters."""
    if isinstance(texts, str | bytes) or not isinstance(texts, Iterable):
        raise ParameterError(f"{name} must be a list of texts, not {shown(texts)}: put one text into a list")
    return texts


def read(
    engine: Engine,
    texts: Iterable[object],
    name: str = "texts",
    *,
    longest: int = 0,
    truncate: bool = False,
    joins: bool = False,
) -> list[Reading]:
    """Readings of texts and pairs; an error names the text: texts[3].

    longest: tokens of a text, if that is fewer than the context; truncate: cut longer ones off instead of an error;
    joins: put the texts of a pair together where the tokenizer has no form for pairs.
    """
    longest = min(longest or engine.longest, engine.longest)
    checked = [pair(text, f"{name}[{i}]") for i, text in enumerate(texts)]
    tokenizer, special = engine.prompts.needed_tokenizer(), engine.sentences.special
    pairs = (i for i, text in enumerate(checked) if len(text) > 1)
    if (i := next(pairs, None)) is not None and not (joins or (special and tokenizer.reads_pairs)):
        raise ParameterError(f"{name}[{i}]: a pair, and the tokenizer has no form for pairs: put both into one text")
    try:
        readings = tokenizer.read(checked, longest=longest if truncate else 0, special=special)
    except ParameterError:
        for i, text in enumerate(checked):  # which one was it?
            with error_of(f"{name}[{i}]"):
                tokenizer.read([text])
        raise
    for i, reading in enumerate(readings):
        with error_of(f"{name}[{i}]"):
            check(engine, reading, longest)
    return readings


def check(engine: Engine, reading: Tokens, longest: int) -> None:
    """Refuse what has no tokens, too many, or some that the model has no rows for."""
    if not reading.ids:
        raise ParameterError("the text is empty, and the tokenizer adds nothing to it")
    if len(reading.ids) > longest:
        limit = (
            f"the context of {longest}" if longest == engine.longest else f"the {longest} that this model was made for"
        )
        raise ContextLengthError(f"{len(reading.ids)} tokens are more than {limit}")
    if max(reading.ids) >= engine.vocab:
        raise ParameterError(f"the tokenizer makes token {max(reading.ids)} of it; the model has {engine.vocab}")


def groups(texts: Iterable[object]) -> Iterator[list[object]]:
    """As many texts as are read at once, until there are no more."""
    rest = iter(texts)
    while found := list(islice(rest, READ_AT_ONCE)):
        yield found


def pooled(engine: Engine, readings: Sequence[Tokens], rows: str) -> Array:
    """One row for each text, (n, outputs), in their order; rows: "first", "last" or "mean"."""
    found = np.empty((len(readings), engine.spec.outputs), np.float32)
    order = sorted(range(len(readings)), key=lambda i: len(readings[i].ids))
    sessions = [engine.core.session() for _ in range(min(RUN_AT_ONCE, len(readings)))]
    for at in range(0, len(order), RUN_AT_ONCE):
        chosen = order[at : at + RUN_AT_ONCE]
        items = [
            _item(engine, session, readings[i], rows, found[i]) for session, i in zip(sessions, chosen, strict=False)
        ]
        _core.forward(engine.core, items)
        if engine.spec.kind == "decoder":  # whose sessions hold what they have read
            sessions = [engine.core.session() for _ in sessions]
    return found


def hidden(engine: Engine, readings: Sequence[Tokens]) -> Iterator[Array]:
    """The hidden states of each text's tokens after the final norm, (tokens, width)."""
    for items in _together(engine, readings, "none", engine.spec.hidden):
        yield from (item.hidden for item in items if item.hidden is not None)


def by_token(engine: Engine, readings: Sequence[Tokens]) -> Iterator[Array]:
    """What the head gives for each text's tokens, (tokens, outputs)."""
    for items in _together(engine, readings, "all", engine.spec.outputs):
        yield from (item.logits for item in items if item.logits is not None)


def _together(engine: Engine, readings: Sequence[Tokens], rows: str, width: int) -> Iterator[list[_core.Item]]:
    """Texts in calls of the core that keep a row for each token."""
    at = 0
    while at < len(readings):
        items: list[_core.Item] = []
        values = 0
        for reading in readings[at : at + RUN_AT_ONCE]:
            values += len(reading.ids) * width
            if items and values > VALUES_AT_ONCE:
                break
            found = np.empty((len(reading.ids), width), np.float32)
            items.append(_item(engine, engine.core.session(), reading, rows, found))
        _core.forward(engine.core, items)
        at += len(items)
        yield items


def listed_rows(engine: Engine, reading: Tokens, listed: Sequence[int]) -> Array:
    """What the head gives for some tokens of a text, which are listed in ascending order: (listed, outputs)."""
    found = np.empty((len(listed), engine.spec.outputs), np.float32)
    tokens = np.array(listed, np.int32)
    _core.forward(engine.core, [_item(engine, engine.core.session(), reading, "listed", found, tokens)])
    return found


def _item(
    engine: Engine,
    session: _core.Session,
    reading: Tokens,
    rows: str,
    to: Array,
    listed: NDArray[np.int32] | None = None,
) -> _core.Item:
    typed = engine.spec.main.embed.types > 1
    types = np.array(reading.types, np.int32) if typed else None
    logits, hidden = (None, to) if rows == "none" else (to, None)
    return _core.Item(
        session, np.array(reading.ids, np.int32), rows=rows, logits=logits, types=types, listed=listed, hidden=hidden
    )


def scores(engine: Engine, readings: Sequence[Tokens]) -> Array:
    """What a head for sequences gives for each text: (n, labels)."""
    if engine.spec.pool is Pool.LATE:
        return np.stack([rows.mean(axis=0) for rows in by_token(engine, readings)])
    return pooled(engine, readings, head_rows(engine.spec))
