"""Runs one request on a session: tokens and text from C, or text from the tokenizer where it is no table of pieces."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np

from fastlm import _core
from fastlm.errors import ParameterError
from fastlm.generation import CancelFlag, Parameters
from fastlm.results import Chunk, Completion, Timings, TokenLogprob, Usage
from fastlm.tokenizer.tokenizer import Tokenizer

REPLACEMENT = "\ufffd"
UNSTARTED = _core.Progress([], b"", [], "cancelled", 0, 0, 0, 0.0, 0.0)


class DecodedText:
    """Text of a growing list of tokens by the tokenizer's own decoder, with stop strings.

    Held back: the end of the text that may still change (a cut code point), or that may be the start of a stop string.
    """

    def __init__(self, tokenizer: Tokenizer, stop: tuple[str, ...]) -> None:
        self._tokenizer = tokenizer
        self._stop = stop
        self._tokens: list[int] = []
        self._shown = 0
        self.stopped = False

    def push(self, tokens: list[int], last: bool) -> str:
        """Take new tokens and return the text that they release."""
        if self.stopped:
            return ""
        self._tokens += tokens
        text = self._tokenizer.decode(self._tokens)
        found = [at for s in self._stop if (at := text.find(s)) >= 0]
        if found:
            self.stopped = True
            text = text[: min(found)]
        elif not last:
            text = text[: len(text) - self._held(text)]
        fresh, self._shown = text[self._shown :], max(self._shown, len(text))
        return fresh

    def _held(self, text: str) -> int:
        held = len(text) - len(text.rstrip(REPLACEMENT))
        for s in self._stop:
            for n in range(min(len(s) - 1, len(text)), held, -1):
                if text.endswith(s[:n]):
                    held = n
                    break
        return held


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
    """

    def __init__(
        self,
        session: _core.Session | None,
        ids: list[int],
        p: Parameters,
        tokenizer: Tokenizer | None,
        echo: str = "",
        prompt_tokens: int | None = None,
    ) -> None:
        table = tokenizer is not None and tokenizer.prints_by_table
        if p.stop and tokenizer is None:
            raise ParameterError("stop: this model has no tokenizer, so stop strings mean nothing; use stop_token_ids")
        self._decoded = DecodedText(tokenizer, p.stop) if tokenizer is not None and not table else None
        stops = [s.encode("utf-8") for s in p.stop] if table else []
        sampling = {**p.sampling, "stops": stops, "seed": p.seed}
        self._request = None if session is None else _core.Request(session, np.array(ids, np.int32), sampling)
        self._tokenizer = tokenizer
        self._p = p
        self._echo = echo
        self._prompt_tokens = len(ids) if prompt_tokens is None else prompt_tokens
        self._last = UNSTARTED
        self.flags = Flags([(p.cancel, self._request)] if p.cancel is not None and self._request is not None else [])
        self.finish: str | None = None

    def close(self) -> None:
        """Cancel if it still runs, and give the session back."""
        if self._request is not None:
            self._request.close()

    def advance(self, wait_all: bool) -> Chunk:
        """Wait for at least one more token, or for the end."""
        whole = wait_all and not (self._decoded is not None and self._p.stop)
        self.flags.is_set()  # a flag that was set before counts, however soon all is written
        flags = self.flags if self.flags.flagged else None  # then a waiting thread need not be asked
        progress = UNSTARTED if self._request is None else self._request.wait(whole, flags)
        self._last, self.finish = progress, progress.finish
        text = progress.text.decode("utf-8")
        if self._decoded is not None:
            text = self._decoded.push(progress.tokens, progress.finish is not None)
            if self._decoded.stopped and self._request is not None:
                self._request.cancel()
                self.finish = "stop"
        text, self._echo = self._echo + text, ""
        return Chunk(text, progress.tokens, self.finish, self._logprobs(progress))

    def _logprobs(self, progress: _core.Progress) -> list[TokenLogprob] | None:
        if self._p.logprobs is None:
            return None
        return [
            TokenLogprob(token, self._piece(token), logprob, tuple((i, self._piece(i), x) for i, x in top))
            for (token, logprob), *top in progress.logprobs
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
        text, tokens, logprobs = [], [], []
        try:
            while self.finish is None:
                chunk = self.advance(True)
                text.append(chunk.text)
                tokens += chunk.token_ids
                logprobs += chunk.logprobs or []
        finally:
            self.close()
        last = self._last
        assert self.finish is not None
        return Completion(
            text="".join(text),
            token_ids=tokens,
            finish_reason=self.finish,
            usage=Usage(self._prompt_tokens, len(tokens), last.prefix_hit_tokens),
            timings=Timings(last.prompt_seconds, last.decode_seconds),
            seed=self._p.seed,
            logprobs=None if self._p.logprobs is None else logprobs,
        )
