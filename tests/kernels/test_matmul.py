"""Products against float64, and one order of summation whatever the tile."""

from __future__ import annotations

import ctypes

import numpy as np
import pytest
from kernel_harness import (
    BF16,
    EPS,
    FORMATS,
    TINY,
    Guarded,
    Kernels,
    Packed,
    address,
    multiply,
    quantize_inputs,
    rounded,
    same_bits,
)

RNG_SEED = 20


def in_two(x: np.ndarray) -> np.ndarray:
    """The sum of x rounded to bfloat16 and of what that left over, rounded; exact in float32."""
    high = rounded(x, BF16)
    return high + rounded(x - high, BF16)


def check_close(kernels: Kernels, y: np.ndarray, w: Packed, x: np.ndarray) -> None:
    """Every number of a row takes part in at most K + 1 roundings; in 2 K + 1 where inputs are split in two numbers.

    A product of bfloat16 is exact; a dot product of pairs rounds once for each of the two, and flushes subnormals.
    """
    parts = 1
    if kernels.product[w.matrix.format].quantize_inputs:
        x, parts = in_two(x), 2
    exact = x.astype(np.float64) @ w.dense.T.astype(np.float64)
    size = np.abs(x).astype(np.float64) @ np.abs(w.dense).T.astype(np.float64)
    bound = (parts * x.shape[1] + 1) * (1.01 * EPS * size + TINY)
    assert np.all(np.abs(y[:, : exact.shape[1]] - exact) <= bound)


@pytest.mark.parametrize("name", FORMATS)
def test_every_length(kernels: Kernels, kernel_library: ctypes.CDLL, guarded: Guarded, name: str) -> None:
    rng = np.random.default_rng(RNG_SEED)
    for cols in range(1, 301):
        rows, n_tokens = 1 + cols * 7 % 83, 1 + cols % 17
        w = Packed(kernel_library, guarded, FORMATS[name], rng.standard_normal((rows, cols)))
        x = rng.standard_normal((n_tokens, cols)).astype(np.float32)
        check_close(kernels, multiply(kernels, kernel_library, guarded, w, x), w, x)


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("shape", [(1, 1), (15, 64), (33, 65), (112, 130), (176, 31)])
def test_same_bits_in_any_company(
    kernels: Kernels, kernel_library: ctypes.CDLL, guarded: Guarded, name: str, shape: tuple[int, int]
) -> None:
    rng = np.random.default_rng(RNG_SEED)
    w = Packed(kernel_library, guarded, FORMATS[name], rng.standard_normal(shape))
    x = rng.standard_normal((40, shape[1])).astype(np.float32)
    alone = np.concatenate([multiply(kernels, kernel_library, guarded, w, row[None]) for row in x])
    check_close(kernels, alone, w, x)
    for n_tokens in range(2, 41):
        assert same_bits(multiply(kernels, kernel_library, guarded, w, x[:n_tokens]), alone[:n_tokens]), n_tokens
    for first in range(w.strips):
        for last in range(first + 1, w.strips + 1):
            n_tokens = 1 + (3 * first + last) % 14
            part = multiply(kernels, kernel_library, guarded, w, x[:n_tokens], strips=(first, last))
            assert same_bits(part[:, 16 * first : 16 * last], alone[:n_tokens, 16 * first : 16 * last])
            assert np.all(np.isnan(part[:, : 16 * first])) and np.all(np.isnan(part[:, 16 * last :]))


@pytest.mark.parametrize("name", FORMATS)
def test_more_tokens_than_fit_any_buffer(
    kernels: Kernels, kernel_library: ctypes.CDLL, guarded: Guarded, name: str
) -> None:
    rng = np.random.default_rng(RNG_SEED)
    for rows, cols, tokens in ((40, 1101, 300), (150, 34, 530), (36, 6501, 150)):
        w = Packed(kernel_library, guarded, FORMATS[name], rng.standard_normal((rows, cols)))
        x = rng.standard_normal((tokens, cols)).astype(np.float32)
        y = multiply(kernels, kernel_library, guarded, w, x)
        check_close(kernels, y, w, x)
        for t in {0, 31, 32, 127, 255, 256, 287, tokens - 1} & set(range(tokens)):
            assert same_bits(multiply(kernels, kernel_library, guarded, w, x[t : t + 1])[0], y[t])


