"""Vectors of hidden states: pooled, and what the modules of a sentence-transformers folder make of them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from fastlm.errors import NumericError
from fastlm.weights.modules import Dense, LayerNorm, Pooling, Step

Array = NDArray[np.float32]
Values = TypeVar("Values", NDArray[np.float32], NDArray[np.float64])
TINY = np.float32(1e-12)  # below which a vector has no direction
EPSILON = np.float32(1e-5)  # of torch's LayerNorm

_erf = np.vectorize(math.erf, otypes=[np.float64])


def pool(hidden: Array, pooling: Pooling, prompt: int = 0) -> Array:
    """One vector of hidden states (tokens, D), as sentence-transformers' Pooling.

    prompt: tokens at the beginning that the prompt has, fewer than all.
    """
    skipped = 0 if pooling.include_prompt else prompt
    return np.concatenate([_pool(hidden[skipped:], mode, skipped) for mode in pooling.modes])


def _pool(rows: Array, mode: str, skipped: int) -> Array:
    n = np.float32(len(rows))
    if mode in ("cls", "lasttoken"):
        found = rows[0 if mode == "cls" else -1]
    elif mode == "max":
        found = rows.max(axis=0)
    elif mode == "weightedmean":  # by the tokens' places
        places = np.arange(skipped + 1, skipped + len(rows) + 1, dtype=np.float32)
        found = (rows * places[:, None]).sum(axis=0) / places.sum()
    else:
        found = rows.sum(axis=0) / (n if mode == "mean" else np.sqrt(n))
    return np.asarray(found)


def advance(vectors: Array, steps: Sequence[Step]) -> Array:
    """Vectors (n, D) through some steps, each for itself, so that no bit depends on the others.

    Raises
    ------
    NumericError
        What comes out is NaN or infinite.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        for step in steps:
            if isinstance(step, Dense):
                vectors = _dense(vectors, step)
            elif isinstance(step, LayerNorm):
                vectors = _layer_norm(vectors, step)
            else:
                vectors = unit(vectors)
    if steps and not np.isfinite(vectors).all():
        raise NumericError("the modules behind the model give vectors that are NaN or infinite")
    return vectors


def unit(vectors: Array) -> Array:
    """Each row divided by its length."""
    lengths = np.sqrt(np.einsum("nd,nd->n", vectors, vectors))
    return np.asarray(vectors / np.maximum(lengths, TINY)[:, None], np.float32)


def _dense(vectors: Array, step: Dense) -> Array:
    found = activated(_product(vectors, step.weight, step.bias), step.activation)
    if not step.adds:
        return found
    return found + (vectors if step.residual is None else _product(vectors, step.residual, None))


def _product(vectors: Array, weight: Array, bias: Array | None) -> Array:
    """Row by row: a product of many rows at once adds in an order that depends on how many there are."""
    found = np.empty((len(vectors), len(weight)), np.float32)
    for i, vector in enumerate(vectors):
        np.matmul(weight, np.ascontiguousarray(vector), out=found[i])
    return found if bias is None else found + bias


def _layer_norm(vectors: Array, step: LayerNorm) -> Array:
    x = vectors - vectors.mean(axis=1, keepdims=True)
    variance = (x * x).mean(axis=1, keepdims=True)
    return np.asarray(x / np.sqrt(variance + EPSILON) * step.weight + step.bias)


def activated(x: Values, name: str) -> Values:
    """One of torch.nn's activations, by its name in ACTIVATIONS."""
    found: Any = x
    if name == "Tanh":
        found = np.tanh(x)
    elif name == "ReLU":
        found = np.maximum(x, 0)
    elif name == "GELU":
        found = x * (1 + _erf(x / math.sqrt(2))) / 2
    elif name in ("Sigmoid", "SiLU"):
        gate = (1 + np.tanh(x / 2)) / 2
        found = gate if name == "Sigmoid" else x * gate
    return found.astype(x.dtype)  # type: ignore[no-any-return]
