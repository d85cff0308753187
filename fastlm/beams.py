"""Runs one beam search: a request whose texts are known at its end."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from fastlm import _core
from fastlm.results import Chunk, Completion
from fastlm.running import DecodedText, Run, timings_of

NOTHING = _core.Best([], b"", None, "cancelled")


class BeamRun(Run):
    """A beam search in progress; its completion is the best text, with the n - 1 next ones as alternatives."""

    _found: list[Completion]

    def advance(self, wait_all: bool) -> Chunk:
        """Run to the end: before it nothing is known. What it found is kept, for `result`."""
        request, last = self._request, self._waited(True)
        found = [] if request is None else [request.best(i) for i in range(min(self._p.n, last.n_best))]
        self.finish = last.finish or "cancelled"
        self._found = [self._completed(text) for text in found or [NOTHING]]
        return Chunk(self._found[0].text, self._found[0].token_ids, self.finish)

    def result(self, chunks: Iterable[Chunk]) -> Completion:
        """All that was found; the pieces say no more."""
        first, *others = self._found
        return replace(first, alternatives=tuple(others))

    def _completed(self, best: _core.Best) -> Completion:
        text = best.text.decode("utf-8")
        if self._tokenizer is not None and not self._tokenizer.prints_by_table:
            text, _ = DecodedText(self._tokenizer, (), self._before).push(best.token_ids, True)
        ended = best is not NOTHING and self._last.finish != "cancelled"
        return Completion(
            text=self._echo + text,
            token_ids=best.token_ids,
            finish_reason=best.finish if ended else self.finish or "",
            usage=self.usage(len(best.token_ids)),
            timings=timings_of(self._last),
            seed=self._p.seed,
            score=best.score,
        )
