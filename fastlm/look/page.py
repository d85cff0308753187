"""Attention as one HTML page, which needs nothing but itself: its data stand in it, its script (page.html) draws."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastlm.errors import ParameterError
from fastlm.look.view import Array, View

TEMPLATE = Path(__file__).with_name("page.html")
LEVELS = 65535  # of a stored share: a whole row is this
MOST_SHARES = 16 << 20  # in a page: some 45 MB


def page(texts: Sequence[Sequence[View]], title: str, chosen: dict[str, str | int | None]) -> bytes:
    """The page.

    Parameters
    ----------
    texts
        The views of each text.
    title
        Its heading: the model's name.
    chosen
        What it shows at first: "part", "layer", "head", "token". None: the mean, or no token.

    Raises
    ------
    ParameterError
        There are more shares than a page should hold.
    """
    shares = sum(layer.size for views in texts for view in views for layer in view.layers)
    if shares > MOST_SHARES:
        raise ParameterError(
            f"a page of {shares / 1e6:.0f} million shares would be {2.7 * shares / 1e6:.0f} MB: take fewer or "
            "shorter texts"
        )
    data = {"title": title, "chosen": chosen, "texts": [_text(views) for views in texts]}
    values = {"$TITLE": escape(title), "$DATA": _json(data)}  # put in at once: texts may hold such names
    template = TEMPLATE.read_text(encoding="utf-8")
    return re.sub(r"\$(TITLE|DATA)", lambda name: values[name[0]], template).encode()


def _text(views: Sequence[View]) -> dict[str, Any]:
    return {"text": views[0].text, "views": [_view(view) for view in views]}


def _view(view: View) -> dict[str, Any]:
    names = [[{"text": token.text, "special": token.special} for token in side] for side in (view.queries, view.keys)]
    layers = [base64.b64encode(_levels(layer).tobytes()).decode() for layer in view.layers]
    heads = [len(layer) for layer in view.layers]
    return {"part": view.part, "queries": names[0], "keys": names[1], "heads": heads, "data": layers}


def _levels(layer: Array) -> NDArray[np.uint16]:
    """Shares as whole numbers of 16 bits, the low byte first."""
    levels: NDArray[np.uint16] = np.rint(np.clip(layer, 0.0, 1.0) * LEVELS).astype("<u2")
    return levels


def _json(data: Any) -> str:
    """JSON that ends no element of the page and begins none, whatever its texts say."""
    text = json.dumps(data, ensure_ascii=True, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")
