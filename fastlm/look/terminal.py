"""Attention in letters: bars for one token, shaded cells for all of them."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator

import numpy as np

from fastlm.look.view import Array, Token, View, strongest

SHADES = " \u2591\u2592\u2593\u2588"  # light to dark
PLAIN_SHADES = " .:+#@"
MOST_BARS = 40  # of a longer text the tokens that are looked at most
LABEL = 14  # most columns of a token's name


def bars(view: View, matrix: Array, query: int, width: int, plain: bool) -> str:
    """What one token looks at, in the order of the text."""
    row, labels = matrix[query], [_label(token, plain) for token in view.keys]
    shown = sorted(np.argsort(-row, kind="stable")[:MOST_BARS].tolist())
    name = max(_width(labels[i]) for i in shown)
    room = max(width - name - len("  nnn    100.0 %  "), 4)
    mark, most = ("#" if plain else "\u2588"), max(float(row.max()), 1e-9)
    lines = [f"{_label(view.queries[query], plain)} ({query}) looks at"]
    for i in shown:
        bar = mark * round(room * float(row[i]) / most)
        lines.append(f"  {i:>3}  {_padded(labels[i], name)}  {100 * row[i]:5.1f} %  {bar}".rstrip())
    if len(shown) < len(row):
        lines.append(f"  and {len(row) - len(shown)} more tokens, at {100 * (1 - row[shown].sum()):.1f} % together")
    return "\n".join(lines) + "\n"


def cells(view: View, matrix: Array, width: int, plain: bool) -> str:
    """Each token a row, each token that is looked at a column; in several parts where they do not fit the width."""
    shades, most = (PLAIN_SHADES if plain else SHADES), strongest(view, matrix)
    labels = [_label(token, plain) for token in view.queries]
    name = max(map(_width, labels))
    left = name + len("  nnn  ")
    size = 2 if left + 2 * len(view.keys) <= width else 1
    at_once = max((width - left) // size, 1)
    lines = [f"rows look at columns; {shades[-1]} is {100 * most:.0f} % or more"]
    for begin in range(0, len(view.keys), at_once):
        end = min(begin + at_once, len(view.keys))
        lines += [" " * left + line for line in _numbers(begin, end, size)]
        for i, label in enumerate(labels):
            shaded = "".join(_shade(float(x) / most, shades) * size for x in matrix[i, begin:end])
            lines.append(f"  {i:>3}  {_padded(label, name)}{shaded}".rstrip())
    return "\n".join(lines) + "\n"


def _shade(share: float, shades: str) -> str:
    return shades[min(round(share * (len(shades) - 1)), len(shades) - 1)]


def _numbers(begin: int, end: int, size: int) -> Iterator[str]:
    """The columns' numbers, from top to bottom."""
    digits = len(str(end - 1))
    for place in range(digits):
        yield "".join(f"{i:>{digits}}"[place].ljust(size) for i in range(begin, end)).rstrip()


def _label(token: Token, plain: bool) -> str:
    """A token as it can be shown: on one line, of few columns."""
    text = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in token.text.strip() or repr(token.text))
    if plain:
        text = text.encode("ascii", "backslashreplace").decode()
    while _width(text) > LABEL:
        text = text[:-1]
    return text


def _width(text: str) -> int:
    """Columns that a terminal gives it."""
    wide = sum(unicodedata.east_asian_width(c) in "WF" for c in text)
    return len(text) + wide - sum(unicodedata.combining(c) > 0 for c in text)


def _padded(text: str, width: int) -> str:
    return text + " " * (width - _width(text))
