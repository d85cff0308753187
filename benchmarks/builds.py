"""Two builds of fastlm side by side, in alternation: what a change of the core did to speed.

python -m benchmarks.builds --before ENVIRONMENT/bin/python --shape B --work decode:64 prompt:512 batch:8 --bits 8 4

The later build is that of the interpreter which runs this. Ratios above 1 are in its favour.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
from pathlib import Path

from . import shapes
from .entrants import ENGINES, WORKERS, Entrant
from .protocol import Plan, run, say, start
from .report import markdown, number
from .works import Work, parse


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--before", required=True, help="the interpreter of the earlier build's environment")
    parser.add_argument("--shape", choices=sorted(shapes.SHAPES), help="a shape with random weights")
    parser.add_argument("--model", type=Path, help="or a folder with a Llama checkpoint")
    parser.add_argument("--work", nargs="+", required=True, help="decode:DEPTH, prompt:TOKENS, batch:SEQUENCES")
    parser.add_argument("--tokens", type=int, default=64, help="written in a run of decode or batch (64)")
    parser.add_argument("--bits", type=int, nargs="+", default=[8, 4], choices=(32, 16, 8, 4), help="of weights (8 4)")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--runs", type=int, default=7, help="rounds that count (7)")
    parser.add_argument("--cache", type=Path, default=Path(tempfile.gettempdir()) / "fastlm-benchmarks")
    args = parser.parse_args()
    if (args.shape is None) == (args.model is None):
        parser.error("give one of --shape and --model")
    args.work = [parse(text, args.tokens) for text in args.work]
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
    name = args.shape or args.model.name
    cache = args.cache.resolve() / name
    cache.mkdir(parents=True, exist_ok=True)
    folder = args.model or shapes.write_checkpoint(cache / "checkpoint", shapes.SHAPES[args.shape])
    plan = Plan(folder, cache, args.work, args.threads, args.runs)
    engine, script = ENGINES["fastlm"], str(WORKERS / "run_fastlm.py")
    rows = []
    for bits in args.bits:
        (format,) = engine.formats[bits]
        before, after = (
            Entrant(engine, format, bits, {}, build, (python, script))
            for build, python in (("before", args.before), ("after", sys.executable))
        )
        for work in args.work:
            old, new = rates((before, after), plan, work)
            each = sorted(b / a for a, b in zip(old, new, strict=True))
            medians = statistics.median(old), statistics.median(new)
            ratio, spread = f"{medians[1] / medians[0]:.3f}", f"{each[0]:.3f} - {each[-1]:.3f}"
            rows.append([f"{name} {format}", work.name, *map(number, medians), ratio, spread])
            say(" ".join(rows[-1]))
    head = ("model", "work", "before, tokens/s", "after", "after / before", "of single rounds")
    print("\n".join(markdown(head, rows)))


if __name__ == "__main__":
    main()
