"""The measuring: prepare, find each entrant's best settings, then let all take turns, run by run."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .bounds import Bounds
from .entrants import Entrant
from .worker import Unavailable, Worker
from .works import Work

TURN_SECONDS = 0.25
PAUSE_SECONDS = 0.25  # longer than OpenMP teams spin after their work (200 ms by default)
STEADY = 0.9  # reading before a turn and after it: the slower of the two must reach so much of the faster
RETAKES = 3  # turns in place of one in which the machine was not steady
HOPEFUL = 0.75  # of the best: what a choice must reach in a small work to be tried in a larger one of the kind


@dataclass(slots=True)
class Result:
    """Of one entrant: tokens per second of each round, by work; and why something is missing.

    reads: bytes per second that the machine read in the same rounds, of as many bytes as a step of this entrant needs.
    """

    entrant: Entrant
    rates: dict[str, list[float]] = field(default_factory=dict)
    reads: dict[str, list[float]] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)
    load_seconds: float | None = None
    peak_bytes: int | None = None
    weight_bytes: float = 0.0  # that one token reads (known of fastlm)
    kv_bytes: float = 0.0  # per token of its past
    about: dict[str, str] = field(default_factory=dict)

    def step_bytes(self, work: Work) -> float:
        """Weights, keys and values that one step reads at least."""
        sequences = work.size if work.kind == "batch" else 1
        return self.weight_bytes + sequences * work.depth * self.kv_bytes


@dataclass(frozen=True, slots=True)
class Plan:
    """folder: the checkpoint; cache: where the peers' files of it are kept; threads: 0: those of each by default."""

    folder: Path
    cache: Path
    works: Sequence[Work]
    threads: int
    runs: int
    real_time: bool = False

    @property
    def context(self) -> int:
        return max(work.context for work in self.works)

    @property
    def log(self) -> Path:
        return self.cache / "workers.log"


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def prepare(entrant: Entrant, plan: Plan) -> str:
    """Path of the entrant's file of the checkpoint. A process of its own makes it, so that memory tells the truth."""
    with Worker(entrant, plan.log) as worker:
        request = {"folder": str(plan.folder.resolve()), "cache": str(plan.cache)}
        return str(worker.ask("prepare", format=entrant.format, threads=plan.threads, **request)["path"])


def load_request(path: str, entrant: Entrant, plan: Plan) -> dict[str, Any]:
    """What loads a prepared file."""
    request = {"do": "load", "path": path, "format": entrant.format, "threads": plan.threads}
    return {**request, "context": plan.context, "settings": entrant.settings}


def start(entrant: Entrant, plan: Plan) -> tuple[Worker, dict[str, Any]]:
    """A worker with its model loaded, and what it says of it."""
    path = prepare(entrant, plan)
    worker = Worker(entrant, plan.log)
    try:
        facts = worker.ask(**load_request(path, entrant, plan))
        facts |= {"path": path, "about": worker.ask("about")}
    except BaseException:
        worker.close()
        raise
    return worker, facts


def run(worker: Worker, work: Work) -> float:
    """Tokens per second of one turn: as many runs as fill TURN_SECONDS, after a pause for the others' threads."""
    time.sleep(PAUSE_SECONDS)
    seconds, tokens = 0.0, 0
    while seconds < TURN_SECONDS:
        answer = worker.ask(**work.request())
        seconds += float(answer["seconds"])
        tokens += int(answer["tokens"])
    return tokens / seconds


