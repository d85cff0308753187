"""Turns of at least a second: long enough to see many time slices, of one process or of several at once."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from .protocol import PAUSE_SECONDS
from .worker import Worker

Json = dict[str, Any]
LATE_SECONDS = 0.1  # from the request on until a turn starts: all its workers have heard of it


@dataclass(slots=True)
class Turn:
    """Of one worker in the time that was measured: the engine's own seconds, tokens, processor seconds; and all gaps.

    The tokens of a run that is half in the time count half.
    """

    seconds: float = 0.0
    tokens: float = 0.0
    processor: float = 0.0
    gaps: list[float] = field(default_factory=list)

    @classmethod
    def of(cls, answer: Json, at: float, seconds: float) -> Turn:
        """From what a worker answers (workers/serve.py)."""
        turn = cls(gaps=answer["gaps"])
        for start, end, own, tokens, processor in answer["runs"]:
            part = max(0.0, min(end, at + seconds) - max(start, at)) / max(end - start, 1e-9)
            if start > at + seconds and len(answer["runs"]) == 1:
                part = 1.0  # it was not let run before
            turn.seconds += part * own
            turn.tokens += part * tokens
            turn.processor += part * processor
        return turn

    @property
    def rate(self) -> float:
        return self.tokens / self.seconds


def take(workers: Sequence[Worker], work: Json, seconds: float, lead: Json | None) -> list[Turn]:
    """What all do in the same time, after a pause for everybody's threads, and after `lead`, which does not count."""
    time.sleep(PAUSE_SECONDS)
    if lead:
        together(workers, lead)
    at = time.monotonic() + LATE_SECONDS
    on = seconds if len(workers) == 1 else 2 * seconds  # several: none has ended while another is measured
    answers = together(workers, {"do": "turn", "work": work, "at": at, "seconds": on})
    return [Turn.of(answer, at, seconds) for answer in answers]


def together(workers: Sequence[Worker], request: Json) -> list[Json]:
    """All answers to a request that all get at once."""
    for worker in workers:
        worker.send(**request)
    return [worker.answer() for worker in workers]


def figures(turns: Sequence[Turn]) -> Json:
    """Of one turn: tokens per second of all, the least one's share times their number, processor seconds per token."""
    rates = [turn.rate for turn in turns]
    processor = sum(turn.processor for turn in turns) / sum(turn.tokens for turn in turns)
    return {"rate": sum(rates), "least": min(rates) * len(rates) / sum(rates), "processor": processor}


def gap_figures(turns: Sequence[Turn]) -> Json:
    """Seconds between tokens, of all: median, 99th percentile, most."""
    gaps = sorted(gap for turn in turns for gap in turn.gaps)
    return {"median": statistics.median(gaps), "99 %": gaps[int(0.99 * (len(gaps) - 1))], "most": gaps[-1]}
