"""The 8-bit and 4-bit block formats that quantised models are usually compared with, from their definitions, in NumPy.

Q8_0: blocks of 32 numbers, d * code, d float16 (8.5 bits a number).
Q4_K: blocks of 256 in eight groups of 32, d * scale * code - dmin * min; code 0 .. 15, a group's scale and min 0 .. 63,
d and dmin float16 (4.5 bits a number).
"""

from __future__ import annotations

import numpy as np


def _half(x: np.ndarray) -> np.ndarray:
    return x.astype(np.float16).astype(np.float64)


def q8_0(x: np.ndarray) -> np.ndarray:
    """Rows of 32 n numbers as float64, after a trip through Q8_0."""
    blocks = x.astype(np.float64).reshape(-1, 32)
    d = np.abs(blocks).max(axis=1, keepdims=True) / 127
    codes = np.rint(np.divide(blocks, d, where=d > 0, out=np.zeros_like(blocks)))
    return (_half(d) * codes).reshape(x.shape)


def _codes(x: np.ndarray, scale: np.ndarray, low: np.ndarray) -> np.ndarray:
    scaled = np.divide(x - low, scale, where=scale > 0, out=np.zeros_like(x))
    return np.clip(np.rint(scaled), 0, 15)


def _fit_groups(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Scale and lowest number (<= 0) of each group [.., 32] that give a small squared error: the best of many fits."""
    low = np.minimum(x.min(axis=-1, keepdims=True), 0)
    spread = x.max(axis=-1, keepdims=True) - low
    best, best_low = spread / 15, low
    error = ((_codes(x, best, best_low) * best + best_low - x) ** 2).sum(axis=-1, keepdims=True)
    for steps in np.linspace(14, 16.5, 26):
        codes = _codes(x, spread / steps, low)
        n, c, cc = x.shape[-1], codes.sum(-1, keepdims=True), (codes**2).sum(-1, keepdims=True)
        sx, cx = x.sum(-1, keepdims=True), (codes * x).sum(-1, keepdims=True)
        determinant = n * cc - c * c
        ok = determinant > 0
        scale = np.divide(n * cx - c * sx, determinant, where=ok, out=spread / 15)
        base = np.divide(cc * sx - c * cx, determinant, where=ok, out=low.copy())
        alone = np.divide(cx, cc, where=cc > 0, out=spread / 15)  # with a lowest number of 0
        scale, base = np.where(base > 0, alone, scale), np.minimum(base, 0)
        new = ((_codes(x, scale, base) * scale + base - x) ** 2).sum(axis=-1, keepdims=True)
        better = (new < error) & (scale > 0)
        best, best_low, error = (np.where(better, a, b) for a, b in ((scale, best), (base, best_low), (new, error)))
    return best, best_low


def q4_k(x: np.ndarray) -> np.ndarray:
    """Rows of 256 n numbers as float64, after a trip through Q4_K."""
    groups = x.astype(np.float64).reshape(-1, 8, 32)
    scale, low = _fit_groups(groups)
    d, dmin = (_half(a.max(axis=1, keepdims=True) / 63) for a in (scale, -low))
    steps, mins = (
        np.clip(np.rint(np.divide(a, unit, where=unit > 0, out=np.zeros_like(a))), 0, 63)
        for a, unit in ((scale, d), (-low, dmin))
    )
    scale, low = d * steps, -dmin * mins
    return (_codes(groups, scale, low) * scale + low).reshape(x.shape)
