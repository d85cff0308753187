"""Quantised matrices and inputs as csrc/quantized.h defines them, in NumPy: bytes of strips, and products."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass

import numpy as np
from kernel_harness import EPS, F32, I4, I8, Guarded, Kernels, Matrix, address, from_bf16, to_bf16

STRIP, BLOCK, OFFSET_GROUP = 16, 256, 32


@dataclass(frozen=True)
class Layout:
    """What tells the formats apart."""

    format: int
    group: int  # columns that share a multiplier
    line: int  # columns of a line of 64 bytes
    top: int  # the largest multiplier
    low: int  # range of the codes
    high: int
    scale_cols: int  # columns that share a scale; 0: the whole row

    def groups(self, cols: int) -> int:
        return -(-cols // self.group)

    def scales(self, cols: int) -> int:
        return -(-cols // self.scale_cols) if self.scale_cols else 1

    def codes_at(self, cols: int) -> int:
        return -(-(2 * STRIP * self.scales(cols) + STRIP * self.groups(cols)) // 64) * 64

    def strip_bytes(self, cols: int) -> int:
        return self.codes_at(cols) + 64 * -(-cols // self.line)


LAYOUTS = {I8: Layout(I8, 32, 4, 255, -127, 127, 0), I4: Layout(I4, 16, 8, 8, 0, 15, BLOCK)}


@dataclass(frozen=True)
class Weights:
    """w = scale * multiplier * (code - zero); scale [rows, scales], multiplier and zero [rows, groups]."""

    layout: Layout
    scale: np.ndarray
    multiplier: np.ndarray
    zero: np.ndarray
    code: np.ndarray

    @property
    def steps(self) -> np.ndarray:
        """multiplier * (code - zero), int64 [rows, cols]."""
        group = np.arange(self.code.shape[1]) // self.layout.group
        return self.multiplier[:, group].astype(np.int64) * (self.code.astype(np.int64) - self.zero[:, group])

    @property
    def column_scale(self) -> np.ndarray:
        """The scale of each weight, float32 [rows, cols]."""
        cols = np.arange(self.code.shape[1])
        return self.scale[:, cols // self.layout.scale_cols if self.layout.scale_cols else 0 * cols]

    @property
    def dense(self) -> np.ndarray:
        return self.column_scale * self.steps.astype(np.float32)

    def encode(self, rng: np.random.Generator) -> np.ndarray:
        """Packed bytes; codes past the last column, which nothing may depend on, are random."""
        layout, (rows, cols) = self.layout, self.code.shape
        strips = -(-rows // STRIP)
        packed = np.zeros((strips, layout.strip_bytes(cols)), np.uint8)
        n_scales, groups_at = layout.scales(cols), 2 * STRIP * layout.scales(cols)
        lines = packed[:, layout.codes_at(cols) :].reshape(strips, -1, STRIP, 4)
        width = lines.shape[1] * layout.line
        scale, multiplier, zero = (
            np.zeros((strips * STRIP, n), np.int64) for n in (n_scales, layout.groups(cols), layout.groups(cols))
        )
        code = rng.integers(layout.low, layout.high + 1, (strips * STRIP, width))
        scale[:rows], multiplier[:rows], zero[:rows], code[:rows, :cols] = (
            to_bf16(self.scale), self.multiplier, self.zero, self.code
        )  # fmt: skip
        of_strips = [a.reshape(strips, STRIP, -1).transpose(0, 2, 1) for a in (scale, multiplier, zero)]
        packed[:, :groups_at] = of_strips[0].astype(np.uint16).reshape(strips, -1).view(np.uint8)
        code = code.reshape(strips, STRIP, -1, layout.line).transpose(0, 2, 1, 3)
        if layout.format == I8:
            groups = of_strips[1]
            lines[:] = code + 128
        else:
            groups = np.maximum(of_strips[1] - 1, 0) | of_strips[2] << 4
            lines[:] = code[..., :4] | code[..., 4:] << 4
        packed[:, groups_at : groups_at + groups[0].size] = groups.reshape(strips, -1)
        return packed


def decode(format: int, packed: np.ndarray, rows: int, cols: int) -> Weights:
    """The inverse of `Weights.encode`."""
    layout = LAYOUTS[format]
    packed = packed.reshape(-1, layout.strip_bytes(cols))
    groups_at, codes_at = 2 * STRIP * layout.scales(cols), layout.codes_at(cols)

    def by_rows(values: np.ndarray) -> np.ndarray:
        return values.reshape(len(packed), -1, STRIP).transpose(0, 2, 1).reshape(len(packed) * STRIP, -1)[:rows]

    scale = from_bf16(by_rows(np.ascontiguousarray(packed[:, :groups_at]).view(np.uint16)))
    groups = by_rows(packed[:, groups_at : groups_at + STRIP * layout.groups(cols)]).astype(np.int64)
    lines = packed[:, codes_at:].reshape(len(packed), -1, STRIP, 4).astype(np.int64)
    parts = [lines - 128] if format == I8 else [lines & 15, lines >> 4]
    code = np.concatenate(parts, axis=3).transpose(0, 2, 1, 3).reshape(len(packed) * STRIP, -1)[:rows, :cols]
    if format == I8:
        return Weights(layout, scale, groups, np.zeros_like(groups), code)
    return Weights(layout, scale, (groups & 15) + 1, groups >> 4, code)


def random_weights(format: int, rng: np.random.Generator, rows: int, cols: int, *, exact: bool = False) -> Weights:
    """Any numbers that the format can hold. exact: scales are powers of two, so that only sums round."""
    layout = LAYOUTS[format]
    scale = 2.0 ** rng.integers(-8, 3, (rows, layout.scales(cols)))
    if not exact:
        scale = from_bf16(to_bf16((scale * rng.uniform(1, 2, scale.shape)).astype(np.float32)))
    groups = (rows, layout.groups(cols))
    zero = np.zeros(groups, np.int64) if format == I8 else rng.integers(0, 16, groups)
    code = rng.integers(layout.low, layout.high + 1, (rows, cols))
    return Weights(layout, scale.astype(np.float32), rng.integers(1, layout.top + 1, groups), zero, code)


@dataclass(frozen=True)
class Inputs:
    """code int8 [tokens, cols], scale float32 [tokens, blocks]."""

    code: np.ndarray
    scale: np.ndarray

    @property
    def values(self) -> np.ndarray:
        """Numbers that become these if each block has a code of 127 or -127, and a scale that is a power of two."""
        return self.code * np.repeat(self.scale, BLOCK, axis=1)[:, : self.code.shape[1]]


def quantised(x: np.ndarray) -> Inputs:
    """One scale per block of 256, such that the largest number takes 127; nearest even codes. Float32 throughout."""
    blocks = [x[:, at : at + BLOCK] for at in range(0, x.shape[1], BLOCK)]
    codes, scales = [], []
    for block in blocks:
        top = np.abs(block).max(axis=1, keepdims=True).astype(np.float32)
        some = top > 2.0**-100
        factor = np.where(some, np.float32(127) / np.where(some, top, np.float32(1)), np.float32(0))
        codes.append(np.rint(block * factor.astype(np.float32)).astype(np.int8))
        scales.append(np.where(some, top * (np.float32(1) / np.float32(127)), np.float32(0)).astype(np.float32))
    return Inputs(np.concatenate(codes, axis=1), np.concatenate(scales, axis=1))


def exact_inputs(rng: np.random.Generator, tokens: int, cols: int) -> Inputs:
    """Any codes, with scales that are powers of two; `values` of them are quantised without an error."""
    code = rng.integers(-127, 128, (tokens, cols)).astype(np.int8)
    for at in range(0, cols, BLOCK):
        code[np.arange(tokens), rng.integers(at, min(at + BLOCK, cols), tokens)] = rng.choice([-127, 127], tokens)
    return Inputs(code, (2.0 ** rng.integers(-4, 5, (tokens, -(-cols // BLOCK)))).astype(np.float32))


def block_sums(w: Weights, x: Inputs) -> np.ndarray:
    """The integers, int64 [blocks, tokens, rows]."""
    steps, codes = w.steps, x.code.astype(np.int64)
    starts = range(0, codes.shape[1], BLOCK)
    # float64 holds them: below 2^31, and every partial sum below 2^53
    return np.stack(
        [codes[:, at : at + BLOCK].astype(np.float64) @ steps[:, at : at + BLOCK].T.astype(np.float64) for at in starts]
    ).astype(np.int64)


def scales_of_sums(w: Weights, x: Inputs) -> np.ndarray:
    """float64 [blocks, tokens, rows]: what the sums are multiplied by."""
    of_rows = np.broadcast_to(w.scale, (len(w.scale), x.scale.shape[1])).astype(np.float64)
    return x.scale.T[:, :, None].astype(np.float64) * of_rows.T[:, None, :]


def chained(w: Weights, x: Inputs) -> np.ndarray:
    """The products as kernels must give them, to the bit, if all scales are powers of two: only additions round."""
    sums, scales = block_sums(w, x).astype(np.float32), scales_of_sums(w, x)
    y = np.zeros(sums.shape[1:], np.float32)
    if w.layout.format == I8:  # the row's scale comes last
        scales = np.broadcast_to(x.scale.T[:, :, None], sums.shape)
    for of_block, scale in zip(sums, scales, strict=True):
        y = y + of_block * scale.astype(np.float32)
    return y * w.scale[:, 0] if w.layout.format == I8 else y


def check_close(y: np.ndarray, w: Weights, x: Inputs) -> None:
    """Each block's sum is rounded to a float, its scales multiplied, and it takes part in at most all additions."""
    terms = block_sums(w, x) * scales_of_sums(w, x)
    bound = (len(terms) + 5) * EPS * np.abs(terms).sum(axis=0) + 1e-37
    rows = w.code.shape[0]
    assert np.all(np.abs(y[:, :rows] - terms.sum(axis=0)) <= bound)


class PackedWeights:
    """The bytes of `weights` where kernels read them, between guard pages."""

    def __init__(self, guarded: Guarded, weights: Weights, seed: int = 0) -> None:
        self.weights = weights
        rows, cols = weights.code.shape
        packed = weights.encode(np.random.default_rng(seed))
        self.data = guarded.copy(packed, np.uint8)
        self.matrix = Matrix(address(self.data), rows, cols, weights.layout.format, packed.shape[1])
        self.strips = len(packed)


def quantise(
    lib: ctypes.CDLL, guarded: Guarded, kernels: Kernels, format: int, values: np.ndarray, dtype: int = F32
) -> tuple[np.ndarray, int]:
    """flm_matrix_quantize: packed bytes, and whether all values were finite."""
    rows, cols = values.shape
    data = guarded.empty(lib.flm_matrix_bytes(format, rows, cols), np.uint8)
    source = guarded.copy(values, values.dtype)
    columns = guarded.empty(STRIP * -(-cols // OFFSET_GROUP) * OFFSET_GROUP)
    function = ctypes.cast(kernels.product[format].quantize, ctypes.c_void_p)
    finite = lib.flm_matrix_quantize(
        function, format, address(data), address(source), dtype, rows, cols, address(columns)
    )
    return data, finite
