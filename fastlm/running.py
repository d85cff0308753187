"""Runs one request on a session: tokens and text from C, or text from the tokenizer where it is no table of pieces."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from typing import TYPE_CHECKING

import numpy as np

from fastlm import _core
from fastlm.errors import ParameterError, StateError
from fastlm.generation import Parameters
from fastlm.parameters import CancelFlag
from fastlm.results import Chunk, Completion, Drafted, Timings, TokenLogprob, Trace, Usage
from fastlm.tokenizer.tokenizer import Tokenizer

if TYPE_CHECKING:
    from fastlm.structured.masking import Constraint

UNSTARTED = _core.Progress([], b"", [], "cancelled", 0, 0, 0, 0.0, 0.0, 0.0, 0.0, 0.0)


class DecodedText:
    """Text of tokens as they arrive, where the tokenizer's decoder is no table of pieces, with stop strings.

    Held back: the end of the text that may still change, or that may be the start of a stop string.

    Parameters
    ----------
    before
        The tokens before the text, which decide on how it begins (often with a space); None: each token prints the
        same wherever it stands, as grammars see it.
    """

    def __init__(self, tokenizer: Tokenizer, stop: tuple[str, ...], before: Iterable[int] | None) -> None:
        self._tokenizer = tokenizer
        self._pipeline = tokenizer.plain_pipeline() if before is None else tokenizer.pipeline()
        self._stop = stop
        self._held = ""
        self.stopped = False
        for token in before or ():
            self._decoded(token)
        self._shown = copy.deepcopy(self._pipeline).end()  # of the text before, what the pipeline still holds back

    def push(self, tokens: list[int], last: bool) -> tuple[str, int]:
        """Take new tokens; returns the text that they release, and how many there are up to a stop string."""
        released = []
        for taken, token in enumerate(tokens, 1):
            released.append(self._release(self._new(self._decoded(token))))
            if self.stopped:
                return "".join(released), taken
        if last:
            released += [self._release(self._new(self._pipeline.end())), self._held]
        return "".join(released), len(tokens)

    def _decoded(self, token: int) -> str:
        piece = self._tokenizer.piece_of(token)
        return "" if piece is None else self._pipeline.push([piece])

    def _new(self, fresh: str) -> str:
        """What of the pipeline's text is not of the text before."""
        alike = zip(fresh, self._shown, strict=False)
        common = next((i for i, (a, b) in enumerate(alike) if a != b), min(len(fresh), len(self._shown)))
        self._shown = self._shown[common:] if common == len(fresh) else ""
        return fresh[common:]

    def _release(self, fresh: str) -> str:
        """The text with which no stop string begins; where one ends, what is before it."""
        text = self._held + fresh
        found = [(at + len(s), -len(s)) for s in self._stop if (at := text.find(s)) >= 0]
        if found:  # of those that end first, the longest
            end, length = min(found)
            self._held, self.stopped = "", True
            return text[: end + length]
        tail = max((overlap(text, s) for s in self._stop), default=0)
        self._held = text[len(text) - tail :]
        return text[: len(text) - tail]


def timings_of(p: _core.Progress) -> Timings:
    return Timings(p.prompt_seconds, p.decode_seconds, p.cpu_seconds, p.prompt_cpu_seconds, p.threads)


def overlap(text: str, stop: str) -> int:
    """Length of the longest proper beginning of a stop string that a text ends with."""
    return next((n for n in range(min(len(stop) - 1, len(text)), 0, -1) if text.endswith(stop[:n])), 0)


class Flags:
    """The `cancel` flags of some requests, to be asked while any of them is waited for: each cancels its own."""

    def __init__(self, flagged: Iterable[tuple[CancelFlag, _core.Request]]) -> None:
        self.flagged = tuple(flagged)

    def is_set(self) -> bool:
        """False: who waits goes on until the own request has ended."""
        for flag, request in self.flagged:
            if flag.is_set():
                request.cancel()
        return False


