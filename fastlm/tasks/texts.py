"""Many texts through an encoder: read, sorted by length, and run in groups, none of which is padded."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain, islice

import numpy as np
from numpy.typing import NDArray

from fastlm import _core
from fastlm.arch.spec import Pool
from fastlm.arguments import counting, shown
from fastlm.engine import Engine
from fastlm.errors import ContextLengthError, ModelMemoryError, ParameterError, error_of
from fastlm.tasks.forward import head_rows
from fastlm.tokenizer.reading import Reading, Tokens, pair

Array = NDArray[np.float32]
Progress = Callable[[int, int | None], None]
READ_AT_ONCE = 1024  # texts, which are then sorted
RUN_AT_ONCE = 64  # texts of a decoder, which has a session for each
VALUES_AT_ONCE = 1 << 23  # of tokens' rows that are kept: 32 MiB


def only(engine: Engine, task: str, name: str = "") -> None:
    """An error where the checkpoint has no head of this task, which `name` (or the task) is a method for."""
    if engine.task != task:
        raise engine.refusal(f"{name or task}: this checkpoint has no head for it")


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
    first: int = 0,
    longest: int = 0,
    truncate: bool | None = None,
    spans: bool = False,
    joins: bool = False,
) -> list[Reading]:
    """Readings of texts and pairs; an error names the text: texts[3].

    first: the number of the first of them; longest: tokens of a text, if that is fewer than the context; truncate: cut
    longer ones off instead of an error (None: a task that never does); spans: say where in the text tokens are; joins:
    put the texts of a pair together where the tokenizer has no form for pairs.
    """
    if not isinstance(truncate, bool | None):
        raise ParameterError(f"truncate must be True or False, not {shown(truncate)}")
    longest = min(longest or engine.longest, engine.longest)
    checked = [pair(text, f"{name}[{i}]") for i, text in enumerate(texts, first)]
    tokenizer, special = engine.prompts.needed_tokenizer(), engine.sentences.special
    pairs = (i for i, text in enumerate(checked, first) if len(text) > 1)
    if (i := next(pairs, None)) is not None and not (joins or (special and tokenizer.reads_pairs)):
        raise ParameterError(f"{name}[{i}]: a pair, and the tokenizer has no form for pairs: put both into one text")
    try:
        options = {"longest": longest if truncate else 0, "special": special, "spans": spans}
        readings = tokenizer.read(checked, **options, threads=engine.context.threads)
    except ParameterError:
        for i, text in enumerate(checked, first):  # which one was it?
            with error_of(f"{name}[{i}]"):
                tokenizer.read([text])
        raise
    for i, reading in enumerate(readings, first):
        with error_of(f"{name}[{i}]"):
            check(engine, reading, longest, "" if truncate is None else ": shorten it, or let it be cut off (truncate)")
    return readings


def read_one(engine: Engine, text: str, *, spans: bool = False) -> Reading:
    """The reading of a text that is no pair."""
    if not isinstance(text, str):
        raise ParameterError(f"text must be a string, not {shown(text)}")
    (reading,) = read(engine, [text], "text", spans=spans)
    return reading


def check(engine: Engine, reading: Tokens, longest: int, remedy: str = "") -> None:
    """Refuse what has no tokens, too many, or some that the model has no rows for."""
    if not reading.ids:
        raise ParameterError("the text is empty, and the tokenizer adds nothing to it")
    if len(reading.ids) > longest:
        limit = (
            f"the context of {longest}" if longest == engine.longest else f"the {longest} that this model was made for"
        )
        raise ContextLengthError(f"{len(reading.ids)} tokens are more than {limit}{remedy}")
    if max(reading.ids) >= engine.vocab:
        raise ParameterError(f"the tokenizer makes token {max(reading.ids)} of it; the model has {engine.vocab}")


def groups(texts: Iterable[object], progress: Progress | None = None) -> Iterator[tuple[int, list[object]]]:
    """As many texts as are read at once, until there are no more, with the number of the first of them.

    progress: called with how many are done, and of how many, if that is known, when the next ones are asked for.
    """
    counting(progress)
    total = len(texts) if isinstance(texts, Sequence) else None
    rest, done = iter(texts), 0
    while found := list(islice(rest, READ_AT_ONCE)):
        yield done, found
        done += len(found)
        if progress is not None:
            progress(done, total)


def pooled(engine: Engine, readings: Sequence[Tokens], rows: str) -> Array:
    """One row for each text, (n, outputs), in their order; rows: "first", "last" or "mean"."""
    found = np.empty((len(readings), engine.spec.outputs), np.float32)
    _run(engine, readings, rows, logits=found)
    return found


def hidden(engine: Engine, readings: Sequence[Tokens]) -> Iterator[Array]:
    """The hidden states of each text's tokens after the final norm, (tokens, width)."""
    for group, ends in _with_room(readings, engine.spec.hidden):
        found = np.empty((int(ends[-1]), engine.spec.hidden), np.float32)
        _run(engine, group, "none", hidden=found)
        yield from np.split(found, ends[:-1])


