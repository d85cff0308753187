"""The model card, and the learning curves as a picture."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fastlm.train.figures import Figures, table
from fastlm.train.loop import State

CURVES = "curves.png"


@dataclass(frozen=True, slots=True)
class Card:
    """What a model card says."""

    what: str  # first sentence: what this is, and of which models it was made
    parameters: int
    settings: Mapping[str, Any]
    state: State
    figures: Sequence[Figures] = ()  # of models side by side


def write_report(folder: Path, card: Card) -> None:
    """README.md, and curves.png where matplotlib is installed."""
    drawn = draw_curves(folder / CURVES, card.state.log)
    (folder / "README.md").write_text(card_text(card, drawn), encoding="utf-8")


def card_text(card: Card, drawn: bool) -> str:
    """The card in Markdown, with the metadata that the Hugging Face hub reads in front."""
    last = card.state.log[-1]
    texts = card.settings.get("texts", [])
    options = {k: v for k, v in card.settings.items() if k not in ("texts", "command") and v is not None}
    lines = [
        "---",
        "library_name: transformers",
        "pipeline_tag: text-generation",
        "---",
        "",
        f"# {card.what}",
        "",
        f"{card.parameters:,} parameters. Written by `fastlm {card.settings['command']}`.",
        "",
        "## Held-out text",
        "",
        "The last 5 % of each file's documents, never trained on.",
        "",
        "| text | bits per byte |",
        "|---|---|",
        *(f"| {name} | {bits:.4f} |" for name, bits in last["bits_per_byte"].items()),
        *(_side_by_side(card) if card.figures else []),
        "",
        "## Training",
        "",
        f"{last['step']} steps in {card.state.seconds / 60:.0f} minutes; training loss at the end:"
        f" {last['loss']:.4f} nats per token.",
        *(["", f"![curves]({CURVES})"] if drawn else []),
        "",
        "| text | shown per epoch | SHA-256 |",
        "|---|---|---|",
        *(f"| {text['name']} | {text['weight']:g} | {text['sha256'][:16]} |" for text in texts),
        "",
        "| option | value |",
        "|---|---|",
        *(f"| {name} | {value} |" for name, value in options.items()),
        "",
        "## Limits",
        "",
        "It knows the texts above and nothing else. Say here under which licence they may be used.",
        "",
    ]
    return "\n".join(lines)


def _side_by_side(card: Card) -> list[str]:
    threads = card.settings["threads"]
    note = f"Measured in fastlm, weights as they are stored, {threads} thread{'s' * (threads > 1)}:"
    return ["", "## Side by side", "", note, "", *table(card.figures)]


def draw_curves(path: Path, log: list[dict[str, Any]]) -> bool:
    """Loss and held-out bits per byte over the steps; False where matplotlib is missing."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        return False
    figure = Figure(figsize=(7, 3.5), layout="constrained")
    FigureCanvasAgg(figure)
    left = figure.add_subplot()
    steps = [entry["step"] for entry in log]
    left.plot(steps, [entry["loss"] or math.nan for entry in log], color="tab:gray", label="training loss")
    left.set_xlabel("step")
    left.set_ylabel("training loss, nats per token")
    right = left.twinx()
    for name in log[-1]["bits_per_byte"]:
        bold = 2.0 if name == "all" else 0.8
        right.plot(steps, [entry["bits_per_byte"][name] for entry in log], linewidth=bold, label=f"held out: {name}")
    right.set_ylabel("held-out bits per byte")
    figure.legend(loc="outside upper center", ncols=3, fontsize="small")
    figure.savefig(path, dpi=120)
    return True
