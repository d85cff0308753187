"""Adapters with random numbers, for the models of random_models.py."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from fastlm import _core
from fastlm.weights.lora import Change

RANKS = (1, 3, 16, 17, 33)
FIXED = (".embed.positions", ".embed.types", ".experts.", ".router")


def changes(model: _core.Model, seed: int, *, tied: bool = True) -> list[Change]:
    """One for each matrix that an adapter may change, about half as large as it, and now and then a gain and a bias;
    and for some norms.

    tied: also for the tokens' table, and for a head that is tied to it.
    """
    rng = np.random.default_rng(seed)
    shapes = {t.name: (t.rows, t.cols) for t in model.tensors() if t.is_matrix and not any(f in t.name for f in FIXED)}
    tokens = shapes.pop("embed.tokens")
    found = [_change(rng, name, *shape, plain=False) for name, shape in shapes.items()]
    norms = {t.name: t.cols for t in model.tensors() if "norm." in t.name and rng.random() < 0.3}
    found += [Change(name, whole=1 + _small(rng, 1, n)) for name, n in norms.items()]
    if tied:
        found.append(_change(rng, "embed.tokens", *tokens[::-1], plain=True))
        if "head.weight" not in shapes:
            found.append(_change(rng, "head.weight", *tokens, plain=False))
    return found


def _small(rng: np.random.Generator, *shape: int) -> np.ndarray:
    return np.float32(0.2) * rng.standard_normal(shape, dtype=np.float32)


def _change(rng: np.random.Generator, name: str, rows: int, cols: int, *, plain: bool) -> Change:
    rank, scale = int(rng.choice(RANKS)), float(rng.choice([0.5, 1.0, 2.0]))
    a = rng.standard_normal((rank, cols), dtype=np.float32)
    b = rng.standard_normal((rows, rank), dtype=np.float32) * np.float32(0.5 / scale * (rank * cols) ** -0.5)
    gain = bias = None
    if not plain and rng.random() < 0.3:
        gain = 1 + _small(rng, rows)
    if not plain and rng.random() < 0.3:
        bias = _small(rng, rows)
    if not plain and rng.random() < 0.1:
        whole = rng.standard_normal((rows, cols), dtype=np.float32) * np.float32(cols**-0.5)
        return Change(name, whole=whole, bias=bias)
    return Change(name, rank, scale, a, b, gain=gain, bias=bias)


def merged(weights: Mapping[str, np.ndarray], adapter: list[Change]) -> dict[str, np.ndarray]:
    """What the matrices of an adapted model are, in float64; biases only where the model has some."""
    found = dict(weights)
    for change in adapter:
        w = found[change.site]
        if change.whole is not None:
            w = change.whole.astype(np.float64).reshape(w.shape)
        if change.a is not None and change.b is not None:
            delta = change.scale * (change.b.astype(np.float64) @ change.a.astype(np.float64))
            w = w + (delta.T if change.site == "embed.tokens" else delta)
        if change.gain is not None:
            w = w * change.gain[:, None].astype(np.float64)
        found[change.site] = w
        if change.bias is not None:
            found[change.site + ".bias"] = found[change.site + ".bias"] + change.bias
    return found
