"""Language models side by side on the same held-out text: n-gram, recurrent network, transformers.

    python examples/compare.py TEXT... --box FILE --teacher FOLDER --distilled FOLDER... [--plain FOLDER...] ...

examples/box.sh makes the folders. Writes compare.json (every figure; rows that it has are not measured again),
compare.png, and with --document and --card the figures between the two marks of docs/language-models.md and of the
model card. Needs `pip install fastlm[train,viz]`.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from gru import write_text
from kneser_ney import KneserNey

import fastlm
from fastlm.train.corpus import TextFile, bits_per_byte, read_texts
from fastlm.train.figures import Figures, measure, table
from fastlm.train.vocabulary import ModelCodec
from fastlm.weights.locate import locate

MARKS = ("<!-- figures: written by examples/compare.py -->", "<!-- end of figures -->")
PROMPT = "Once upon a time"
TEMPERATURE = 0.7
SAMPLE_TOKENS = 90
ORDERS = (3, 4, 5, 6)  # of the n-gram


@dataclass(frozen=True, slots=True, kw_only=True)
class Row(Figures):
    """One model's figures, and how it goes on after PROMPT."""

    sample: str


def ngram_row(files: Sequence[TextFile], codec: ModelCodec) -> Row:
    """The n-gram model over the box model's tokens, of the order that does best on the held-out text itself."""
    documents = [ids for file in files for ids in codec.documents(file.train)]
    found = []
    for order in ORDERS:
        model = KneserNey(documents, order=order, vocab=codec.size)

        def bits(text: str, model: KneserNey = model) -> float:
            return -float(model.log2_probabilities(codec.held_out(text)).sum())

        bits_of_files = [sum(bits(text) for text in file.held_out) for file in files]
        found.append((bits_per_byte(files, bits_of_files), order, model))
    best, order, model = min(found, key=lambda item: item[0]["all"])
    draw = np.random.default_rng(0)
    ids = codec.held_out(PROMPT).tolist()
    for _ in range(SAMPLE_TOKENS):
        p = model.following(np.array(ids)) ** (1 / TEMPERATURE)
        ids.append(int(draw.choice(len(p), p=p / p.sum())))
    written = codec.tokenizer.decode(ids)
    return Row(name=f"Kneser-Ney {order}-gram", parameters=model.size, bits=best, sample=written)


def gru_row(name: str, folder: Path) -> Row:
    """A recurrent network: its own log has the figures."""
    summary = json.loads((folder / "training.json").read_text())
    from safetensors import safe_open

    with safe_open(folder / "model.safetensors", "numpy") as weights:
        size = sum(math.prod(weights.get_slice(name).get_shape()) for name in weights.keys())  # noqa: SIM118
    sample = write_text(folder, summary["settings"], PROMPT, SAMPLE_TOKENS, TEMPERATURE, 0)
    return Row(name=name, parameters=size, bits=summary["log"][-1]["bits_per_byte"], sample=sample)


def transformer_row(name: str, files: Sequence[TextFile], path: Path, dtype: str) -> Row:
    """A checkpoint or .flm file in fastlm."""
    figures = measure(name, path, files, dtype=dtype, threads=1)
    with fastlm.load(path, dtype=dtype, threads=1) as model:
        written = model.generate(PROMPT, max_tokens=SAMPLE_TOKENS, temperature=TEMPERATURE, seed=0).text
    return Row(**asdict(figures), sample=PROMPT + written)


def samples(rows: Sequence[Row]) -> list[str]:
    """What each model makes of the same beginning."""
    lines = []
    for row in rows:
        quoted = "\n".join(f"> {line}" for line in row.sample.strip().split("\n"))
        lines += [f"**{row.name}**", "", quoted, ""]
    return lines


