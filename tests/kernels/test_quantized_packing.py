"""Weights to quantised strips: the same bytes everywhere, codes nearest to the weights, nothing but finite numbers."""

from __future__ import annotations

import ctypes

import numpy as np
import pytest
from kernel_harness import (
    BF16,
    F16,
    F32,
    QUANTIZED,
    Guarded,
    Kernels,
    Matrix,
    PackedWeights,
    address,
    quantise,
    same_bits,
)
from quantized_formats import I8, LAYOUTS, Weights, decode, random_weights, rotated, to_bf16, with_scales

pytestmark = pytest.mark.parametrize("name", QUANTIZED)
SEED = 22
SHAPES = [(1, 1), (16, 2), (17, 7), (33, 31), (5, 32), (20, 33), (16, 255), (31, 256), (19, 300), (3, 777)]


def weights_like(rng: np.random.Generator, rows: int, cols: int, kind: str = "mixed") -> np.ndarray:
    """Rows and columns of different sizes, some rows of zeros."""
    w = rng.standard_normal((rows, cols)) * np.exp(rng.uniform(-3, 3, (rows, 1)))
    if kind == "mixed":
        w *= np.exp(rng.uniform(-2, 2, cols))
        w[rows // 2] = 0
        w[:, cols // 2 : cols // 2 + 40] = 0
    return w.astype(np.float32)


def unpacked(kernels: Kernels, guarded: Guarded, format: int, packed: np.ndarray, rows: int, cols: int) -> np.ndarray:
    matrix = Matrix(address(packed), rows, cols, format, LAYOUTS[format].strip_bytes(cols))
    out = guarded.empty((rows, cols))
    for row in range(rows):
        kernels.product[format].unpack_row(ctypes.byref(matrix), row, address(out[row]))
    return out


def test_sizes(kernel_library: ctypes.CDLL, name: str) -> None:
    format = QUANTIZED[name]
    for cols in [*range(1, 70), 255, 256, 257, 1000, 2048]:
        strip_bytes = LAYOUTS[format].strip_bytes(cols)
        assert kernel_library.flm_strip_bytes(format, cols) == strip_bytes and strip_bytes % 16 == 0
        for rows in (1, 16, 17):
            assert kernel_library.flm_matrix_bytes(format, rows, cols) == -(-rows // 16) * strip_bytes


@pytest.mark.parametrize("dtype", [F32, F16, BF16])
def test_bytes_are_the_same_on_all_instruction_sets(
    kernel_library: ctypes.CDLL, guarded: Guarded, tables: dict[str, Kernels], name: str, dtype: int
) -> None:
    rng = np.random.default_rng(SEED)
    for rows, cols in SHAPES:
        values = weights_like(rng, rows, cols)
        source = {F32: values, F16: values.astype(np.float16), BF16: to_bf16(values)}[dtype]
        packed = [quantise(kernel_library, guarded, k, QUANTIZED[name], source, dtype) for k in tables.values()]
        assert all(finite == 1 and same_bits(data, packed[0][0]) for data, finite in packed)


def test_unpacked_rows_are_those_of_the_definition(kernels: Kernels, guarded: Guarded, name: str) -> None:
    rng = np.random.default_rng(SEED)
    for rows, cols in SHAPES:
        w = PackedWeights(guarded, random_weights(QUANTIZED[name], rng, rows, cols))
        assert same_bits(unpacked(kernels, guarded, QUANTIZED[name], w.data, rows, cols), w.weights.dense)
        again = decode(QUANTIZED[name], w.data, rows, cols)
        assert np.array_equal(again.steps, w.weights.steps) and np.array_equal(again.scale, w.weights.scale)


def check_nearest(w: Weights, values: np.ndarray) -> None:
    """Codes are those nearest to the rotated weights, for the scales and multipliers as they are stored."""
    group = np.arange(values.shape[1]) // w.layout.group
    step = w.column_scale.astype(np.float64) * w.multiplier[:, group]
    assert (w.code >= w.layout.low).all() and (w.code <= w.layout.high).all()
    assert (w.multiplier >= 1).all() and (w.multiplier <= w.layout.top).all()
    used = step > 0
    wanted = np.divide(rotated(w.layout.format, values), step, where=used, out=np.zeros_like(step)) + w.zero[:, group]
    inside = np.clip(wanted, w.layout.low, w.layout.high)
    assert np.abs(w.code - inside)[used].max(initial=0) <= 0.5 + 1e-4
    assert not w.dense[~used].any()
    if w.layout.format == I8:
        assert np.abs(wanted).max(initial=0) < w.layout.high + 0.5, "no weight is clipped"


def test_codes_are_the_nearest(kernel_library: ctypes.CDLL, guarded: Guarded, kernels: Kernels, name: str) -> None:
    rng = np.random.default_rng(SEED)
    for rows, cols in SHAPES:
        values = weights_like(rng, rows, cols)
        data, finite = quantise(kernel_library, guarded, kernels, QUANTIZED[name], values)
        assert finite == 1
        check_nearest(decode(QUANTIZED[name], data, rows, cols), values)


def squared_errors(w: Weights, values: np.ndarray) -> np.ndarray:
    """Of each group of rotated weights, float64 [rows, groups]."""
    rows, cols = values.shape
    padded = np.zeros((rows, w.layout.groups(cols) * w.layout.group))
    padded[:, :cols] = (w.column_scale.astype(np.float64) * w.steps - rotated(w.layout.format, values)) ** 2
    return padded.reshape(rows, -1, w.layout.group).sum(axis=2)


@pytest.mark.parametrize("kind", ["normal", "mixed"])
def test_groups_are_better_than_plain_ones(
    kernel_library: ctypes.CDLL, guarded: Guarded, kernels: Kernels, name: str, kind: str
) -> None:
    """The search for multipliers and zeros pays: its errors are those of the plain choice or smaller."""
    values = weights_like(np.random.default_rng(SEED), 64, 768, kind)
    data, _ = quantise(kernel_library, guarded, kernels, QUANTIZED[name], values)
    w = decode(QUANTIZED[name], data, *values.shape)
    found, simple = squared_errors(w, values), squared_errors(with_scales(QUANTIZED[name], w.scale, values), values)
    assert (found <= simple * 1.001 + 1e-30).mean() > 0.98
    assert found.sum() < 0.97 * simple.sum()


def test_zeros(kernel_library: ctypes.CDLL, guarded: Guarded, kernels: Kernels, name: str) -> None:
    for rows, cols in SHAPES:
        data, finite = quantise(kernel_library, guarded, kernels, QUANTIZED[name], np.zeros((rows, cols), np.float32))
        assert finite == 1
        assert not unpacked(kernels, guarded, QUANTIZED[name], data, -(-rows // 16) * 16, cols).any()


def test_padding_rows_are_zeros(kernel_library: ctypes.CDLL, guarded: Guarded, kernels: Kernels, name: str) -> None:
    values = weights_like(np.random.default_rng(SEED), 21, 300)
    data, _ = quantise(kernel_library, guarded, kernels, QUANTIZED[name], values)
    assert not unpacked(kernels, guarded, QUANTIZED[name], data, 32, 300)[21:].any()


def test_the_largest_weights(kernel_library: ctypes.CDLL, guarded: Guarded, kernels: Kernels, name: str) -> None:
    """Rotated they are up to eight times as large, and still floats; larger ones are refused."""
    most = np.nextafter(np.float32(2.0**124), np.float32(0))
    values = np.random.default_rng(SEED).choice(np.array([-1, -0.4, 0.8, 1], np.float32) * most, (16, 300))
    values[:, :128] = most
    values[:8, :64:2] *= -1
    data, finite = quantise(kernel_library, guarded, kernels, QUANTIZED[name], values)
    error = np.abs(unpacked(kernels, guarded, QUANTIZED[name], data, 16, 300) / most - values / most)
    assert finite == 1 and error.max() < (0.04 if name == "i8" else 0.5)
    values[7, 200] = -(2.0**124)
    assert quantise(kernel_library, guarded, kernels, QUANTIZED[name], values)[1] == 0


@pytest.mark.parametrize("size", [1e-25, 1e-15, 1e-6, 1e6, 1e15, 1e35])
def test_sizes_of_weights(
    kernel_library: ctypes.CDLL, guarded: Guarded, kernels: Kernels, name: str, size: float
) -> None:
    """The relative error does not depend on the unit of the weights."""
    values = weights_like(np.random.default_rng(SEED), 16, 300, "normal")
    errors = []
    for unit in (1.0, size):
        data, finite = quantise(kernel_library, guarded, kernels, QUANTIZED[name], (values * unit).astype(np.float32))
        assert finite == 1
        dense = unpacked(kernels, guarded, QUANTIZED[name], data, 16, 300) / unit
        errors.append(np.sqrt(((dense - values) ** 2).mean(axis=1) / (values**2).mean(axis=1)))
    assert (errors[1] < 1.05 * errors[0]).all(), errors


def test_vanishing_weights_become_zeros(
    kernel_library: ctypes.CDLL, guarded: Guarded, kernels: Kernels, name: str
) -> None:
    values = weights_like(np.random.default_rng(SEED), 16, 300, "normal")
    for size in (1e-38, 1e-42):
        data, finite = quantise(kernel_library, guarded, kernels, QUANTIZED[name], (values * size).astype(np.float32))
        dense = unpacked(kernels, guarded, QUANTIZED[name], data, 16, 300)
        assert finite == 1 and np.abs(dense).max() <= 1.1 * np.abs(values * size).max()


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_refused(
    kernel_library: ctypes.CDLL, guarded: Guarded, kernels: Kernels, name: str, bad: float
) -> None:
    values = weights_like(np.random.default_rng(SEED), 35, 67)
    for row, col in [(0, 0), (15, 66), (34, 66), (20, 64)]:
        broken = values.copy()
        broken[row, col] = bad
        for source, dtype in ((broken, F32), (broken.astype(np.float16), F16)):
            assert quantise(kernel_library, guarded, kernels, QUANTIZED[name], source, dtype)[1] == 0
    assert quantise(kernel_library, guarded, kernels, QUANTIZED[name], values)[1] == 1
