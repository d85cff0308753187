"""Requests that write: started in a thread, run without one, answered whole or as a stream."""

from __future__ import annotations

import secrets
import time
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from fastlm.engine import Engine
from fastlm.generation import Request
from fastlm.parameters import CancelFlag
from fastlm.public import __version__
from fastlm.results import Chunk, Completion, Usage
from fastlm.running import Run
from fastlm.server.metrics import Metrics
from fastlm.server.refusals import refusing
from fastlm.structured.grammar import has_grammar
from fastlm.tasks import posted
from fastlm.tasks.generate import start
from fastlm.tokenizer.prompts import Prompt

FINGERPRINT = f"fastlm-{__version__}"
QUICK_SIZE = 4096  # of prompts that are read at once


def made() -> int:
    return int(time.time())


def identity(prefix: str) -> str:
    return prefix + secrets.token_hex(12)


def _params(given: Mapping[str, Any]) -> Mapping[str, Any]:
    """Beams that generation_config.json asks for give way to what a request says that they cannot honour."""
    if "num_beams" in given:
        return given
    drawn = has_grammar(given) or given.get("temperature") or given.get("stop") or given.get("logprobs") is not None
    return {**given, "num_beams": 1} if drawn or given.get("n", 1) > 1 else given


def finish_of(reason: str) -> str:
    """As OpenAI calls it."""
    return "length" if reason == "length" else "stop"


@dataclass(slots=True)
class Job:
    """The texts of one request.

    Attributes
    ----------
    model
        Its name.
    prompts
        Makes the prompts, in a thread, since it takes time; the flag is set when nobody waits for them any more.
    params
        Of `generate`; the n texts of the i-th prompt are choices i * n and those after it.
    names
        Of the fields that an error may be about; param: that which it is about where it names none.
    size
        How many characters or tokens the prompts have; None: they take more than to be read.
    forced
        Whether the answer must be a call.
    """

    model: str
    engine: Engine
    prompts: Callable[[CancelFlag], Sequence[Prompt | Request]]
    params: Mapping[str, Any]
    metrics: Metrics
    names: Sequence[str] = ()
    param: str | None = None
    size: int | None = None
    forced: bool = False
    begun: float = field(default_factory=time.monotonic)
    runs: list[Run] = field(default_factory=list)

    async def begin(self) -> None:
        """Start the texts, or refuse the request."""
        with refusing(self.names, self.param):
            compiles = self.forced or has_grammar(self.params)
            quick = not compiles and self._is_quick()
            self.runs = await posted.begin(self._start, quick=quick, compiles=compiles)

    def _is_quick(self) -> bool:
        """Whether a thread would only make it later: a short prompt, and nothing that is computed before."""
        plain = self.engine.kind == "decoder" and self.engine.draft is None and self.params.get("n", 1) == 1
        return self.size is not None and self.size <= QUICK_SIZE and plain

    def _start(self, cancel: CancelFlag) -> list[Run]:
        runs: list[Run] = []
        params = _params(self.params)
        try:
            prompts = self.prompts(cancel)
            for prompt in prompts:
                runs += start(self.engine, prompt, params, cancel)
        except BaseException:
            posted.close(runs)
            raise
        return runs

    async def turns(self, whole: bool) -> AsyncGenerator[list[tuple[int, Chunk]], None]:
        """What is written, by the number of the choice; all that is new at a time."""
        first = not whole
        with refusing(self.names, self.param):
            texts = posted.turns(self.engine, self.runs, whole)
            try:
                async for turn in texts:
                    if first:
                        self.metrics.first_token(self.model, time.monotonic() - self.begun)
                        first = False
                    yield turn
            finally:
                await texts.aclose()

    async def completions(self) -> list[Completion]:
        """All of them, whole."""
        chunks: list[list[Chunk]] = [[] for _ in self.runs]
        async for turn in self.turns(whole=True):
            for index, chunk in turn:
                chunks[index].append(chunk)
        return [run.result(own) for run, own in zip(self.runs, chunks, strict=True)]

    def usage(self, written: Sequence[int]) -> Usage:
        """Of all choices, which have so many tokens; a prompt counts once."""
        n = self.params.get("n", 1)
        each = [run.usage(count) for run, count in zip(self.runs, written, strict=True)]
        read = [u.prompt_tokens for u in each[::n]]
        cached = [min(u.cached_tokens, u.prompt_tokens) for u in each[::n]]
        found = Usage(sum(read), sum(written), sum(cached))
        self.metrics.used(self.model, found)
        for drafted in (run.drafted for run in self.runs):
            if drafted is not None:
                self.metrics.drafted(self.model, drafted)
        return found


def usage_of(usage: Usage) -> dict[str, Any]:
    """As OpenAI's completions have it."""
    return {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
        "prompt_tokens_details": {"cached_tokens": usage.cached_tokens},
    }
