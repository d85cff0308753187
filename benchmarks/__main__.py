"""fastlm and its peers side by side: same weights, same threads, alternating runs.

python -m benchmarks --shape B --work decode:64 prompt:512 --bits 8 4 --peer llama.cpp=ENVIRONMENT/bin/python
python -m benchmarks --model FOLDER --work decode:64 --bits 32 --threads 1 --peer llama2.c=PATH/TO/run
python -m benchmarks --shape A --first-token --bits 8
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

from . import first_token, plots, records, report, shapes
from .bounds import Bounds
from .entrants import Peer, entrants
from .protocol import Plan, choose, measure, say
from .works import cost, parse


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=sorted(shapes.SHAPES), help="a shape with random weights")
    parser.add_argument("--model", type=Path, help="or a folder with a Llama checkpoint")
    parser.add_argument("--work", nargs="+", default=[], help="decode:DEPTH, prompt:TOKENS, batch:SEQUENCES")
    parser.add_argument("--tokens", type=int, default=64, help="written in a run of decode or batch (64)")
    parser.add_argument("--bits", type=int, nargs="+", default=[8, 4], choices=(32, 16, 8, 4), help="of weights (8 4)")
    parser.add_argument(
        "--peer", action="append", default=[], help="NAME=PYTHON, or NAME/BUILD=PYTHON; may be repeated"
    )
    parser.add_argument("--only", nargs="+", default=[], help='engines, or "engine format", that take part')
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--runs", type=int, default=5, help="rounds that count (5)")
    parser.add_argument("--choose", action="store_true", help="only find the best settings of the peers")
    parser.add_argument("--first-token", action="store_true", help="time from process start to the first token")
    parser.add_argument("--cache", type=Path, default=Path(tempfile.gettempdir()) / "fastlm-benchmarks")
    parser.add_argument("--out", type=Path, default=Path("benchmarks.md"), help="page; .json and .svg lie beside it")
    args = parser.parse_args()
    if (args.shape is None) == (args.model is None):
        parser.error("give one of --shape and --model")
    try:
        args.work = [parse(text, args.tokens) for text in args.work]
        args.peer = [Peer.parse(text) for text in args.peer]
    except ValueError as error:
        parser.error(str(error))
    return args


def main() -> None:
    args = options()
    name = args.shape or args.model.name
    cache = args.cache.resolve() / name
    cache.mkdir(parents=True, exist_ok=True)
    folder = args.model or shapes.write_checkpoint(cache / "checkpoint", shapes.SHAPES[args.shape])
    results = records.read(args.out.with_suffix(".json"))
    if args.first_token:
        for bits in args.bits:
            fresh = first_token.measure(name, folder, bits, cache, args.threads, args.runs)
            results["first_token"] = first_token.merge(results["first_token"], fresh)
    if args.work:
        plan = Plan(folder, cache, args.work, args.threads, args.runs)
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