def by_token(engine: Engine, readings: Sequence[Tokens]) -> Iterator[Array]:
    """What the head gives for each token of each text, (tokens, outputs)."""
    for group, ends in _with_room(readings, engine.spec.outputs):
        found = np.empty((int(ends[-1]), engine.spec.outputs), np.float32)
        _run(engine, group, "all", logits=found)
        yield from np.split(found, ends[:-1])


def _with_room(readings: Sequence[Tokens], width: int) -> Iterator[tuple[Sequence[Tokens], NDArray[np.int64]]]:
    """Groups of texts whose tokens have rows of some megabytes together, and where in them each text ends."""
    while readings:
        ends = np.cumsum([len(reading.ids) for reading in readings])
        n = max(1, int(np.searchsorted(ends, VALUES_AT_ONCE // width, "right")))
        yield readings[:n], ends[:n]
        readings = readings[n:]


def _run(
    engine: Engine, readings: Sequence[Tokens], rows: str, *, logits: Array | None = None, hidden: Array | None = None
) -> None:
    """All texts through the model, the longest first; what is wanted of each goes to its part of the arrays."""
    lengths = np.array([len(reading.ids) for reading in readings])
    typed = engine.spec.main.embed.types > 1
    texts = _core.Texts(
        ids=_joined(reading.ids for reading in readings),
        ends=np.cumsum(lengths),
        order=np.argsort(-lengths, kind="stable"),
        rows=rows,
        types=_joined(reading.types for reading in readings) if typed else None,
        logits=logits,
        hidden=hidden,
        adapter=engine.adapter,
    )
    if engine.kind == "encoder":
        _core.read_texts(engine.core, texts)
        return
    for at in range(0, len(readings), RUN_AT_ONCE):
        _run_decoder(engine, texts, texts.order[at : at + RUN_AT_ONCE])


def _run_decoder(engine: Engine, texts: _core.Texts, chosen: NDArray[np.int64]) -> None:
    """Some texts in one call; in two, where memory for keys and values does not hold all of them."""
    try:
        _core.forward(engine.core, [_item(engine, texts, int(i)) for i in chosen])
    except ModelMemoryError:
        if len(chosen) == 1:
            raise
        for half in np.array_split(chosen, 2):
            _run_decoder(engine, texts, half)


def _item(engine: Engine, texts: _core.Texts, i: int) -> _core.Item:
    """A decoder's text, which needs a session; beside an encoder, which reads it first, it begins one token later."""
    session = engine.session()
    own = slice(int(texts.ends[i - 1]) if i else 0, int(texts.ends[i]))
    logits = None if texts.logits is None else texts.logits[own if texts.rows == "all" else i]
    states = None if texts.hidden is None else texts.hidden[own]
    ids = texts.ids[own]
    if engine.kind == "encoder-decoder":
        session.encode(ids)
        ids = np.concatenate([np.array([engine.decoder_start], np.int32), ids[:-1]])
    return _core.Item(session, ids, texts.rows, logits, hidden=states)


def _joined(lists: Iterable[list[int]]) -> NDArray[np.int32]:
    return np.fromiter(chain.from_iterable(lists), np.int32)


def listed_rows(engine: Engine, reading: Tokens, listed: Sequence[int]) -> Array:
    """What the head gives for some tokens of a text, which are listed in ascending order: (listed, outputs)."""
    found = np.empty((len(listed), engine.spec.outputs), np.float32)
    types = np.array(reading.types, np.int32) if engine.spec.main.embed.types > 1 else None
    ids, tokens = np.array(reading.ids, np.int32), np.array(listed, np.int32)
    item = _core.Item(None, ids, rows="listed", logits=found, types=types, listed=tokens, adapter=engine.adapter)
    _core.forward(engine.core, [item])
    return found


def scores(engine: Engine, readings: Sequence[Tokens]) -> Array:
    """What a head for sequences gives for each text: (n, labels)."""
    if engine.spec.pool is Pool.LATE:
        return np.stack([rows.mean(axis=0) for rows in by_token(engine, readings)])
    return pooled(engine, readings, head_rows(engine.spec))