def draw(rows: Sequence[Row], path: Path) -> None:
    """Bits per byte as bars."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 0.45 * len(rows) + 1), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    names = [row.name for row in rows][::-1]
    values = [row.bits["all"] for row in rows][::-1]
    axes.barh(names, values, color="tab:blue")
    for at, value in enumerate(values):
        axes.text(value, at, f" {value:.3f}", va="center")
    axes.set_xlim(0, max(values) * 1.12)
    axes.set_xlabel("bits per byte of held-out text (less is better)")
    figure.savefig(path, dpi=120)


def put(document: Path, lines: Sequence[str]) -> None:
    """Replace what stands between the marks of a document."""
    text = document.read_text(encoding="utf-8")
    before, rest = text.split(MARKS[0])
    document.write_text(
        "\n".join([before + MARKS[0], "", *lines, MARKS[1]]) + rest.split(MARKS[1])[1], encoding="utf-8"
    )


def verdicts(rows: Mapping[str, Row]) -> list[str]:
    """What the figures say of the box model: beside the others, of its teacher, and of its format."""

    def all_of(kind: str) -> list[float]:
        return [row.bits["all"] for key, row in rows.items() if key.startswith(kind)]

    def told(values: Sequence[float]) -> str:
        return " and ".join(f"{value:.4f}" for value in values)

    whole, box = all_of("distilled")[0], rows["box"].bits["all"]
    lines = [f"- The box model takes {box:.4f} bits per byte:"]
    others = {"the n-gram model": all_of("n-gram"), "the better recurrent network": all_of("gru")}
    lines += [f"  {100 * (1 - box / min(bits)):.1f} % less than {name}," for name, bits in others.items() if bits]
    lines += [f"  and {100 * (box / whole - 1):+.2f} % against the student that it was converted from."]
    if all_of("plain"):
        with_teacher, without = told(all_of("distilled")), told(all_of("plain"))
        lines.append(f"- The student in float32, by seeds, with the teacher: {with_teacher}; without: {without}.")
    return lines


def jobs_of(args: argparse.Namespace, files: Sequence[TextFile]) -> dict[str, Callable[[], Row]]:
    """How to get the row of each model, the transformers in float32 but for the box model's other formats."""
    codec = ModelCodec(locate(args.distilled[0]))
    jobs: dict[str, Callable[[], Row]] = {"n-gram": lambda: ngram_row(files, codec)}
    for path in args.gru:
        jobs[f"gru {path.name}"] = lambda path=path: gru_row(f"GRU ({path.name})", path)  # type: ignore[misc]
    folders: dict[str, tuple[str, Path, str]] = {}
    if args.stories260k:
        folders["stories260k"] = ("stories260k (has seen TinyStories)", args.stories260k, "float32")
    folders["box"] = (f"the box model ({args.box.name})", args.box, "auto")
    for dtype in args.dtypes:
        folders[f"format {dtype}"] = (f"{args.distilled[0].name}, {dtype}", args.distilled[0], dtype)
    for kind, paths in (("distilled", args.distilled), ("plain", args.plain), ("teacher", [args.teacher])):
        for path in paths:
            folders[f"{kind} {path.name}"] = (f"{path.name}, float32", path, "float32")
    for key, (name, path, dtype) in folders.items():
        jobs[key] = lambda name=name, path=path, dtype=dtype: transformer_row(name, files, path, dtype)  # type: ignore[misc]
    return jobs


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("texts", nargs="+", type=Path)
    parser.add_argument("--weights", type=float, nargs="+", default=[], help="of the texts, as in training")
    parser.add_argument("--teacher", type=Path, required=True)
    parser.add_argument(
        "--distilled", type=Path, nargs="+", required=True, help="students; of the first is the box model"
    )
    parser.add_argument("--plain", type=Path, nargs="*", default=[], help="the same students without the teacher")
    parser.add_argument("--gru", type=Path, nargs="*", default=[], help="recurrent networks by examples/gru.py")
    parser.add_argument("--stories260k", type=Path)
    parser.add_argument("--box", type=Path, required=True, help="the .flm file that ships")
    parser.add_argument("--dtypes", nargs="*", default=[], help="formats to try on the first student")
    parser.add_argument("--work", type=Path, default=Path("compare"), help="folder for compare.json and compare.png")
    parser.add_argument("--document", type=Path, help="where to put picture, figures and samples")
    parser.add_argument("--card", type=Path, help="where to put the figures alone")
    return parser.parse_args()


def main() -> None:
    args = parsed()
    args.work.mkdir(parents=True, exist_ok=True)
    files = read_texts(args.texts, args.weights)
    found = measured(jobs_of(args, files), args.work / "compare.json")
    rows = list(found.values())
    figures = [*table(rows), "", *verdicts(found), ""]
    print("\n".join(figures))
    draw(rows, args.work / "compare.png")
    if args.document:
        picture = args.document.with_suffix(".png")
        draw(rows, picture)
        put(args.document, [f"![bits per byte]({picture.name})", "", *figures, *samples(rows)])
    if args.card:
        put(args.card, figures)


def measured(jobs: dict[str, Callable[[], Row]], path: Path) -> dict[str, Row]:
    """A row of each job; those that the file has are taken from there."""
    known: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    for key, job in jobs.items():
        if key not in known:
            known[key] = asdict(job())
            path.write_text(json.dumps(known, indent=1) + "\n")
    return {key: Row(**known[key]) for key in jobs}


if __name__ == "__main__":
    main()