@pytest.mark.parametrize("name", FORMATS)
def test_strided_rows(kernels: Kernels, kernel_library: ctypes.CDLL, guarded: Guarded, name: str) -> None:
    """Rows of x (where they are floats) and of y that are parts of longer rows."""
    rng = np.random.default_rng(RNG_SEED)
    w = Packed(kernel_library, guarded, FORMATS[name], rng.standard_normal((37, 29)))
    x = rng.standard_normal((9, 29)).astype(np.float32)
    inputs, wide_y = quantize_inputs(kernels, kernel_library, guarded, FORMATS[name], x), guarded.empty((9, 61))
    if not kernels.product[FORMATS[name]].quantize_inputs:
        inputs = np.ascontiguousarray(np.pad(inputs, ((0, 0), (0, 12))))
    kernels.product[FORMATS[name]].matmul(
        ctypes.byref(w.matrix), 0, 3, address(inputs), inputs.shape[1], 9, address(wide_y), 61
    )
    assert same_bits(wide_y[:, :48], multiply(kernels, kernel_library, guarded, w, x))
    assert np.all(np.isnan(wide_y[:, 48:]))


@pytest.mark.parametrize("name", FORMATS)
def test_long_sums_and_extreme_scales(
    kernels: Kernels, kernel_library: ctypes.CDLL, guarded: Guarded, name: str
) -> None:
    rng = np.random.default_rng(RNG_SEED)
    for scale in (1e-4, 1.0, 1e4):
        w = Packed(kernel_library, guarded, FORMATS[name], scale * rng.standard_normal((48, 2048)))
        x = (rng.standard_normal((14, 2048)) * np.exp(rng.uniform(-12, 12, (14, 2048)))).astype(np.float32)
        check_close(kernels, multiply(kernels, kernel_library, guarded, w, x), w, x)


@pytest.mark.parametrize("name", FORMATS)
def test_nothing_hides_what_is_not_finite(
    kernels: Kernels, kernel_library: ctypes.CDLL, guarded: Guarded, name: str
) -> None:
    rng = np.random.default_rng(RNG_SEED)
    w = Packed(kernel_library, guarded, FORMATS[name], 1 + rng.random((21, 67)))
    x = rng.standard_normal((19, 67)).astype(np.float32)
    clean = multiply(kernels, kernel_library, guarded, w, x)
    for at, bad in enumerate((np.nan, np.inf, -np.inf)):
        for column in (0, 30 + at, 31 + at, 66):
            broken, row = x.copy(), (column + at) % 19
            broken[row, column] = bad
            y = multiply(kernels, kernel_library, guarded, w, broken)
            assert not np.isfinite(y[row, :21]).any()
            assert same_bits(np.delete(y, row, 0), np.delete(clean, row, 0))


def test_split_bfloat16(kernels: Kernels, kernel_library: ctypes.CDLL, guarded: Guarded) -> None:
    """Where inputs are split in two, both parts round to nearest even: seen through a matrix that picks them."""
    if not kernels.product[BF16].quantize_inputs:
        pytest.skip(f"{kernels.isa.decode()} reads floats")
    rng = np.random.default_rng(RNG_SEED)
    for cols in (1, 2, 31, 32, 33, 64, 300):
        w = Packed(kernel_library, guarded, BF16, np.eye(cols))
        x = rng.standard_normal((40, cols)).astype(np.float32)
        x[1].view(np.uint32)[:] = x[1].view(np.uint32) & 0xFFFF0000 | 0x8000  # halfway between two bfloat16 numbers
        x[2] *= np.float32(2) ** rng.integers(-100, 110, cols)
        for n in (1, 3, 17, 40):
            y = multiply(kernels, kernel_library, guarded, w, x[:n])
            assert same_bits(y[:, :cols], in_two(x[:n]))


@pytest.mark.parametrize("name", FORMATS)
def test_unpack_row(kernels: Kernels, kernel_library: ctypes.CDLL, guarded: Guarded, name: str) -> None:
    rng = np.random.default_rng(RNG_SEED)
    for cols in (1, 2, 7, 8, 15, 16, 33, 130):
        w = Packed(kernel_library, guarded, FORMATS[name], rng.standard_normal((19, cols)))
        for row in (0, 5, 15, 16, 18):
            out = guarded.empty(cols)
            kernels.product[FORMATS[name]].unpack_row(ctypes.byref(w.matrix), row, address(out))
            assert same_bits(out, w.dense[row])
