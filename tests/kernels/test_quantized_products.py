"""Products of quantised matrices: integers that agree to the bit on all instruction sets, and one order of blocks."""

from __future__ import annotations

import ctypes

import numpy as np
import pytest
from kernel_harness import (
    EPS,
    QUANTIZED,
    Guarded,
    Kernels,
    PackedWeights,
    address,
    multiply,
    quantize_inputs,
    same_bits,
)
from quantized_formats import (
    BLOCK,
    I8,
    LAYOUTS,
    Inputs,
    Weights,
    block_sums,
    chained,
    exact_inputs,
    quantised,
    random_weights,
    rotated,
    scales_of_sums,
)

pytestmark = pytest.mark.parametrize("name", QUANTIZED)
SEED = 21


def check_close(y: np.ndarray, w: Weights, x: Inputs) -> None:
    """Each block's sum is rounded to a float, its scales multiplied, and it takes part in at most all additions."""
    terms = block_sums(w, x) * scales_of_sums(w, x)
    bound = (len(terms) + 5) * EPS * np.abs(terms).sum(axis=0) + 1e-37
    rows = w.code.shape[0]
    assert np.all(np.abs(y[:, :rows] - terms.sum(axis=0)) <= bound)


def check_exact(kernels: Kernels, lib: ctypes.CDLL, guarded: Guarded, weights: Weights, inputs: Inputs) -> None:
    y = multiply(kernels, lib, guarded, PackedWeights(guarded, weights), inputs.values)
    rows = weights.code.shape[0]
    assert np.array_equal(y[:, :rows], chained(weights, inputs)) and not y[:, rows:].any()


def test_every_length(kernels: Kernels, kernel_library: ctypes.CDLL, guarded: Guarded, name: str) -> None:
    """With scales that are powers of two every instruction set gives the bits of the definition."""
    rng = np.random.default_rng(SEED)
    for cols in range(1, 301):
        rows, tokens = 1 + cols * 7 % 83, 1 + cols * 5 % 41
        weights = random_weights(QUANTIZED[name], rng, rows, cols, exact=True)
        check_exact(kernels, kernel_library, guarded, weights, exact_inputs(QUANTIZED[name], rng, tokens, cols))


def test_many_blocks(kernels: Kernels, kernel_library: ctypes.CDLL, guarded: Guarded, name: str) -> None:
    rng = np.random.default_rng(SEED)
    for cols in (511, 512, 513, 767, 769, 1024 + 33, 2048):
        for tokens in (1, 2, 5, 6, 15, 16, 17, 31, 33, 70):
            weights = random_weights(QUANTIZED[name], rng, 1 + tokens * 11 % 53, cols, exact=True)
            check_exact(kernels, kernel_library, guarded, weights, exact_inputs(QUANTIZED[name], rng, tokens, cols))


def test_any_scales(kernels: Kernels, kernel_library: ctypes.CDLL, guarded: Guarded, name: str) -> None:
    rng = np.random.default_rng(SEED)
    for cols in (1, 31, 33, 100, 255, 256, 257, 300, 513, 600, 1100):
        for tokens in (1, 3, 7, 17, 40):
            weights = random_weights(QUANTIZED[name], rng, 1 + cols * 7 % 83, cols)
            x = (rng.standard_normal((tokens, cols)) * np.exp(rng.uniform(-9, 9, (tokens, cols)))).astype(np.float32)
            y = multiply(kernels, kernel_library, guarded, PackedWeights(guarded, weights), x)
            check_close(y, weights, quantised(QUANTIZED[name], x))


