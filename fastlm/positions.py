"""What positions do in the reference executor: rotations, and buckets of relative positions."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from fastlm.arch.spec import RelativeBias, RelativeVectors, Rope

Array = NDArray[np.float64]


def rope_angles(n_tokens: int, frequencies: Sequence[float]) -> Array:
    """(T, pairs) radians, rounded to float32 as in training: at position 10,000 that is worth up to 5e-4."""
    positions = np.arange(n_tokens, dtype=np.float32)
    return np.outer(positions, np.array(frequencies, dtype=np.float32)).astype(np.float64)


def rotate(x: Array, rope: Rope, long: bool) -> Array:
    """x (T, H, d): turn dimensions (i, i + pairs) of each head by the angle of the token's position."""
    long = long and rope.long_from > 0
    frequencies, scale = (rope.long_frequencies, rope.long_scale) if long else (rope.frequencies, rope.scale)
    n = len(frequencies)
    angles = rope_angles(len(x), frequencies)[:, None, :]  # (T, 1, pairs)
    cos, sin = scale * np.cos(angles), scale * np.sin(angles)
    a, b, rest = x[..., :n], x[..., n : 2 * n], x[..., 2 * n :]
    return np.concatenate([a * cos - b * sin, b * cos + a * sin, rest], axis=-1)


def relative_buckets(n_tokens: int, relative: RelativeBias) -> NDArray[np.int64]:
    """(T, T) bucket of (query, key): one per small distance, then logarithmically (in float32) wider ones.

    Bidirectional stacks use the lower half of the buckets for keys up to the query, the upper half for later ones.
    """
    distance = np.arange(n_tokens)[:, None] - np.arange(n_tokens)[None, :]  # query - key
    buckets, first = relative.buckets, np.zeros_like(distance)
    if relative.bidirectional:
        buckets //= 2
        first = np.where(distance < 0, buckets, 0)
        distance = np.abs(distance)
    distance = np.maximum(distance, 0)
    exact = buckets // 2
    ratio = np.log(np.maximum(distance, 1).astype(np.float32) / np.float32(exact))
    steps = ratio / np.float32(math.log(relative.max_distance / exact)) * np.float32(buckets - exact)
    far = np.minimum(exact + steps.astype(np.int64), buckets - 1)
    return np.asarray(first + np.where(distance < exact, distance, far))


def vector_buckets(n_tokens: int, v: RelativeVectors) -> NDArray[np.int64]:
    """(T, T) bucket of (query, key): exact near the query, then logarithmically (in float32) wider ones."""
    distance = np.arange(n_tokens)[None, :] - np.arange(n_tokens)[:, None]  # key - query
    steps, half = np.abs(distance), v.span // 2
    if v.max_distance:
        ratio = np.log(np.maximum(steps, half).astype(np.float32) / np.float32(half))
        ratio /= np.log(np.float32((v.max_distance - 1) / half))
        far = half + np.ceil(ratio * np.float32(half - 1)).astype(np.int64)
        steps = np.where(steps <= half, steps, far)
    return np.asarray(np.clip(v.span - 1 + np.sign(distance) * steps, 0, 2 * v.span - 1))
