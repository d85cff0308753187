"""fastlm and its peers side by side: same weights, same threads, alternating runs.

python -m benchmarks --shape B --work decode:64 prompt:512 --bits 8 4 --peer llama.cpp=ENVIRONMENT/bin/python
python -m benchmarks --model FOLDER --work decode:64 --bits 32 --threads 1 --peer llama2.c=PATH/TO/run
python -m benchmarks --shape A --first-token --bits 8
"""

from __future__ import annotations

import argparse
import time

from . import first_token, plots, records, report
from . import options as shared
from .bounds import Bounds
from .entrants import entrants
from .protocol import Plan, choose, measure, say
from .works import cost


def options() -> argparse.Namespace:
    parser = shared.parser(__doc__, runs=5)
    shared.add_peers(parser)
    shared.add_team(parser)
    shared.add_out(parser, "benchmarks.md", ".json and .svg lie")
    parser.add_argument("--choose", action="store_true", help="only find the best settings of the peers")
    parser.add_argument("--first-token", action="store_true", help="time from process start to the first token")
    return shared.parse(parser)


def main() -> None:
    args = options()
    name, folder, cache = shared.checkpoint(args)
    results = records.read(args.out.with_suffix(".json"))
    if args.first_token:
        for bits in args.bits:
            fresh = first_token.measure(name, folder, bits, cache, args.threads, args.runs)
            results["first_token"] = first_token.merge(results["first_token"], fresh)
    if args.work:
        plan = Plan(folder, cache, args.work, args.threads, args.runs, args.real_time)
        say(f"{name}: settings")
        chosen = choose(entrants(args.peer, args.bits, args.only), plan)
        if args.choose:
            return
        bounds = Bounds(args.threads, args.cache)
        peaks = bounds.peaks()
        say(f"{name}: measuring")
        found = measure(chosen, plan, bounds)
        peaks = {peak: max(rate, peaks[peak]) for peak, rate in bounds.peaks().items()}
        when = time.strftime("%Y-%m-%d %H:%M")
        results["runs"] = records.merge(results["runs"], records.record(name, cost(folder), plan, found, peaks, when))
    records.write(args.out.with_suffix(".json"), results)
    text = args.out.read_text() if args.out.exists() else "# Benchmarks\n"
    args.out.write_text(report.place(text, report.page(results)))
    plots.write(args.out, results)


if __name__ == "__main__":
    main()