@pytest.mark.parametrize("cols", [1, 33, 255, 256, 257, 2048])
@pytest.mark.parametrize("sign", [1, -1])
def test_extremes_do_not_overflow(
    kernels: Kernels, kernel_library: ctypes.CDLL, guarded: Guarded, name: str, cols: int, sign: int
) -> None:
    layout = LAYOUTS[QUANTIZED[name]]
    high = sign > 0
    shape = 17, layout.groups(cols)
    zero = np.full(shape, 0 if layout.format == I8 or high else 15)
    code = np.full((17, cols), layout.high if high else layout.low)
    code[1:3, ::2] = layout.low + layout.high - code[1:3, ::2]  # some sums cancel
    weights = Weights(
        layout, np.full((17, layout.scales(cols)), 0.5, np.float32), np.full(shape, layout.top), zero, code
    )
    for tokens in (1, 2, 6, 12, 16, 33):
        codes = np.full((tokens, cols), 127, np.int8)
        codes[1::2] = -127
        inputs = Inputs(layout.format, codes, np.full((tokens, -(-cols // BLOCK)), 2.0, np.float32))
        check_exact(kernels, kernel_library, guarded, weights, inputs)


def test_nonsense_of_a_damaged_file(
    kernels: Kernels, kernel_library: ctypes.CDLL, guarded: Guarded, tables: dict[str, Kernels], name: str
) -> None:
    """Bytes that no packing writes: nothing is read out of place, and a token's bits depend on itself alone."""
    rng = np.random.default_rng(SEED)
    for cols in (1, 40, 300, 777):
        w = PackedWeights(guarded, random_weights(QUANTIZED[name], rng, 50, cols))
        w.data[:] = rng.integers(0, 256, w.data.shape)
        x = rng.standard_normal((3, cols)).astype(np.float32)
        y = multiply(kernels, kernel_library, guarded, w, x)
        for t in range(3):
            assert same_bits(multiply(kernels, kernel_library, guarded, w, x[t : t + 1])[0], y[t])
        multiply(kernels, kernel_library, guarded, w, np.repeat(x, 12, axis=0))


@pytest.mark.parametrize("shape", [(1, 1), (15, 64), (33, 65), (112, 130), (176, 31), (70, 600)])
def test_same_bits_in_any_company(
    kernels: Kernels, kernel_library: ctypes.CDLL, guarded: Guarded, name: str, shape: tuple[int, int]
) -> None:
    rng = np.random.default_rng(SEED)
    w = PackedWeights(guarded, random_weights(QUANTIZED[name], rng, *shape))
    x = rng.standard_normal((90, shape[1])).astype(np.float32)
    alone = np.concatenate([multiply(kernels, kernel_library, guarded, w, row[None]) for row in x])
    for n_tokens in [*range(2, 41), 63, 64, 65, 90]:
        assert same_bits(multiply(kernels, kernel_library, guarded, w, x[:n_tokens]), alone[:n_tokens]), n_tokens
    for first in range(w.strips):
        for last in range(first + 1, w.strips + 1):
            n_tokens = 1 + (3 * first + last) % 41
            part = multiply(kernels, kernel_library, guarded, w, x[:n_tokens], strips=(first, last))
            assert same_bits(part[:, 16 * first : 16 * last], alone[:n_tokens, 16 * first : 16 * last])
            assert np.all(np.isnan(part[:, : 16 * first])) and np.all(np.isnan(part[:, 16 * last :]))


def test_more_tokens_than_fit_any_buffer(
    kernels: Kernels, kernel_library: ctypes.CDLL, guarded: Guarded, name: str
) -> None:
    rng = np.random.default_rng(SEED)
    for rows, cols, tokens in ((40, 290, 1100), (90, 1025, 300), (36, 6500, 300)):
        w = PackedWeights(guarded, random_weights(QUANTIZED[name], rng, rows, cols))
        x = rng.standard_normal((tokens, cols)).astype(np.float32)
        y = multiply(kernels, kernel_library, guarded, w, x)
        check_close(y, w.weights, quantised(QUANTIZED[name], x))
        for t in (0, 31, 32, 255, 256, 287, tokens - 1):
            assert same_bits(multiply(kernels, kernel_library, guarded, w, x[t : t + 1])[0], y[t])


def picking(format: int, n: int) -> Weights:
    """The identity matrix."""
    layout = LAYOUTS[format]
    groups = (n, layout.groups(n))
    rest = 0 if format == I8 else 7
    scale = np.ones((n, layout.scales(n)), np.float32)
    return Weights(layout, scale, np.ones(groups, np.int64), np.full(groups, rest), np.eye(n, dtype=np.int64) + rest)


def awkward_rows(format: int, rng: np.random.Generator, cols: int) -> np.ndarray:
    """Ordinary rows, and zeros, ties, tiny and huge numbers; ties and the least numbers are so when rotated."""
    x = rng.standard_normal((24, cols)).astype(np.float32)
    x[1] = 0
    x[2] *= np.float32(1e-38)
    x[3] *= np.float32(1e37)
    x[4] *= np.float32(2) ** rng.integers(-40, 40, cols)
    x[5] = rng.integers(-126, 126, cols) + 0.5
    x[5, ::BLOCK] = 127
    x[5] = rotated(format, x[5])
    x[6, :BLOCK] = 0
    x[7, BLOCK - 1 :] = 0
    x[8:10] = rotated(format, np.full((2, cols), 2.0**-100, np.float32))
    x[9] *= np.nextafter(np.float32(1), np.float32(2))
    x[10] = np.finfo(np.float32).max / 8
    x[11] = -x[11, 0]
    return x


def test_inputs_are_quantised_by_the_definition(
    kernels: Kernels, kernel_library: ctypes.CDLL, guarded: Guarded, name: str
) -> None:
    """Seen through the identity matrix, with any number of rows beside."""
    rng = np.random.default_rng(SEED)
    for cols in (1, 2, 15, 16, 17, 31, 32, 33, 63, 64, 65, 255, 256, 257, 300, 513):
        w = PackedWeights(guarded, picking(QUANTIZED[name], cols))
        x = awkward_rows(QUANTIZED[name], rng, cols)
        inputs = quantised(QUANTIZED[name], x)
        expected = inputs.code * np.repeat(inputs.scale, BLOCK, axis=1)[:, :cols]
        assert np.abs(inputs.code).max() == 127 and (inputs.scale[1] == 0).all()
        for n in (1, 5, 24):
            for at in range(0, 24 - n + 1, n):
                y = multiply(kernels, kernel_library, guarded, w, x[at : at + n])
                assert np.array_equal(y[:, :cols], expected[at : at + n]), (cols, n, at)


def test_nothing_hides_what_is_not_finite(
    kernels: Kernels, kernel_library: ctypes.CDLL, guarded: Guarded, name: str
) -> None:
    rng = np.random.default_rng(SEED)
    for cols in (67, 300):
        w = PackedWeights(guarded, random_weights(QUANTIZED[name], rng, 21, cols))
        for tokens in (1, 5, 12, 19, 40):
            x = rng.standard_normal((tokens, cols)).astype(np.float32)
            clean = multiply(kernels, kernel_library, guarded, w, x)
            for at, bad in enumerate((np.nan, np.inf, -np.inf)):
                for column in (0, 30 + at, 31 + at, cols - 1):
                    broken, row = x.copy(), (column + at) % tokens
                    broken[row, column] = bad
                    y = multiply(kernels, kernel_library, guarded, w, broken)
                    assert not np.isfinite(y[row, :21]).any()
                    assert same_bits(np.delete(y, row, 0), np.delete(clean, row, 0))


def test_inputs_can_be_cut(kernels: Kernels, kernel_library: ctypes.CDLL, guarded: Guarded, name: str) -> None:
    """At multiples of input_rows the rest is what preparing it alone gives; tiles of AMX cannot be cut."""
    number_format = QUANTIZED[name]
    rows = kernels.product[number_format].input_rows
    assert (rows == 0) == (kernels.isa == b"amx")
    x = np.random.default_rng(SEED).standard_normal((37, 600)).astype(np.float32)
    whole = quantize_inputs(kernels, kernel_library, guarded, number_format, x)
    for first in range(rows, len(x) if rows else 0, max(rows, 1)):
        assert np.array_equal(
            whole[first:], quantize_inputs(kernels, kernel_library, guarded, number_format, x[first:])
        )


def test_strided_outputs(kernels: Kernels, kernel_library: ctypes.CDLL, guarded: Guarded, name: str) -> None:
    rng = np.random.default_rng(SEED)
    w = PackedWeights(guarded, random_weights(QUANTIZED[name], rng, 37, 290))
    for tokens in (1, 9, 33):
        x = rng.standard_normal((tokens, 290)).astype(np.float32)
        inputs, wide = (
            quantize_inputs(kernels, kernel_library, guarded, QUANTIZED[name], x),
            guarded.empty((tokens, 161)),
        )
        kernels.product[QUANTIZED[name]].matmul(
            ctypes.byref(w.matrix), 1, 3, address(inputs), inputs.shape[1], tokens, address(wide), 161
        )
        assert same_bits(wide[:, 16:48], multiply(kernels, kernel_library, guarded, w, x)[:, 16:48])
        assert np.isnan(wide[:, :16]).all() and np.isnan(wide[:, 48:]).all()
