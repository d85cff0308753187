"""Decode speed beside the peers that are installed: same weights, same threads, alternating runs, medians.

python -m benchmarks.decode --shape B --dtype bfloat16 --threads 2
python -m benchmarks.decode --model FOLDER --dtype float32 --threads 1 --llama2c PATH/TO/run
"""

from __future__ import annotations

import argparse
import ctypes
import importlib.util
import json
import platform
import statistics
import subprocess
import tempfile
from pathlib import Path

from . import convert, shapes
from .engines import Engine, Fastlm, Llama2c, LlamaCpp


def bounds(threads: int, scratch: Path) -> dict[str, float]:
    """Read bandwidth and float32 peak of this machine now, in bytes and operations per second."""
    library = scratch / "bounds.so"
    source = Path(__file__).with_name("bounds.c")
    flags = ["-O3", "-march=native", "-shared", "-fPIC", "-pthread"]
    subprocess.run(["cc", *flags, str(source), "-o", str(library)], check=True)
    functions = ctypes.CDLL(str(library))
    found = {}
    for name in ("read_bandwidth", "float32_peak"):
        function = getattr(functions, name)
        function.restype = ctypes.c_double
        found[name] = float(function(threads))
    return found


def weight_bytes(folder: Path) -> int:
    return (folder / "model.safetensors").stat().st_size


def engines(args: argparse.Namespace, folder: Path, scratch: Path) -> list[Engine]:
    """fastlm first, then every peer that can run this checkpoint."""
    found: list[Engine] = [Fastlm(folder, args.dtype, args.threads)]
    if importlib.util.find_spec("llama_cpp") and importlib.util.find_spec("gguf"):
        kind = {"float32": "F32", "float16": "F16", "bfloat16": args.gguf}[args.dtype]
        found.append(LlamaCpp(convert.to_gguf(folder, scratch / f"{kind}.gguf", kind), kind, args.threads))
    if args.llama2c:
        model, tokenizer = scratch / "model.bin", scratch / "tokenizer.bin"
        found.append(Llama2c(args.llama2c, convert.to_llama2c(folder, model, tokenizer), tokenizer))
    return found


def measure(found: list[Engine], runs: int, tokens: int) -> dict[str, list[float]]:
    """One warm-up of each, then `runs` rounds in which every engine has its turn."""
    speeds: dict[str, list[float]] = {engine.name: [] for engine in found}
    for turn in range(runs + 1):
        for engine in found:
            speed = engine.decode(tokens)
            if turn:
                speeds[engine.name].append(speed)
    return speeds


def table(speeds: dict[str, list[float]]) -> str:
    """Markdown: median, range, and the median of the per-round ratios fastlm / engine."""
    ours = next(iter(speeds.values()))
    lines = ["| engine | tokens/s (median) | min - max | fastlm / it |", "|---|---|---|---|"]
    for name, values in speeds.items():
        ratio = statistics.median(a / b for a, b in zip(ours, values, strict=True))
        spread = f"{min(values):.1f} - {max(values):.1f}"
        lines.append(f"| {name} | {statistics.median(values):.1f} | {spread} | {ratio:.2f} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=sorted(shapes.SHAPES), help="a shape with random weights")
    parser.add_argument("--model", type=Path, help="or a Llama folder")
    parser.add_argument("--dtype", default="bfloat16", choices=["float32", "float16", "bfloat16"])
    parser.add_argument("--gguf", default="F16", help="llama.cpp's type beside our bfloat16")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--runs", type=int, default=9)
    parser.add_argument("--llama2c", type=Path, help="a `run` binary of llama2.c")
    parser.add_argument("--cache", type=Path, default=Path(tempfile.gettempdir()) / "fastlm-benchmarks")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    if (args.shape is None) == (args.model is None):
        parser.error("give one of --shape and --model")
    kept = "float32" if args.dtype == "float32" else "bfloat16"
    folder = args.model or args.cache / f"{args.shape}-{kept}"
    if args.shape:
        shapes.write_checkpoint(folder, shapes.SHAPES[args.shape], kept)
    args.cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=args.cache) as scratch:
        bound = bounds(args.threads, Path(scratch))
        speeds = measure(engines(args, folder, Path(scratch)), args.runs, args.tokens)
    medians = {name: statistics.median(values) for name, values in speeds.items()}
    if args.json:
        print(json.dumps({"machine": platform.processor(), "bounds": bound, "speeds": speeds}, indent=2))
        return
    read = next(iter(medians.values())) * weight_bytes(folder)
    print(table(speeds))
    print(f"\n{args.threads} threads; read bandwidth {bound['read_bandwidth'] / 1e9:.1f} GB/s, ", end="")
    print(f"float32 peak {bound['float32_peak'] / 1e9:.0f} GFLOP/s; fastlm reads {read / 1e9:.1f} GB/s of weights.")


if __name__ == "__main__":
    main()