class Run:
    """A generation in progress on a core session, which it owns until it is closed.

    Parameters
    ----------
    session
        The sequence that the prompt continues; None: the request was cancelled while its prompt was read for it.
    ids
        Token ids to read.
    tokenizer
        For text and the texts of logprobs; None: token ids only.
    echo
        Text to put before what is written.
    prompt_tokens
        Of the whole prompt, where `ids` are not all of it.
    trace
        Gives what the written tokens looked at, once the request has given its sequence back; None: nobody wants it.
    constraint
        What the text must be; None: anything.
    """

    def __init__(
        self,
        session: _core.Session | None,
        ids: list[int],
        p: Parameters,
        tokenizer: Tokenizer | None,
        echo: str = "",
        prompt_tokens: int | None = None,
        trace: Callable[[list[int]], Trace] | None = None,
        constraint: Constraint | None = None,
    ) -> None:
        table = tokenizer is not None and tokenizer.prints_by_table
        if p.stop and tokenizer is None:
            raise ParameterError("stop: this model has no tokenizer, so stop strings mean nothing; use stop_token_ids")
        self._decoded = None
        self._before: list[int] = []  # tokens before the text, where its beginning goes by them
        if tokenizer is not None and not table:
            self._before = [*(session.tokens if session else ()), *ids]
            self._decoded = DecodedText(tokenizer, p.stop, None if constraint else self._before)
        stops = [s.encode("utf-8") for s in p.stop] if table else []
        ends = [*p.sampling["stop_tokens"], *(tokenizer.stop_tokens(p.stop) if tokenizer else ())]
        more = {"stops": stops, "stop_tokens": ends, "seed": p.seed, "masked": constraint is not None}
        sampling = {**p.sampling, **more}
        self._session = session
        self._taken = 0  # written tokens that are of the text
        self._length: int | None = None  # that the sequence is to have where more was written
        self._request = None if session is None else _core.Request(session, np.array(ids, np.int32), sampling)
        self._constraint = constraint
        if constraint is not None and self._request is not None:
            constraint.attach(self._request)
        self._tokenizer = tokenizer
        self._p = p
        self._echo = echo
        self._prompt_tokens = len(ids) if prompt_tokens is None else prompt_tokens
        self._trace = trace
        self._last = UNSTARTED
        self.flags = Flags([(p.cancel, self._request)] if p.cancel is not None and self._request is not None else [])
        self.finish: str | None = None
        self.goes_on = False  # whether somebody goes on with the sequence: then it ends with the text

    def close(self) -> None:
        """Cancel if it still runs, and give the session back."""
        if self._constraint is not None:
            self._constraint.close()
        if self._request is not None:
            self._request.close()
        if self._length is not None and self._session is not None:
            with suppress(StateError):  # it is closed: nobody goes on with it
                self._session.rewind(self._session.length - self._length)
        self._length = None

    @property
    def started(self) -> bool:
        """False: it was cancelled before it began, and `advance` says so at once."""
        return self._request is not None

    @property
    def traces(self) -> bool:
        """Whether `result` takes steps of its own."""
        return self._trace is not None

    def post(self, inbox: _core.Inbox, number: int, wait_all: bool) -> None:
        """Have the inbox told whenever `advance` would return at once."""
        assert self._request is not None
        self._request.post(inbox, number, self._whole(wait_all))

    def _whole(self, wait_all: bool) -> bool:
        """Whether to wait for the end: stop strings that are found here may come before."""
        return wait_all and not (self._decoded is not None and self._p.stop)

    def _waited(self, whole: bool) -> _core.Progress:
        """What there is after at least one more token, or at the end; the flags are asked meanwhile."""
        self.flags.is_set()  # a flag that was set before counts, however soon all is written
        flags = self.flags if self.flags.flagged else None  # then a waiting thread need not be asked
        self._last = UNSTARTED if self._request is None else self._request.wait(whole, flags)
        if self._constraint is not None and self._constraint.error is not None:
            raise self._constraint.error
        return self._last

    def advance(self, wait_all: bool) -> Chunk:
        """Wait for at least one more token, or for the end."""
        progress = self._waited(self._whole(wait_all))
        self.finish = progress.finish
        text, tokens = progress.text.decode("utf-8"), progress.tokens
        if self._decoded is not None:
            text, taken = self._decoded.push(tokens, progress.finish is not None)
            tokens = tokens[:taken]
            self._taken += taken
            if self._decoded.stopped and self._request is not None:
                self._request.cancel()
                self.finish = "stop"
                self._length = len(self._before) + self._taken if self.goes_on else None
        text, self._echo = self._echo + text, ""
        return Chunk(text, tokens, self.finish, self._logprobs(progress, len(tokens)))

    def _logprobs(self, progress: _core.Progress, n_tokens: int) -> list[TokenLogprob] | None:
        if self._p.logprobs is None:
            return None
        return [
            TokenLogprob(token, self._piece(token), logprob, tuple((i, self._piece(i), x) for i, x in top))
            for (token, logprob), *top in progress.logprobs[:n_tokens]
        ]

    def _piece(self, token: int) -> str:
        return "" if self._tokenizer is None else self._tokenizer.piece(token)

    def chunks(self) -> Iterator[Chunk]:
        """Pieces as they are written; closing the iterator cancels."""
        try:
            while self.finish is None:
                chunk = self.advance(False)
                if chunk.text or chunk.token_ids or chunk.finish_reason:
                    yield chunk
        finally:
            self.close()

    def completion(self) -> Completion:
        """Run to the end."""
        chunks = []
        try:
            while self.finish is None:
                chunks.append(self.advance(True))
        finally:
            self.close()
        return self.result(chunks)

    def usage(self, n_written: int) -> Usage:
        """What was read, as far as it is known by now, and that so many tokens were written."""
        return Usage(self._prompt_tokens, n_written, self._last.prefix_hit_tokens)

    @property
    def drafted(self) -> Drafted | None:
        """What came of the proposals so far; None: nothing proposes any."""
        last = self._last
        return None if self._p.draft is None else Drafted(last.draft_accepted, last.draft_proposed)

    def result(self, chunks: Iterable[Chunk]) -> Completion:
        """What all pieces are together, after the last one."""
        text: list[str] = []
        tokens: list[int] = []
        logprobs: list[TokenLogprob] = []
        for chunk in chunks:
            text.append(chunk.text)
            tokens += chunk.token_ids
            logprobs += chunk.logprobs or []
        assert self.finish is not None
        trace = Trace() if self._trace is None else self._trace(tokens)
        return Completion(
            text="".join(text),
            token_ids=tokens,
            finish_reason=self.finish,
            usage=self.usage(len(tokens)),
            timings=timings_of(self._last),
            seed=self._p.seed,
            logprobs=None if self._p.logprobs is None else logprobs,
            draft=self.drafted,
            attentions=trace.attentions,
            cross_attentions=trace.cross_attentions,
        )
