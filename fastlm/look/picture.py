"""Attention as a picture: matplotlib draws it, which the extra `viz` brings."""

from __future__ import annotations

from io import BytesIO
from typing import Any

from fastlm.errors import UnsupportedError
from fastlm.look.view import Array, Token, View, strongest

LETTER, GAP, LINE = 0.105, 0.1, 0.85  # inches: of a letter of a token's box, between boxes, from line to line
WIDTH = 12.0  # inches, after which a text goes on in the next line
CELL, NAMES = 0.24, 1.6  # inches of a cell of a matrix, and of the names beside it
MOST_CELLS = 120  # of all matrices, side by side
LONGEST = 24  # letters of a token


def picture(views: list[View], matrices: list[Array], queries: list[int] | None, title: str) -> bytes:
    """A PNG: what one token of each text looks at, or all tokens of one matrix each.

    Parameters
    ----------
    queries
        The token of each view; None: all.

    Raises
    ------
    UnsupportedError
        matplotlib is not installed, or there are too many tokens for a picture.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise UnsupportedError(f"a picture needs matplotlib: pip install matplotlib ({error})") from None
    count = max(len(view.queries) for view in views), sum(len(view.keys) for view in views)
    if max(count) > MOST_CELLS:
        raise UnsupportedError(
            f"a picture has room for {MOST_CELLS} tokens, not {max(count)}: write a page, whose name ends in .html"
        )
    if queries is None:
        figure = _matrices(Figure, views, matrices, title)
    else:
        figure = _sentences(Figure, views, matrices, queries, title)
    file = BytesIO()
    figure.savefig(file, format="png", dpi=160, metadata={"Software": None})
    return file.getvalue()


def _sentences(figure_of: Any, views: list[View], matrices: list[Array], queries: list[int], title: str) -> Any:
    """Each text as lines of boxes, the darker the more its token is looked at."""
    lines = [(at, line) for at, view in enumerate(views) for line in _lines(view)]
    width = max(sum(_width(views[at].keys[i]) + GAP for i in line) for at, line in lines) + GAP
    height = 0.55 + LINE * len(lines)
    figure = figure_of(figsize=(width, height))
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(0, width), ylim=(0, height))
    axes.axis("off")
    axes.text(GAP, height - 0.3, title, fontsize=10, color="#555555", parse_math=False)
    for number, (at, line) in enumerate(lines, 1):
        view, query, x, y = views[at], queries[at], GAP, height - 0.2 - LINE * number
        over_itself = view.queries is view.keys
        if not over_itself and line[0] == 0:
            asking = f"{_name(view.queries[query])} looks at"
            axes.text(GAP, y + 0.48, asking, fontsize=9, weight="bold", va="center", parse_math=False)
        for i in line:
            _draw_box(axes, x, y, view.keys[i], float(matrices[at][query, i]), over_itself and i == query)
            x += _width(view.keys[i]) + GAP
    return figure


def _lines(view: View) -> list[list[int]]:
    """The keys, line by line."""
    lines: list[list[int]] = [[]]
    used = 0.0
    for i, token in enumerate(view.keys):
        if lines[-1] and used + _width(token) > WIDTH:
            lines, used = [*lines, []], 0.0
        lines[-1].append(i)
        used += _width(token) + GAP
    return lines


def _name(token: Token) -> str:
    return (token.text.strip() or repr(token.text))[:LONGEST]


def _width(token: Token) -> float:
    return LETTER * max(len(_name(token)), 4) + 0.12


def _draw_box(axes: Any, x: float, y: float, token: Token, share: float, asked: bool) -> None:
    from matplotlib.patches import FancyBboxPatch

    width = _width(token)
    axes.add_patch(
        FancyBboxPatch(
            (x, y),
            width,
            0.36,
            boxstyle="round,pad=0,rounding_size=0.05",
            facecolor=(0.96, 0.62, 0.04, min(share, 1.0)),
            edgecolor="#1d4ed8" if asked else "#d4d4d8",
            linewidth=2 if asked else 0.6,
        )
    )
    place = {"ha": "center", "va": "center", "parse_math": False}
    color, weight = "#8a8a8a" if token.special else "black", "bold" if asked else "normal"
    axes.text(x + width / 2, y + 0.17, _name(token), fontsize=11, color=color, weight=weight, **place)
    axes.text(x + width / 2, y - 0.12, f"{100 * share:.0f} %", fontsize=7, color="#666666", **place)


def _matrices(figure_of: Any, views: list[View], matrices: list[Array], title: str) -> Any:
    """Each text's matrix: rows look at columns. All have one scale, on which special tokens may be off."""
    size = NAMES + CELL * max(len(view.keys) for view in views)
    figure = figure_of(figsize=(size * len(views), 0.88 * size), layout="constrained")
    figure.suptitle(title, fontsize=10, color="#555555", parse_math=False)
    most = max(strongest(view, matrix) for view, matrix in zip(views, matrices, strict=True))
    names = {"fontsize": 8, "parse_math": False}
    for i, (view, matrix) in enumerate(zip(views, matrices, strict=True), 1):
        axes = figure.add_subplot(1, len(views), i)
        image = axes.imshow(matrix, cmap="YlOrBr", vmin=0, vmax=most)
        axes.set_xticks(range(len(view.keys)), [_name(token) for token in view.keys], rotation=90, **names)
        axes.set_yticks(range(len(view.queries)), [_name(token) for token in view.queries], **names)
        figure.colorbar(image, ax=axes, shrink=0.6, label="share that rows look at columns")
    return figure
