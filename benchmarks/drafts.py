"""What drafts win, and what they cost where they are of no use: with and without them, in turns, in one process.

python -m benchmarks.drafts --shape A --bits 8

Targets of one shape with random weights, whose speed is that of any weights, in which some layers say little:

- honest: from the third layer on. The draft is the target's own first two layers, which agree with all of them most of
  the time; how often is told, as the part of the proposals that was accepted.
- wrong: the same target, and two layers of other weights, which hardly ever agree with it.
- lookup: the same target, whose greedy texts come to repeat themselves, as those of random weights do.
- copy: all layers say nothing, so each token follows from the one before it, and the text comes to repeat the prompt.

python -m benchmarks.drafts --shape A --teacher FOLDER --student FOLDER --texts FILE

A trained model in the clothes of the shape (padded.py: it writes its own texts, and each token costs what the shape's
does), and its student in those of a draft that reads as large a part of the shape's weights as the student does of the
teacher's, as near as whole layers come to it. They go on with the beginnings of texts that were held out in training.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import sys
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

import fastlm
from fastlm.train.corpus import split_documents

from .padded import Folder, write_padded
from .shapes import SHAPES, Shape, write_checkpoint
from .stored import bfloat16, float32, tensors

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


def turn(
    model: fastlm.Model, prompts: list[list[int]], tokens: int, draft: Any, temperature: float = 0.0
) -> tuple[float, list[fastlm.Completion]]:
    """Tokens per second of all texts, after their first tokens."""
    how = {"temperature": temperature, "seed": 1, "ignore_eos": True}
    done = model.batch(prompts, max_tokens=tokens, draft=draft, **how)
    return len(prompts) * (tokens - 1) / max(d.timings.decode_seconds for d in done), done


def compare(model: fastlm.Model, prompts: list[list[int]], draft: Any, args: argparse.Namespace) -> Json:
    """Without and with the draft, in turns; the first ones warm up. Texts are the same, or this is an error."""
    rates: dict[str, list[float]] = {"without": [], "with": []}
    accepted = proposed = 0
    for _ in range(args.runs + 1):
        plain, expected = turn(model, prompts, args.tokens, None, args.temperature)
        drafted, found = turn(model, prompts, args.tokens, draft, args.temperature)
        rates["without"].append(plain)
        rates["with"].append(drafted)
        if [d.token_ids for d in found] != [d.token_ids for d in expected]:
            raise AssertionError("a draft has changed a text")
        accepted += sum(d.draft.accepted for d in found if d.draft)
        proposed += sum(d.draft.proposed for d in found if d.draft)
    kept = {name: each[1:] for name, each in rates.items()}
    ratio = statistics.median(b / a for a, b in zip(kept["without"], kept["with"], strict=True))
    return {"rates": kept, "ratio": ratio, "accepted": accepted, "proposed": proposed}


def weights(shape: Shape) -> int:
    """That a token reads."""
    return sum(math.prod(size) for name, size in shape.tensors() if shape.tied or name != "model.embed_tokens.weight")


def parameters(folder: Path) -> int:
    """Of a checkpoint; of one whose head is tied to its embedding, what a token reads."""
    return sum(math.prod(entry["shape"]) for entry in Folder(folder).header.values() if "shape" in entry)


def draft_shape(shape: Shape, share: float) -> Shape:
    """Half as wide, with as many layers as make it that share of the weights that the shape reads."""
    half = replace(shape, hidden=shape.hidden // 2, heads=shape.heads // 2, ffn=shape.ffn // 2, tied=True)
    sizes = [weights(replace(half, layers=n)) for n in range(1, shape.layers)]
    return replace(half, layers=1 + min(range(len(sizes)), key=lambda i: abs(sizes[i] - share * weights(shape))))


def beginnings(texts: Path, student: Path, sequences: int, length: int) -> list[list[int]]:
    """Of the documents that training holds out."""
    documents = split_documents(texts.read_text(encoding="utf-8"))
    held_out = documents[-math.ceil(len(documents) / 20) :]
    with fastlm.load(student) as model:
        assert model.tokenizer is not None
        return [model.tokenizer.encode(text)[:length] for text in held_out[:sequences]]


def trained(args: argparse.Namespace, shape: Shape) -> None:
    """The table's rows of a teacher, its student, a draft that is always wrong, and lookups."""
    share = parameters(args.student) / parameters(args.teacher)
    small = draft_shape(shape, share)
    print(f"student: 1 / {1 / share:.1f} of it; draft, 1 / {weights(shape) / weights(small):.1f}: {small}")
    cache, options = args.cache, {"dtype": FORMATS[args.bits], "context": 2048}
    target = write_padded(cache / f"{args.shape}-teacher", args.teacher, shape)
    own = write_padded(cache / f"{args.shape}-student", args.student, small)
    other = write_checkpoint(cache / f"{args.shape}-strange", small, seed=5)
    with ExitStack() as stack:
        model = stack.enter_context(fastlm.load(target, threads=args.threads, **options))
        opened = [stack.enter_context(fastlm.load(f, beside=model, **options)) for f in (own, other)]
        drafts = {"distilled": fastlm.Draft(opened[0]), "wrong": fastlm.Draft(opened[1]), "lookup": fastlm.Lookup()}
        for sequences in args.sequences:
            prompts = beginnings(args.texts, args.student, sequences, args.prompt)
            for which in args.drafts or drafts:
                print(line(which, sequences, compare(model, prompts, drafts[which], args)), flush=True)


def line(name: str, sequences: int, found: Json) -> str:
    plain, drafted = (statistics.median(found["rates"][which]) for which in ("without", "with"))
    parts = [b / a for a, b in zip(found["rates"]["without"], found["rates"]["with"], strict=True)]
    won = f"{found['ratio']:.2f} ({min(parts):.2f} - {max(parts):.2f})"
    share = f"{found['accepted']} of {found['proposed']}"
    return f"| {name} | {sequences} | {plain:.1f} | {drafted:.1f} | {won} | {share} |"


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
    parser.add_argument("--temperature", type=float, default=0.0, help="texts that are drawn repeat nothing (0)")
    parser.add_argument("--share", type=float, default=0.1, help="of the honest target's later layers")
    parser.add_argument("--cache", type=Path, default=Path(".benchmarks"))
    parser.add_argument("--out", type=Path, help="a JSON file for the figures of all runs")
    parser.add_argument("--teacher", type=Path, help="a trained Llama, to be measured in the shape's clothes")
    parser.add_argument("--student", type=Path, help="one that was distilled from it")
    parser.add_argument("--texts", type=Path, help="that held documents out")
    parser.add_argument("--drafts", nargs="+", help="only these (all)")
    args = parser.parse_args()
    shape, found = SHAPES[args.shape], {}
    print("| draft | sequences | tokens/s without | with | ratio | accepted |\n|---|---|---|---|---|---|")
    if args.teacher:
        trained(args, shape)
        return
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
                if args.drafts and which not in args.drafts:
                    continue
                for sequences in args.sequences:
                    prompts = prompts_of(shape, sequences, 16)
                    if name == "copy":
                        prompts = [done.token_ids for done in turn(model, prompts, args.prompt, None)[1]]
                    result = compare(model, prompts, draft, args)
                    found[f"{which} {sequences}"] = result
                    print(line(which, sequences, result), flush=True)
    if args.out:
        args.out.write_text(json.dumps({"shape": args.shape, "bits": args.bits, **found}, indent=2))
    sys.exit(0)


if __name__ == "__main__":
    main()
