"""Products of quantised weights are no further from the exact ones than those of the usual block formats."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest
from block_formats import q4_k, q8_0
from kernel_harness import Guarded, Kernels, Matrix, address, multiply, quantise
from quantized_formats import I4, I8, LAYOUTS, decode

ROWS, VECTORS = 256, 48


@dataclass(frozen=True)
class Compared:
    """A format, the one that it must not be worse than, and numbers of columns that both can have."""

    format: int
    other: Callable[[np.ndarray], np.ndarray]
    cols: tuple[int, ...]


COMPARED = {"i8": Compared(I8, q8_0, (288, 576, 2048)), "i4": Compared(I4, q4_k, (256, 512, 2048))}


def gaussian(rng: np.random.Generator, cols: int) -> np.ndarray:
    return rng.standard_normal((ROWS, cols))


def laplace(rng: np.random.Generator, cols: int) -> np.ndarray:
    return rng.laplace(size=(ROWS, cols))


def outlier_channels(rng: np.random.Generator, cols: int) -> np.ndarray:
    """One column in a hundred is eight times as large as the others."""
    w = rng.standard_normal((ROWS, cols))
    w[:, rng.choice(cols, max(1, cols // 100), replace=False)] *= 8
    return w


KINDS = [gaussian, laplace, outlier_channels]


def relative_error(y: np.ndarray, exact: np.ndarray) -> float:
    return float(np.linalg.norm(y - exact) / np.linalg.norm(exact))


class Packed:
    def __init__(self, lib: ctypes.CDLL, guarded: Guarded, kernels: Kernels, format: int, values: np.ndarray) -> None:
        rows, cols = values.shape
        self.data, _ = quantise(lib, guarded, kernels, format, values)
        self.dense = decode(format, self.data, rows, cols).dense.astype(np.float64)
        self.matrix = Matrix(address(self.data), rows, cols, format, LAYOUTS[format].strip_bytes(cols))
        self.strips = rows // 16


@pytest.fixture
def best(tables: dict[str, Kernels]) -> Kernels:
    return list(tables.values())[-1]


@pytest.mark.parametrize("make", KINDS, ids=lambda make: make.__name__)
@pytest.mark.parametrize("name", COMPARED)
def test_products_are_no_worse(
    kernel_library: ctypes.CDLL,
    guarded: Guarded,
    best: Kernels,
    name: str,
    make: Callable[[np.random.Generator, int], np.ndarray],
) -> None:
    """Both with exact inputs: what the weights lose."""
    compared = COMPARED[name]
    for cols in compared.cols:
        rng = np.random.default_rng(cols)
        w, x = (0.02 * make(rng, cols)).astype(np.float32), rng.standard_normal((cols, VECTORS))
        ours = Packed(kernel_library, guarded, best, compared.format, w).dense
        exact = w.astype(np.float64) @ x
        error, other = relative_error(ours @ x, exact), relative_error(compared.other(w) @ x, exact)
        assert error <= other, (cols, error, other)


@pytest.mark.parametrize("make", KINDS, ids=lambda make: make.__name__)
@pytest.mark.parametrize("name", COMPARED)
def test_whole_products(
    kernel_library: ctypes.CDLL,
    guarded: Guarded,
    best: Kernels,
    name: str,
    make: Callable[[np.random.Generator, int], np.ndarray],
) -> None:
    """With what the inputs lose, too: here codes with a scale per 256, there per 32, which costs 8 bits some 13 %."""
    compared = COMPARED[name]
    for cols in compared.cols:
        rng = np.random.default_rng(cols)
        w, x = (0.02 * make(rng, cols)).astype(np.float32), rng.standard_normal((VECTORS, cols)).astype(np.float32)
        packed = Packed(kernel_library, guarded, best, compared.format, w)
        exact = x.astype(np.float64) @ w.T.astype(np.float64)
        error = relative_error(multiply(best, kernel_library, guarded, packed, x), exact)
        other = relative_error(q8_0(x) @ compared.other(w).T, exact)
        assert error <= 1.15 * other, (cols, error, other)


@pytest.mark.parametrize("size", [8, 30])
def test_inputs_with_outliers(kernel_library: ctypes.CDLL, guarded: Guarded, best: Kernels, size: int) -> None:
    """As real ones have them: some channels are far larger than others, and rotated take no resolution from these."""
    for cols in COMPARED["i8"].cols:
        rng = np.random.default_rng(cols)
        w, x = (0.02 * gaussian(rng, cols)).astype(np.float32), rng.standard_normal((VECTORS, cols)).astype(np.float32)
        x[:, rng.choice(cols, cols // 100, replace=False)] *= size
        packed = Packed(kernel_library, guarded, best, I8, w)
        exact = x.astype(np.float64) @ w.T.astype(np.float64)
        error = relative_error(multiply(best, kernel_library, guarded, packed, x), exact)
        assert error <= 0.95 * relative_error(q8_0(x) @ q8_0(w).T, exact), (cols, error)


def test_the_other_formats_are_those_of_gguf() -> None:
    """Where the package is there: the definitions above are what it makes of the same numbers."""
    gguf = pytest.importorskip("gguf")
    kind, quants = gguf.GGMLQuantizationType.Q8_0, gguf.quants
    rng = np.random.default_rng(5)
    for make in KINDS:
        w = (0.02 * make(rng, 512)).astype(np.float32)
        theirs = relative_error(quants.dequantize(quants.quantize(w, kind), kind), w)
        assert abs(theirs / relative_error(q8_0(w), w) - 1) < 1e-3
