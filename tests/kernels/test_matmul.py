"""Products against float64, and one order of summation whatever the tile."""

from __future__ import annotations

import ctypes

import numpy as np
import pytest
from kernel_harness import EPS, FORMATS, Guarded, Kernels, Packed, address, same_bits

RNG_SEED = 20


def multiply(
    kernels: Kernels, guarded: Guarded, w: Packed, x: np.ndarray, *, strips: tuple[int, int] | None = None
) -> np.ndarray:
    """y [tokens, 16 * strips]; outputs of strips not asked for stay NaN."""
    first, last = strips or (0, w.strips)
    rows = guarded.copy(x)
    y = guarded.empty((len(x), 16 * w.strips))
    kernels.matmul[w.matrix.format](
        ctypes.byref(w.matrix), first, last, address(rows), x.shape[1], len(x), address(y), y.shape[1]
    )
    return y


def check_close(y: np.ndarray, w: Packed, x: np.ndarray) -> None:
    """A chain of K fused (or separately rounded) steps errs by at most about K units of the largest partial sum."""
    exact = x.astype(np.float64) @ w.dense.T.astype(np.float64)
    size = np.abs(x).astype(np.float64) @ np.abs(w.dense).T.astype(np.float64)
    bound = (x.shape[1] + 1) * EPS * size + 1e-37
    assert np.all(np.abs(y[:, : exact.shape[1]] - exact) <= bound)


@pytest.mark.parametrize("name", FORMATS)
def test_every_length(kernels: Kernels, kernel_library: ctypes.CDLL, guarded: Guarded, name: str) -> None:
    rng = np.random.default_rng(RNG_SEED)
    for cols in range(1, 301):
        rows, n_tokens = 1 + cols * 7 % 83, 1 + cols % 17
        w = Packed(kernel_library, guarded, FORMATS[name], rng.standard_normal((rows, cols)))
        x = rng.standard_normal((n_tokens, cols)).astype(np.float32)
        check_close(multiply(kernels, guarded, w, x), w, x)


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("shape", [(1, 1), (15, 64), (33, 65), (112, 130), (176, 31)])
def test_same_bits_in_any_company(
    kernels: Kernels, kernel_library: ctypes.CDLL, guarded: Guarded, name: str, shape: tuple[int, int]
) -> None:
    rng = np.random.default_rng(RNG_SEED)
    w = Packed(kernel_library, guarded, FORMATS[name], rng.standard_normal(shape))
    x = rng.standard_normal((40, shape[1])).astype(np.float32)
    alone = np.concatenate([multiply(kernels, guarded, w, row[None]) for row in x])
    check_close(alone, w, x)
    for n_tokens in [*range(2, 18), 23, 40]:
        assert same_bits(multiply(kernels, guarded, w, x[:n_tokens]), alone[:n_tokens]), n_tokens
    for first in range(w.strips):
        for last in range(first + 1, w.strips + 1):
            n_tokens = 1 + (3 * first + last) % 14
            part = multiply(kernels, guarded, w, x[:n_tokens], strips=(first, last))
            assert same_bits(part[:, 16 * first : 16 * last], alone[:n_tokens, 16 * first : 16 * last])
            assert np.all(np.isnan(part[:, : 16 * first])) and np.all(np.isnan(part[:, 16 * last :]))


@pytest.mark.parametrize("name", FORMATS)
def test_strided_rows(kernels: Kernels, kernel_library: ctypes.CDLL, guarded: Guarded, name: str) -> None:
    """Rows of x and y that are parts of longer rows."""
    rng = np.random.default_rng(RNG_SEED)
    w = Packed(kernel_library, guarded, FORMATS[name], rng.standard_normal((37, 29)))
    x = rng.standard_normal((9, 29)).astype(np.float32)
    wide_x, wide_y = guarded.empty((9, 41)), guarded.empty((9, 61))
    wide_x[:, :29] = x
    kernels.matmul[w.matrix.format](ctypes.byref(w.matrix), 0, 3, address(wide_x), 41, 9, address(wide_y), 61)
    assert same_bits(wide_y[:, :48], multiply(kernels, guarded, w, x))
    assert np.all(np.isnan(wide_y[:, 48:]))


@pytest.mark.parametrize("name", FORMATS)
def test_long_sums_and_extreme_scales(
    kernels: Kernels, kernel_library: ctypes.CDLL, guarded: Guarded, name: str
) -> None:
    rng = np.random.default_rng(RNG_SEED)
    for scale in (1e-4, 1.0, 1e4):
        w = Packed(kernel_library, guarded, FORMATS[name], scale * rng.standard_normal((48, 2048)))
        x = (rng.standard_normal((14, 2048)) * np.exp(rng.uniform(-12, 12, (14, 2048)))).astype(np.float32)
        check_close(multiply(kernels, guarded, w, x), w, x)


@pytest.mark.parametrize("name", FORMATS)
def test_unpack_row(kernels: Kernels, kernel_library: ctypes.CDLL, guarded: Guarded, name: str) -> None:
    rng = np.random.default_rng(RNG_SEED)
    for cols in (1, 2, 7, 8, 15, 16, 33, 130):
        w = Packed(kernel_library, guarded, FORMATS[name], rng.standard_normal((19, cols)))
        for row in (0, 5, 15, 16, 18):
            out = guarded.empty(cols)
            kernels.unpack_row[FORMATS[name]](ctypes.byref(w.matrix), row, address(out))
            assert same_bits(out, w.dense[row])