def choose(candidates: Sequence[Entrant], plan: Plan) -> list[tuple[Entrant, list[Work]]]:
    """For each engine and format: which settings run which works, by a trial run that the cache remembers."""
    memory = plan.cache / f"settings-{plan.threads}.json"
    tried: dict[str, dict[str, float]] = json.loads(memory.read_text()) if memory.exists() else {}
    chosen: dict[str, tuple[Entrant, list[Work]]] = {}
    for name in dict.fromkeys(c.name for c in candidates):
        choices = [c for c in candidates if c.name == name]
        hopeful: dict[str, list[Entrant]] = {}
        for work in sorted(plan.works, key=lambda work: work.size):
            if work.kind not in choices[0].engine.kinds:
                continue
            rates = tried.setdefault(work.trial.name, {})
            among = hopeful.get(work.kind, choices)
            for entrant in among if len(choices) > 1 else []:
                if entrant.label not in rates:
                    rates[entrant.label] = trial(entrant, work.trial, plan)
                    memory.write_text(json.dumps(tried, indent=1))
            best = max(among, key=lambda c: rates.get(c.label, 0.0))
            least = HOPEFUL * rates.get(best.label, 0.0)
            hopeful[work.kind] = [c for c in among if rates.get(c.label, 0.0) >= least]
            chosen.setdefault(best.label, (best, []))[1].append(work)
    return list(chosen.values())


def trial(entrant: Entrant, work: Work, plan: Plan) -> float:
    """Tokens per second of one run after another, by this entrant alone; 0 where it cannot."""
    try:
        worker, _ = start(entrant, plan)
        with worker:
            rate = max(run(worker, work) for _ in range(2))
    except Unavailable as error:
        say(f"  {entrant.label}, {work.name}: {error}")
        return 0.0
    say(f"  {entrant.label}, {work.name}: {rate:.1f}")
    return rate


def measure(chosen: Sequence[tuple[Entrant, list[Work]]], plan: Plan, bounds: Bounds) -> list[Result]:
    """All entrants alive at once; every round of a work gives each one turn. The first round is warm-up."""
    results: list[Result] = []
    with ExitStack() as stack:
        alive: list[tuple[Worker, Result, list[Work]]] = []
        for entrant, works in chosen:
            result = Result(entrant)
            results.append(result)
            try:
                worker, facts = start(entrant, plan)
            except Unavailable as error:
                say(f"  {entrant.label}: {error}")
                result.missing = {work.name: str(error) for work in works}
                continue
            stack.enter_context(worker)
            result.load_seconds, result.about = facts.get("seconds"), facts["about"]
            result.weight_bytes = facts.get("bytes_per_token", 0.0)
            result.kv_bytes = facts.get("kv_bytes_per_token", 0.0)
            alive.append((worker, result, works))
        for work in plan.works:
            turns = [(worker, result) for worker, result, works in alive if work in works]
            say(f"  {work.name}: {plan.runs} rounds of {len(turns)}")
            for turn in range(plan.runs + 1):
                for worker, result in turns:
                    if work.name not in result.missing:
                        take_turn(worker, result, work, bounds, warm_up=turn == 0)
        for worker, result, _ in alive:
            result.peak_bytes = peak_bytes(worker)
    return results


def peak_bytes(worker: Worker) -> int | None:
    try:
        return int(worker.ask("memory")["peak"])
    except Unavailable:
        return None


def take_turn(worker: Worker, result: Result, work: Work, bounds: Bounds, *, warm_up: bool) -> None:
    """One rate; around one of fastlm also that of reading as many bytes as a step: a bound, or the machine's state."""
    reads = result.entrant.engine.name == "fastlm" and not warm_up
    try:
        rate, read = steady_run(worker, work, bounds, result.step_bytes(work)) if reads else (run(worker, work), 0.0)
    except Unavailable as error:
        say(f"  {result.entrant.label}, {work.name}: {error}")
        result.missing[work.name] = str(error)
        return
    if not warm_up:
        result.rates.setdefault(work.name, []).append(rate)
    if reads:
        result.reads.setdefault(work.name, []).append(read)


def steady_run(worker: Worker, work: Work, bounds: Bounds, n_bytes: float) -> tuple[float, float]:
    """A turn's rate, and the mean of what the machine read before and after: again if these are far apart."""
    before = bounds.read(n_bytes)
    for _ in range(1 + RETAKES):
        rate, after = run(worker, work), bounds.read(n_bytes)
        mean = (before + after) / 2
        if min(before, after) >= STEADY * max(before, after):
            break
        before = after
    return rate, mean
