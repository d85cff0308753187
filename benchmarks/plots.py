"""Bars as SVG: how many times as fast as the best of each peer fastlm is."""

from __future__ import annotations

from html import escape
from pathlib import Path
from typing import Any

from .report import Table

WIDTH, LABEL, BAR, GAP = 860, 300, 16, 6  # pixels
COLOURS = {"llama.cpp": "#4878a8", "openvino": "#e49444", "ctranslate2": "#6a9f58", "transformers": "#a87c9f"}
OTHER = "#85726b"
FONT = 'font-family="sans-serif" font-size="12"'


def bars(title: str, rows: list[tuple[str, str, float]]) -> str:
    """Rows of (label, engine, ratio); a line marks equal speed."""
    top = 34
    scale = (WIDTH - LABEL - 70) / max(ratio for _, _, ratio in rows)
    height = top + len(rows) * (BAR + GAP) + 10
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" {FONT}>',
        f'<rect width="{WIDTH}" height="{height}" fill="white"/>',
        f'<text x="10" y="20" font-size="14">{escape(title)}</text>',
    ]
    for i, (label, engine, ratio) in enumerate(rows):
        y = top + i * (BAR + GAP)
        length, colour = ratio * scale, COLOURS.get(engine, OTHER)
        lines += [
            f'<text x="{LABEL - 8}" y="{y + 12}" text-anchor="end">{escape(label)}</text>',
            f'<rect x="{LABEL}" y="{y}" width="{length:.1f}" height="{BAR}" fill="{colour}"/>',
            f'<text x="{LABEL + length + 6:.1f}" y="{y + 12}">{ratio:.2f}</text>',
        ]
    one = LABEL + scale
    lines.append(f'<line x1="{one:.1f}" x2="{one:.1f}" y1="{top - 4}" y2="{height - 8}" stroke="black"/>')
    return "\n".join([*lines, "</svg>", ""])


def write(page: Path, results: dict[str, Any]) -> None:
    """One picture beside the page: best format of fastlm / best of each peer, for every model and work."""
    rows = []
    for model in dict.fromkeys(run["model"] for run in results["runs"]):
        table = Table([run for run in results["runs"] if run["model"] == model])
        for work in table.works:
            ratios = {engine: table.best_ratio(work, engine) for engine in table.peers}
            rows += [(f"{model}, {work}: {engine}", engine, ratio) for engine, ratio in ratios.items() if ratio]
    if rows:
        page.with_suffix(".svg").write_text(bars("How many times as fast fastlm is, best format of each", rows))
