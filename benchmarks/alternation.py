"""Workers in alternation, for works that have no bound beside them: rates round by round, and their table."""

from __future__ import annotations

import statistics
from contextlib import ExitStack
from typing import Any, Protocol

from . import protocol
from .entrants import Entrant
from .report import markdown, number
from .worker import Unavailable, Worker

Rates = dict[str, list[float]]  # of each entrant, fastlm first


class AnyWork(Protocol):
    """Of protocol.run."""

    def request(self) -> dict[str, Any]: ...


def start(taking_part: list[Entrant], plan: protocol.Plan, stack: ExitStack) -> list[Worker]:
    """The processes of those that can take part."""
    started = (_start(entrant, plan, stack) for entrant in taking_part)
    return [worker for worker in started if worker]


def _start(entrant: Entrant, plan: protocol.Plan, stack: ExitStack) -> Worker | None:
    try:
        return stack.enter_context(protocol.start(entrant, plan)[0])
    except Unavailable as error:
        protocol.say(f"  {entrant.name}: {error}")
        return None


def rates(workers: list[Worker], plan: protocol.Plan, work: AnyWork) -> Rates:
    """Per second, round by round; the first round is warm-up."""
    found: Rates = {_name(worker): [] for worker in workers}
    for turn in range(plan.runs + 1):
        for worker in workers if turn % 2 else reversed(workers):
            rate = protocol.run(worker, work)
            if turn:
                found[_name(worker)].append(rate)
    return found


def _name(worker: Worker) -> str:
    return f"{worker.entrant.name} {worker.entrant.build}".strip()


def table(found: dict[str, Rates], unit: str) -> str:
    """Medians and ranges of each work, and the ratio of ours to each."""
    rows = []
    for work, each in found.items():
        ours, *_ = map(statistics.median, each.values())
        for name, values in each.items():
            middle, low, high = statistics.median(values), number(min(values)), number(max(values))
            rows.append([work, name, f"{number(middle)} ({low} - {high})", f"{ours / middle:.2f}"])
    return "\n".join(markdown(["", "", unit, "fastlm / it"], rows))
