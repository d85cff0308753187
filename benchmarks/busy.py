"""What a machine that does something else leaves of speed: the default beside teams of fixed sizes and beside peers.

python -m benchmarks.busy --shape B --work decode:64 prompt:512 --bits 8 --before ENVIRONMENT/bin/python
python -m benchmarks.busy --shape B --work decode:64 --bits 8 --peer llama.cpp=ENVIRONMENT/bin/python --latency
python -m benchmarks.busy --model FOLDER --work decode:64 --bits 32 --beside nothing loops:1 quota:0.5

A team of more than one thread has a fixed size only in a build that does not adapt: --before names its interpreter.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import Any

from . import busy_report, records, report
from . import options as shared
from .beside import USUAL, Condition, Load, confined
from .entrants import Entrant, entrants, fastlm
from .protocol import Plan, choose, load_request, say, start
from .turns import figures, gap_figures, take, together
from .worker import Unavailable, Worker
from .works import Work, cost

Json = dict[str, Any]
SECONDS = 1.0  # of a turn


def options(words: Sequence[str] | None = None) -> argparse.Namespace:
    parser = shared.parser(__doc__, runs=5)
    shared.add_peers(parser)
    shared.add_out(parser, "busy.md", ".json lies")
    parser.add_argument("--before", help="the interpreter of an earlier build, for teams of more than one thread")
    parser.add_argument("--threads", type=int, nargs="+", help="of fixed teams (1, and with --before all processors)")
    parser.add_argument("--beside", nargs="+", default=USUAL, help=f"conditions ({' '.join(USUAL)})")
    parser.add_argument("--seconds", type=float, default=SECONDS, help=f"of a turn ({SECONDS:g})")
    parser.add_argument("--latency", action="store_true", help="also the times between tokens")
    args = shared.parse(parser, words)
    try:
        args.beside = list(dict.fromkeys(map(Condition.parse, args.beside)))
    except ValueError as error:
        parser.error(str(error))
    if not args.work or any(work.kind == "batch" for work in args.work):
        parser.error("give --work: decode:DEPTH or prompt:TOKENS")
    if not hasattr(os, "sched_getaffinity"):
        parser.error("this needs Linux: its affinities, niceness and control groups")
    if os.sched_getscheduler(0) != os.SCHED_OTHER:
        parser.error("this process has a priority of its own, so nothing could run beside it")
    if args.threads is None:
        args.threads = [1, *({processors()} - {1} if args.before else ())]
    return args


def processors() -> int:
    return len(os.sched_getaffinity(0))


@dataclass(frozen=True, slots=True)
class Setting:
    """An entrant with a number of threads (0: its default) for some of the works.

    is_fixed: a team of fastlm's that does not adapt to what else runs.
    """

    name: str
    entrant: Entrant
    threads: int
    works: Sequence[Work]
    is_fixed: bool = False


def settings(args: argparse.Namespace, bits: int, plan: Plan) -> list[Setting]:
    """Our default, the fixed teams, and the peers with their default and with one thread."""
    ours = fastlm(bits)
    found = [Setting(busy_report.DEFAULT, ours, 0, plan.works)]
    for n in args.threads:
        if n > 1 and args.before:
            found.append(Setting(f"{n} threads before", fastlm(bits, "before", args.before), n, plan.works, True))
        else:
            name = busy_report.ONE if n == 1 else f"{n} threads"
            found.append(Setting(name, ours, n, plan.works, n == 1))
    peers = [e for e in entrants(args.peer, [bits], args.only) if e.engine.name != "fastlm"]
    for n in (0, 1):
        for entrant, works in choose(peers, replace(plan, threads=n)):
            found.append(Setting(entrant.name + (f", {busy_report.ONE}" if n else ""), entrant, n, works))
    return found


@dataclass(slots=True)
class Seat:
    """A setting, its worker that lives all the time, and what that has said of itself."""

    setting: Setting
    plan: Plan
    worker: Worker
    facts: Json

    @contextmanager
    def fresh(self, condition: Condition) -> Iterator[tuple[list[Worker], list[Json]]]:
        """Workers that have started as the condition says, and what they say of it."""
        entrant = self.setting.entrant
        with confined(condition) as words, ExitStack() as stack:
            entrant = replace(entrant, command=(*words, *entrant.command))
            workers = [stack.enter_context(Worker(entrant, self.plan.log)) for _ in range(condition.together)]
            yield workers, together(workers, load_request(self.facts["path"], entrant, self.plan))


class Measuring:
    """Rounds, in each of which every condition meets every setting; `found` by work, condition and setting."""

    def __init__(self, plan: Plan, seconds: float, latency: bool) -> None:
        self.plan, self.seconds, self.latency = plan, seconds, latency
        self.seats: list[Seat] = []
        self.found: dict[str, dict[str, dict[str, Json]]] = {}
        self.missing: dict[str, str] = {}  # a condition, or one and a setting -> why

    def run(self, chosen: Sequence[Setting], conditions: Sequence[Condition]) -> None:
        with ExitStack() as stack:
            for setting in chosen:
                self._sit(stack, setting)
            for turn in range(self.plan.runs):
                for condition in conditions[:: -1 if turn % 2 else 1]:
                    say(f"  round {turn + 1} of {self.plan.runs}, {condition.words}")
                    self._beside(condition, self.seats[:: -1 if turn % 2 else 1])

    def _sit(self, stack: ExitStack, setting: Setting) -> None:
        """Start its worker, and let it do each work once."""
        plan = replace(self.plan, threads=setting.threads)
        try:
            worker, facts = start(setting.entrant, plan)
            stack.enter_context(worker)
            for work in setting.works:
                worker.ask(**work.request())
        except Unavailable as error:
            self._miss(setting.name, error)
            return
        self.seats.append(Seat(setting, plan, worker, facts))

    def _miss(self, what: str, error: Unavailable) -> None:
        say(f"  {what}: {error}")
        self.missing[what] = str(error)

    def _beside(self, condition: Condition, seats: Sequence[Seat]) -> None:
        if str(condition) in self.missing:
            return
        try:
            if condition.is_fresh:
                with confined(condition):
                    pass  # before anything is started: whether that is possible
                for seat in seats:
                    self._fresh_turns(condition, seat)
                return
            with Load(condition) as load:
                for work in self.plan.works:
                    for seat in seats:
                        if work in seat.setting.works:
                            self._turn(work, condition, seat, [seat.worker], work.lead())
                        load.check()
        except Unavailable as error:
            self._miss(str(condition), error)

    def _fresh_turns(self, condition: Condition, seat: Seat) -> None:
        try:
            with seat.fresh(condition) as (workers, facts):
                for work in seat.setting.works:
                    if work.kind == "decode" or condition.together == 1:
                        cell = self._turn(work, condition, seat, workers, work.request())
                        cell["threads"] = facts[0].get("threads", seat.setting.threads)
        except Unavailable as error:
            self._miss(f"{condition}, {seat.setting.name}", error)

    def _turn(self, work: Work, condition: Condition, seat: Seat, workers: Sequence[Worker], lead: Json | None) -> Json:
        """The cell to which it has added its figures."""
        name = seat.setting.name
        try:
            fresh = figures(take(workers, work.request(), self.seconds, lead))
            if self.latency and work.kind == "decode":
                fresh["gaps"] = gap_figures(take(workers, work.gaps(), self.seconds, work.lead()))
        except Unavailable as error:
            self._miss(f"{condition}, {name}, {work.name}", error)
            return {}
        cell = self.found.setdefault(work.name, {}).setdefault(str(condition), {}).setdefault(name, {})
        for figure, value in fresh.items():
            cell.setdefault(figure, []).append(value if isinstance(value, dict) else float(f"{value:.4g}"))
        return cell


def record(name: str, about: str, bits: int, measuring: Measuring, work: Work, when: str) -> Json:
    """All that was found of one work."""
    seats = [seat for seat in measuring.seats if work in seat.setting.works]
    return {
        "model": name,
        "about": about,
        "bits": bits,
        "format": fastlm(bits).format,
        "work": work.name,
        "when": when,
        "processors": processors(),
        "rounds": measuring.plan.runs,
        "seconds": measuring.seconds,
        "settings": [
            {
                "name": seat.setting.name,
                "engine": seat.setting.entrant.engine.name,
                "format": seat.setting.entrant.format,
                "choice": seat.setting.entrant.choice,
                "threads": seat.facts.get("threads", seat.setting.threads),
                "is_fixed": seat.setting.is_fixed,
                **seat.facts["about"],
            }
            for seat in seats
        ],
        "beside": measuring.found.get(work.name, {}),
        "missing": measuring.missing,
    }


def merge(runs: Sequence[Json], new: Json) -> list[Json]:
    """The new one takes the place of an older one of the same model, bits and work: ratios are within one run."""
    keys = ("model", "bits", "work")
    kept = [run for run in runs if any(run[key] != new[key] for key in keys)]
    return sorted([*kept, new], key=lambda run: (run["model"], -run["bits"], run["work"]))


def main(words: Sequence[str] | None = None) -> None:
    args = options(words)
    name, folder, cache = shared.checkpoint(args)
    results = records.read(args.out.with_suffix(".json"))
    for bits in args.bits:
        plan = Plan(folder, cache, args.work, 0, args.runs)
        say(f"{name}, {bits} bits: settings")
        measuring = Measuring(plan, args.seconds, args.latency)
        measuring.run(settings(args, bits, plan), args.beside)
        when = time.strftime("%Y-%m-%d %H:%M")
        for work in args.work:
            new = record(name, cost(folder).words, bits, measuring, work, when)
            results["busy"] = merge(results.get("busy", []), new)
        records.write(args.out.with_suffix(".json"), results)
        text = args.out.read_text() if args.out.exists() else "# Beside something else\n"
        args.out.write_text(report.place(text, busy_report.page(results["busy"]), busy_report.START))


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # as any other end: the loads first
    main()
