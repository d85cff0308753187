"""Packing: the layout of csrc/format/matrix.h, rounding, and what is reported as not finite."""

from __future__ import annotations

import ctypes

import numpy as np
import pytest
from kernel_harness import BF16, F16, F32, FORMATS, Guarded, address, rounded, same_bits
from quantized_formats import I4, I8, from_bf16, to_bf16

ALL_HALVES = np.arange(65536, dtype=np.uint16)


def pack(
    lib: ctypes.CDLL, guarded: Guarded, number_format: int, source: np.ndarray, dtype: int
) -> tuple[np.ndarray, int]:
    rows, cols = source.shape
    data = guarded.empty(lib.flm_matrix_bytes(number_format, rows, cols), np.uint8)
    values = guarded.copy(source, source.dtype)
    return data, lib.flm_matrix_pack(number_format, address(data), address(values), dtype, rows, cols)


def unpack(data: np.ndarray, number_format: int, rows: int, cols: int) -> np.ndarray:
    """The whole padded matrix [16 * strips, even cols] as float32, by the layout in matrix.h."""
    strips = (rows + 15) // 16
    if number_format == F32:
        return data.view(np.float32).reshape(strips, cols, 16).transpose(0, 2, 1).reshape(strips * 16, cols)
    lines = data.view(np.uint16).reshape(strips, (cols + 1) // 2, 32)
    if number_format == F16:  # [j][r]
        halves = lines.reshape(strips, -1, 2, 16).transpose(0, 3, 1, 2).reshape(strips * 16, -1)
        return halves.view(np.float16).astype(np.float32)
    return from_bf16(lines.reshape(strips, -1, 16, 2).transpose(0, 2, 1, 3).reshape(strips * 16, -1))


@pytest.mark.parametrize("dtype", [F32, F16, BF16])
@pytest.mark.parametrize("name", FORMATS)
def test_layout(kernel_library: ctypes.CDLL, guarded: Guarded, name: str, dtype: int) -> None:
    rng = np.random.default_rng(5)
    for rows, cols in [(1, 1), (16, 2), (17, 63), (31, 64), (48, 65), (5, 130), (33, 129)]:
        values = rng.standard_normal((rows, cols)).astype(np.float32)
        source = {F32: values, F16: values.astype(np.float16), BF16: to_bf16(values)}[dtype]
        data, finite = pack(kernel_library, guarded, FORMATS[name], source, dtype)
        assert finite == 1
        padded = unpack(data, FORMATS[name], rows, cols)
        assert same_bits(padded[:rows, :cols], rounded(rounded(values, dtype), FORMATS[name]))
        assert not padded[rows:].view(np.uint32).any() and not padded[:, cols:].view(np.uint32).any()


def test_sizes(kernel_library: ctypes.CDLL) -> None:
    for name, line_columns in (("f32", 1), ("f16", 2), ("bf16", 2)):
        for rows, cols in [(1, 1), (16, 3), (17, 64)]:
            lines = -(-cols // line_columns)
            assert kernel_library.flm_strip_bytes(FORMATS[name], cols) == 64 * lines
            assert kernel_library.flm_matrix_bytes(FORMATS[name], rows, cols) == -(-rows // 16) * 64 * lines
    for huge in (2**60, 2**64 - 1):
        assert kernel_library.flm_matrix_bytes(F32, huge, 2**20) == 0
        assert kernel_library.flm_matrix_bytes(BF16, 2**20, huge) == 0
        assert kernel_library.flm_matrix_bytes(I8, 2**20, huge) == 0
        assert kernel_library.flm_matrix_bytes(I4, huge, 2**20) == 0
    assert [kernel_library.flm_format_valid(f) for f in (0, 1, 2, 3, 4, 5, 6, 2**31)] == [0, 1, 1, 1, 1, 1, 0, 0]


def awkward_floats() -> np.ndarray:
    """Every bfloat16 and float16 value, what lies halfway between neighbours, just beside that, and random bits."""
    halves = ALL_HALVES.view(np.float16).astype(np.float32)
    with np.errstate(over="ignore", invalid="ignore"):
        between = (halves.astype(np.float64) + np.nextafter(halves.astype(np.float16), np.float16(np.inf))) / 2
        between = between.astype(np.float32)
    coarse = from_bf16(ALL_HALVES)
    ties = (ALL_HALVES.astype(np.uint32) << 16 | 0x8000).view(np.float32)
    random = np.random.default_rng(6).integers(0, 2**32, 200_000, dtype=np.uint64).astype(np.uint32).view(np.float32)
    base = np.concatenate([halves, between, coarse, ties, random, np.float32([65504, 65519.99, 65520, 65536])])
    bits = base.view(np.uint32)
    return np.concatenate([bits - 1, bits, bits + 1]).view(np.float32)


def test_rounding_of_every_kind_of_number(kernel_library: ctypes.CDLL, guarded: Guarded) -> None:
    values = awkward_floats()
    values = values[np.isfinite(values)]
    values = np.resize(values, (16 * 3, values.size // 48))
    cols = values.shape[1]
    with np.errstate(over="ignore"):
        halves = values.astype(np.float16)
    data, finite = pack(kernel_library, guarded, F16, values, F32)
    assert finite == int(np.isfinite(halves).all())
    assert same_bits(unpack(data, F16, 48, cols)[:, :cols], halves.astype(np.float32))
    data, finite = pack(kernel_library, guarded, BF16, values, F32)
    assert same_bits(unpack(data, BF16, 48, cols)[:, :cols], from_bf16(to_bf16(values)))
    assert finite == int(np.isfinite(from_bf16(to_bf16(values))).all())


def test_single_numbers(kernel_library: ctypes.CDLL) -> None:
    lib = kernel_library
    for h in [*range(0, 65536, 37), 0, 1, 0x3FF, 0x400, 0x7BFF, 0x7C00, 0x8000, 0x8001, 0xFC00]:
        half = np.uint16(h).view(np.float16)
        wide = np.float32(lib.flm_f16_to_f32(h))
        assert np.array_equal(wide, half.astype(np.float32), equal_nan=True)
        assert np.isnan(half) or lib.flm_f32_to_f16(float(half)) == h
        coarse = from_bf16(np.uint16([h]))[0]
        assert np.array_equal(np.float32(lib.flm_bf16_to_f32(h)), coarse, equal_nan=True)
        assert np.isnan(coarse) or lib.flm_f32_to_bf16(float(coarse)) == h
    assert np.isnan(np.uint16(lib.flm_f32_to_f16(float("nan"))).view(np.float16))
    assert np.isnan(lib.flm_bf16_to_f32(lib.flm_f32_to_bf16(float("nan"))))
    assert lib.flm_f32_to_f16(1e9) == 0x7C00 and lib.flm_f32_to_f16(-65520.0) == 0xFC00


@pytest.mark.parametrize("name", FORMATS)
def test_non_finite_values_are_reported(kernel_library: ctypes.CDLL, guarded: Guarded, name: str) -> None:
    values = np.random.default_rng(7).standard_normal((35, 67)).astype(np.float32)
    for bad in (np.nan, np.inf, -np.inf):
        for row, col in [(0, 0), (15, 66), (34, 66), (20, 64)]:
            broken = values.copy()
            broken[row, col] = bad
            assert pack(kernel_library, guarded, FORMATS[name], broken, F32)[1] == 0
            assert pack(kernel_library, guarded, FORMATS[name], broken.astype(np.float16), F16)[1] == 0
    values[34, 66] = 65520.0  # too large for float16, though finite
    assert pack(kernel_library, guarded, FORMATS[name], values, F32)[1] == (name != "f16")
