"""Two builds of fastlm side by side, in alternation: what a change of the core did to speed.

python -m benchmarks.builds --before ENVIRONMENT/bin/python --shape B --work decode:64 prompt:512 batch:8 --bits 8 4

The later build is that of the interpreter which runs this. Ratios above 1 are in its favour.
"""

from __future__ import annotations

import argparse
import statistics

from . import options as shared
from .entrants import Entrant, fastlm
from .protocol import Plan, run, say, start
from .report import markdown, number
from .works import Work


def options() -> argparse.Namespace:
    parser = shared.parser(__doc__, runs=7)
    shared.add_team(parser)
    parser.add_argument("--before", required=True, help="the interpreter of the earlier build's environment")
    args = shared.parse(parser)
    if not args.work:
        parser.error("give --work")
    return args


def rates(pair: tuple[Entrant, Entrant], plan: Plan, work: Work) -> tuple[list[float], list[float]]:
    """Tokens per second of both builds, round by round; who goes first changes, and the first round is warm-up."""
    found: tuple[list[float], list[float]] = ([], [])
    workers = [start(entrant, plan)[0] for entrant in pair]
    try:
        for turn in range(plan.runs + 1):
            for i in (0, 1) if turn % 2 else (1, 0):
                rate = run(workers[i], work)
                if turn:
                    found[i].append(rate)
    finally:
        for worker in workers:
            worker.close()
    return found


def main() -> None:
    args = options()
    name, folder, cache = shared.checkpoint(args)
    plan = Plan(folder, cache, args.work, args.threads, args.runs)
    rows = []
    for bits in args.bits:
        before, after = fastlm(bits, "before", args.before), fastlm(bits, "after")
        for work in args.work:
            old, new = rates((before, after), plan, work)
            each = sorted(b / a for a, b in zip(old, new, strict=True))
            medians = statistics.median(old), statistics.median(new)
            ratio, spread = f"{medians[1] / medians[0]:.3f}", f"{each[0]:.3f} - {each[-1]:.3f}"
            rows.append([f"{name} {after.format}", work.name, *map(number, medians), ratio, spread])
            say(" ".join(rows[-1]))
    head = ("model", "work", "before, tokens/s", "after", "after / before", "of single rounds")
    print("\n".join(markdown(head, rows)))


if __name__ == "__main__":
    main()
