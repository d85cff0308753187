"""Attention as a picture: matplotlib draws it, which the extra `viz` brings."""

from __future__ import annotations

from io import BytesIO
from typing import Any

import numpy as np

from fastlm.errors import UnsupportedError
from fastlm.look.view import Array, Token, View

LETTER, GAP, LINE = 0.105, 0.1, 0.85  # inches: of a letter of a token's box, between boxes, from text to text
MOST_CELLS = 120  # tokens of a matrix whose names can be read


def picture(views: list[View], matrices: list[Array], queries: list[int] | None, title: str) -> bytes:
    """A PNG: what one token of each text looks at, or all tokens of one matrix each.

    Parameters
    ----------
    queries
        The token of each view; None: all.

    Raises
    ------
    UnsupportedError
        matplotlib is not installed, or a text is too long for a picture.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise UnsupportedError(f"a picture needs matplotlib: pip install 'fastlm[viz]' ({error})") from None
    longest = max(len(tokens) for view in views for tokens in (view.queries, view.keys))
    if longest > MOST_CELLS:
        raise UnsupportedError(
            f"a picture has room for {MOST_CELLS} tokens, not {longest}: write a page, whose name ends in .html"
        )
    draw = _matrices if queries is None else _sentences
    figure = draw(Figure, views, matrices, queries or [], title)
    file = BytesIO()
    figure.savefig(file, format="png", dpi=160, metadata={"Software": None})
    return file.getvalue()


def _sentences(figure_of: Any, views: list[View], matrices: list[Array], queries: list[int], title: str) -> Any:
    """Each text as a line of boxes, the darker the more its token is looked at."""
    boxes = [[_box(token) for token in view.keys] for view in views]
    width = max(sum(size + GAP for _, size in line) for line in boxes) + 2 * GAP
    height = 0.55 + LINE * len(views)
    figure = figure_of(figsize=(width, height))
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(0, width), ylim=(0, height))
    axes.axis("off")
    axes.text(GAP, height - 0.3, title, fontsize=10, color="#555555")
    for line, (view, matrix, query) in enumerate(zip(views, matrices, queries, strict=True)):
        x, y = GAP, height - 0.2 - LINE * (line + 1)
        over_itself = view.queries is view.keys
        if not over_itself:
            asking = f"{_box(view.queries[query])[0]} looks at"
            axes.text(GAP, y + 0.48, asking, fontsize=9, weight="bold", va="center")
        for i, (text, size) in enumerate(boxes[line]):
            asked = over_itself and i == query
            _draw_box(axes, x, y, size, float(matrix[query, i]), text, asked, view.keys[i].special)
            x += size + GAP
    return figure


def _box(token: Token) -> tuple[str, float]:
    text = token.text.strip().replace("$", r"\$") or repr(token.text)
    return text, LETTER * max(len(text), 4) + 0.12


def _draw_box(axes: Any, x: float, y: float, size: float, share: float, text: str, asked: bool, special: bool) -> None:
    from matplotlib.patches import FancyBboxPatch

    axes.add_patch(
        FancyBboxPatch(
            (x, y),
            size,
            0.36,
            boxstyle="round,pad=0,rounding_size=0.05",
            facecolor=(0.96, 0.62, 0.04, min(share, 1.0)),
            edgecolor="#1d4ed8" if asked else "#d4d4d8",
            linewidth=2 if asked else 0.6,
        )
    )
    color = "#8a8a8a" if special else "black"
    weight = "bold" if asked else "normal"
    axes.text(x + size / 2, y + 0.17, text, ha="center", va="center", fontsize=11, color=color, weight=weight)
    axes.text(x + size / 2, y - 0.12, f"{100 * share:.0f} %", ha="center", va="center", fontsize=7, color="#666666")


def _matrices(figure_of: Any, views: list[View], matrices: list[Array], queries: list[int], title: str) -> Any:
    """Each text's matrix: rows look at columns."""
    cells = max(len(view.keys) for view in views)
    size = 1.6 + 0.24 * cells
    figure = figure_of(figsize=(size * len(views), 0.88 * size), layout="constrained")
    figure.suptitle(title, fontsize=10, color="#555555")
    for i, (view, matrix) in enumerate(zip(views, matrices, strict=True), 1):
        axes = figure.add_subplot(1, len(views), i)
        plain = np.array([not token.special for token in view.keys])
        most = float(matrix[:, plain].max()) if plain.any() else float(matrix.max())
        image = axes.imshow(matrix, cmap="YlOrBr", vmin=0, vmax=most)
        axes.set_xticks(range(len(view.keys)), [_box(token)[0] for token in view.keys], rotation=90, fontsize=8)
        axes.set_yticks(range(len(view.queries)), [_box(token)[0] for token in view.queries], fontsize=8)
        figure.colorbar(image, ax=axes, shrink=0.6, label="share that rows look at columns")
    return figure
