"""What drafts win, and what they cost where they are of no use: with and without them, in turns, in one process.

python -m benchmarks.drafts --shape A --bits 8

Targets of one shape with random weights, whose speed is that of any weights, in which some layers say little:

- honest: from the third layer on. The draft is the target's own first two layers, which agree with all of them most of
  the time; how often is told, as the part of the proposals that was accepted.
- wrong: the same target, and two layers of other weights, which hardly ever agree with it.
- lookup: the same target, whose greedy texts come to repeat themselves, as those of random weights do.
- copy: all layers say nothing, so each token follows from the one before it, and the text comes to repeat the prompt.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import fastlm

from .shapes import SHAPES, Shape, write_checkpoint

Json = dict[str, Any]
KEPT = 2  # layers of a draft
OUTPUTS = ("o_proj", "down_proj")
FORMATS = {4: "int4", 8: "int8", 16: "bfloat16"}


def scaled(folder: Path, shape: Shape, share: float, first: int) -> Path:
    """A checkpoint in which what the layers from `first` on add is so many times as large."""
    path = write_checkpoint(folder, shape) / "model.safetensors"
    done = folder / f"scaled-{share}-{first}"
    if done.exists():
        return folder
    for name, values in tensors(path):
        part = name.split(".")
        if len(part) > 4 and int(part[2]) >= first and part[4] in OUTPUTS:
            values[:] = bfloat16(float32(values) * np.float32(share))
    done.touch()
    return folder


def first_layers(folder: Path, target: Path, shape: Shape) -> Path:
    """The target's first layers, with its embedding, norm and head."""
    small = replace(shape, layers=KEPT)
    path = write_checkpoint(folder, small) / "model.safetensors"
    stored = dict(tensors(target / "model.safetensors"))
    for name, values in tensors(path):
        values[:] = stored[name]
    return folder


def tensors(path: Path) -> Iterator[tuple[str, NDArray[np.uint16]]]:
    """Names and values, as they lie in the file: writing changes it."""
    data = np.memmap(path, np.uint8, "r+")
    length = int.from_bytes(data[:8].tobytes(), "little")
    for name, entry in json.loads(data[8 : 8 + length].tobytes()).items():
        begin, end = (8 + length + at for at in entry["data_offsets"])
        yield name, data[begin:end].view(np.uint16)


def float32(values: NDArray[np.uint16]) -> NDArray[np.float32]:
    return (values.astype(np.uint32) << 16).view(np.float32)


def bfloat16(values: NDArray[np.float32]) -> NDArray[np.uint16]:
    return (values.view(np.uint32) >> 16).astype(np.uint16)


def turn(
    model: fastlm.Model, prompts: list[list[int]], tokens: int, draft: Any
) -> tuple[float, list[fastlm.Completion]]:
    """Tokens per second of all texts, after their first tokens."""
    done = model.batch(prompts, max_tokens=tokens, temperature=0, ignore_eos=True, draft=draft)
    return len(prompts) * (tokens - 1) / max(d.timings.decode_seconds for d in done), done


def compare(model: fastlm.Model, prompts: list[list[int]], tokens: int, draft: Any, runs: int) -> Json:
    """Without and with the draft, in turns; the first ones warm up. Texts are the same, or this is an error."""
    rates: dict[str, list[float]] = {"without": [], "with": []}
    accepted = proposed = 0
    for _ in range(runs + 1):
        plain, expected = turn(model, prompts, tokens, None)
        drafted, found = turn(model, prompts, tokens, draft)
        rates["without"].append(plain)
        rates["with"].append(drafted)
        if [d.token_ids for d in found] != [d.token_ids for d in expected]:
            raise AssertionError("a draft has changed a text")
        accepted += sum(d.draft.accepted for d in found if d.draft)
        proposed += sum(d.draft.proposed for d in found if d.draft)
    kept = {name: each[1:] for name, each in rates.items()}
    ratio = statistics.median(b / a for a, b in zip(kept["without"], kept["with"], strict=True))
    return {"rates": kept, "ratio": ratio, "accepted": accepted, "proposed": proposed}


def line(name: str, sequences: int, found: Json) -> str:
    plain, drafted = (statistics.median(found["rates"][which]) for which in ("without", "with"))
    share = f"{found['accepted']} of {found['proposed']}"
    return f"| {name} | {sequences} | {plain:.1f} | {drafted:.1f} | {found['ratio']:.2f} | {share} |"


def prompts_of(shape: Shape, sequences: int, length: int) -> list[list[int]]:
    rng = np.random.default_rng(1)
    return [[int(i) for i in rng.integers(3, shape.vocab, length)] for _ in range(sequences)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=SHAPES, default="A")
    parser.add_argument("--bits", type=int, choices=FORMATS, default=8)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--sequences", type=int, nargs="+", default=[1, 8], help="at once")
    parser.add_argument("--prompt", type=int, default=1000, help="tokens of the prompts that are copied")
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--share", type=float, default=0.1, help="of the honest target's later layers")
    parser.add_argument("--cache", type=Path, default=Path(".benchmarks"))
    parser.add_argument("--out", type=Path, help="a JSON file for the figures of all runs")
    args = parser.parse_args()
    shape, found = SHAPES[args.shape], {}
    print("| draft | sequences | tokens/s without | with | ratio | accepted |\n|---|---|---|---|---|---|")
    for name, share, first in (("honest", args.share, KEPT), ("copy", 0.0, 0)):
        target = scaled(args.cache / f"{args.shape}-{name}", shape, share, first)
        with ExitStack() as stack:
            options = {"dtype": FORMATS[args.bits], "context": 2048}
            model = stack.enter_context(fastlm.load(target, threads=args.threads, **options))
            drafts: Json = {"copy": fastlm.Lookup()}
            if name == "honest":
                own = first_layers(args.cache / f"{args.shape}-draft", target, shape)
                other = write_checkpoint(args.cache / f"{args.shape}-other", replace(shape, layers=KEPT), seed=5)
                opened = [stack.enter_context(fastlm.load(f, beside=model, **options)) for f in (own, other)]
                drafts = {
                    "honest": fastlm.Draft(opened[0]),
                    "wrong": fastlm.Draft(opened[1]),
                    "lookup": fastlm.Lookup(),
                }
            for which, draft in drafts.items():
                for sequences in args.sequences:
                    prompts = prompts_of(shape, sequences, 16)
                    if name == "copy":
                        prompts = [done.token_ids for done in turn(model, prompts, args.prompt, None)[1]]
                    result = compare(model, prompts, args.tokens, draft, args.runs)
                    found[f"{which} {sequences}"] = result
                    print(line(which, sequences, result), flush=True)
    if args.out:
        args.out.write_text(json.dumps({"shape": args.shape, "bits": args.bits, **found}, indent=2))
    sys.exit(0)


if __name__ == "__main__":
    main()
