"""Two builds of fastlm side by side, in alternation: what a change of the core did to speed.

python -m benchmarks.builds --before ENVIRONMENT/bin/python --shape B --work decode:64 prompt:512 batch:8 --bits 8 4

The later build is that of the interpreter which runs this. Ratios above 1 are in its favour. Where its pages come to
lie makes one process up to 5 % faster than its twin: --pairs starts several of each, and the ratio is their median.
"""

from __future__ import annotations

import argparse
import statistics
from contextlib import ExitStack

from . import alternation
from . import options as shared
from .entrants import Entrant, fastlm
from .protocol import Plan, say, start
from .report import markdown, number
from .works import Work


def options() -> argparse.Namespace:
    parser = shared.parser(__doc__, runs=7)
    shared.add_team(parser)
    parser.add_argument("--before", required=True, help="the interpreter of the earlier build's environment")
    parser.add_argument("--pairs", type=int, default=1, metavar="N", help="fresh processes of each build (default 1)")
    args = shared.parse(parser)
    if not args.work:
        parser.error("give --work")
    return args


def rates(pair: tuple[Entrant, Entrant], plan: Plan, work: Work) -> tuple[list[float], list[float]]:
    """Tokens per second of both builds, round by round, in fresh processes."""
    with ExitStack() as stack:
        before, after = (stack.enter_context(start(entrant, plan)[0]) for entrant in pair)
        first, second = alternation.rates([before, after], plan, work).values()
    return first, second


def compare(pair: tuple[Entrant, Entrant], plan: Plan, work: Work, pairs: int) -> list[str]:
    """Median rates of both builds, the median ratio of `pairs` fresh pairs of processes, and the pairs' range."""
    found = [rates(pair, plan, work) for _ in range(pairs)]
    medians = [[statistics.median(side) for side in sides] for sides in found]
    ratios = sorted(new / old for old, new in medians)
    before, after = (statistics.median(side) for side in zip(*medians, strict=True))
    return [number(before), number(after), f"{statistics.median(ratios):.3f}", f"{ratios[0]:.3f} - {ratios[-1]:.3f}"]


def main() -> None:
    args = options()
    name, folder, cache = shared.checkpoint(args)
    plan = Plan(folder, cache, args.work, args.threads, args.runs)
    rows = []
    for bits in args.bits:
        pair = fastlm(bits, "before", args.before), fastlm(bits, "after")
        for work in args.work:
            rows.append([f"{name} {pair[1].format}", work.name, *compare(pair, plan, work, args.pairs)])
            say(" ".join(rows[-1]))
    head = ("model", "work", "before, tokens/s", "after", "after / before", "of single pairs")
    print("\n".join(markdown(head, rows)))


if __name__ == "__main__":
    main()
