"""How probable the last tokens of many sequences are, in shared steps.

What several sequences begin with runs once: equal sequences are one, those with the same tokens before what is scored
fork one session, and other beginnings are found in the prefix cache.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from fastlm import _core
from fastlm.engine import Engine
from fastlm.errors import ContextLengthError, ParameterError
from fastlm.parameters import CancelFlag

BATCH_VALUES = 1 << 23  # logits in memory at a time: 32 MiB, and twice that as float64
BATCH_TOKENS, BATCH_SEQUENCES = 4096, 64


class Continuation(NamedTuple):
    """Token ids, of which the last `n` are scored: each given all before it."""

    ids: Sequence[int]
    n: int


class Scores(NamedTuple):
    """Of each scored token: its natural log-probability (float64), and whether it is the most probable one."""

    logprobs: NDArray[np.float64]
    greedy: NDArray[np.bool_]


class _Job(NamedTuple):
    """A sequence without its last token; the logits of its last `rows` tokens serve these continuations."""

    inputs: tuple[int, ...]
    rows: int
    serves: tuple[int, ...]

    @property
    def before(self) -> tuple[int, ...]:
        return self.inputs[: len(self.inputs) - self.rows]


def continuations(
    engine: Engine, given: Sequence[Continuation], progress: Callable[[int], object] | None = None
) -> list[Scores]:
    """Scores of the last tokens of each sequence, in order.

    progress: called with how many more are done.

    Raises
    ------
    UnsupportedError
        The model is not a decoder that writes.
    ContextLengthError, ParameterError
        A sequence has more tokens than the context and one, or none before those that are scored.
    """
    _check(engine)
    jobs = _jobs(engine, given)
    found = [Scores(np.empty(n), np.empty(n, np.bool_)) for _, n in given]
    for batch in _batches(engine, jobs):
        for job, at, rows in _logits(engine, batch):
            for i in job.serves:
                _fill(found[i], given[i], job.rows - given[i].n, at, rows)
        if progress is not None:
            progress(sum(len(job.serves) for job in batch))
    return found


def log_rows(engine: Engine, ids: Sequence[int], cancel: CancelFlag | None = None) -> Iterator[NDArray[np.float64]]:
    """Natural log-probabilities of all tokens at the places of ids[1:], each given all before it, piece by piece."""
    _check(engine)
    for _, _, rows in _logits(engine, [_Job(tuple(ids[:-1]), len(ids) - 1, ())], cancel):
        yield _log_softmax(rows)


def _check(engine: Engine) -> None:
    if not engine.writes or engine.kind != "decoder":
        raise engine.refusal("scores of tokens: this model is no decoder that writes")


def _jobs(engine: Engine, given: Sequence[Continuation]) -> list[_Job]:
    """Sorted, so that those which begin alike are neighbours."""
    found: dict[tuple[int, ...], _Job] = {}
    for i, (ids, n) in enumerate(given):
        if not 1 <= n < len(ids):
            raise ParameterError(f"sequence {i}: {n} of {len(ids)} tokens cannot be scored: one must stand before them")
        if len(ids) > engine.longest + 1:
            raise ContextLengthError(
                f"sequence {i}: {len(ids) - 1} tokens are more than the context of {engine.longest}"
            )
        inputs = tuple(ids[:-1])
        _, rows, serves = found.get(inputs, _Job(inputs, 0, ()))
        found[inputs] = _Job(inputs, max(rows, n), (*serves, i))
    return [found[inputs] for inputs in sorted(found)]


def _batches(engine: Engine, jobs: Sequence[_Job]) -> Iterator[list[_Job]]:
    """Neighbours whose tokens and logits fit together; one that is too large for that is alone."""
    batch: list[_Job] = []
    rows = tokens = 0
    for job in jobs:
        rows, tokens = rows + job.rows, tokens + len(job.inputs)
        fits = rows * engine.vocab <= BATCH_VALUES and tokens <= BATCH_TOKENS and len(batch) < BATCH_SEQUENCES
        if batch and not fits:
            yield batch
            batch, rows, tokens = [], job.rows, len(job.inputs)
        batch.append(job)
    if batch:
        yield batch


def _logits(
    engine: Engine, batch: Sequence[_Job], cancel: CancelFlag | None = None
) -> Iterator[tuple[_Job, int, NDArray[np.float32]]]:
    """Each job's logits in pieces, with the row at which a piece begins; a piece is valid until the next one."""
    begun = {job.before: engine.session() for job in batch}
    if reading := [(session, before) for before, session in begun.items() if before]:
        items = [_core.Item(session, np.array(before, np.int32), rows="none") for session, before in reading]
        _core.forward(engine.core, items, cancel)
    most = max(1, BATCH_VALUES // engine.vocab)
    logits = np.empty((min(most, sum(job.rows for job in batch)), engine.vocab), np.float32)
    sessions = [begun[job.before].fork() for job in batch]
    for at in range(0, max(job.rows for job in batch), most):  # more than one piece of a job that is alone
        pieces, items, end = [], [], 0
        for job, session in zip(batch, sessions, strict=True):
            tokens = np.array(job.inputs[len(job.before) :][at : at + most], np.int32)
            rows = logits[end : end + len(tokens)]
            end += len(tokens)
            pieces.append((job, at, rows))
            items.append(
                _core.Item(session, tokens, rows="all", logits=rows, whole=min(len(job.inputs) + 1, engine.longest))
            )
        _core.forward(engine.core, items, cancel)
        yield from pieces


def _fill(scores: Scores, given: Continuation, skipped: int, at: int, rows: NDArray[np.float32]) -> None:
    """From the logits of rows [at, at + len(rows)) of a job, of which a continuation needs those from `skipped` on."""
    first = max(skipped - at, 0)
    rows = rows[first:]
    begin = at + first - skipped
    targets = np.array(given.ids[len(given.ids) - given.n :][begin : begin + len(rows)], np.int64)
    if not len(targets):
        return
    chosen = rows[np.arange(len(targets)), targets].astype(np.float64)
    scores.logprobs[begin : begin + len(targets)] = chosen - _log_sums(rows)
    scores.greedy[begin : begin + len(targets)] = rows.argmax(axis=1) == targets


def _log_sums(rows: NDArray[np.float32]) -> NDArray[np.float64]:
    """The logarithm of each row's sum of exponentials, to 1e-6: these in float32, which is five times as fast."""
    top = rows.max(axis=1)
    sums = np.exp(rows - top[:, None]).sum(axis=1, dtype=np.float64)
    summed: NDArray[np.float64] = np.log(sums) + top
    return summed


def _log_softmax(rows: NDArray[np.float32]) -> NDArray[np.float64]:
    x = rows.astype(np.float64)
    x -= x.max(axis=1, keepdims=True)
    x -= np.log(np.exp(x).sum(axis=1, keepdims=True))
    return x
