"""Quantised matrices and inputs as csrc/format/quantized.h defines them, in NumPy: bytes of strips, and products."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

I8, I4 = 4, 5  # flm_format
STRIP, BLOCK = 16, 256
PARTS = {256: (128, 64, 32, 16, 2, 1), 64: (32, 16, 8, 4, 2, 1), 16: (8, 4, 2, 1), 4: (2, 1)}  # distances of pairs


def to_bf16(x: np.ndarray) -> np.ndarray:
    """Nearest-even bfloat16 bits (uint16) of finite float32, by integer arithmetic on Python's side."""
    u = np.ascontiguousarray(x, np.float32).view(np.uint32).astype(np.uint64)
    return ((u + 0x7FFF + ((u >> 16) & 1)) >> 16).astype(np.uint16)


def from_bf16(h: np.ndarray) -> np.ndarray:
    return (np.asarray(h, np.uint16).astype(np.uint32) << 16).view(np.float32)


def rotated(format: int, x: np.ndarray) -> np.ndarray:
    """What is quantised of rows: of I8 Hadamard transforms of their parts, in float32, which are their own inverse, to
    the bit if no sum rounds; of I4 the rows."""
    y, start, cols = np.array(x, np.float32), 0, x.shape[-1]
    for part, distances in PARTS.items() if format == I8 else ():
        end = cols - (cols - start) % part
        y[..., start:end] *= np.float32(2.0 ** (-len(distances) / 2))
        for distance in distances:
            pairs = y[..., start:end].reshape(*x.shape[:-1], -1, 2, distance)
            sums = np.stack([pairs[..., 0, :] + pairs[..., 1, :], pairs[..., 0, :] - pairs[..., 1, :]], axis=-2)
            y[..., start:end] = sums.reshape(*x.shape[:-1], -1)
        start = end
    return y


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

    def places(self, cols: int) -> tuple[np.ndarray, np.ndarray, int]:
        """Where in a strip each group's 16 bytes and each line of codes begin; and the bytes of a strip."""
        at = 2 * STRIP * self.scales(cols)
        whole = self.scale_cols or cols  # columns whose groups lie together, and then their lines
        if cols > whole:
            at = -(-at // 64) * 64
        groups, lines = [], []
        for k in range(0, cols, whole):
            n = min(whole, cols - k)
            groups += [at + STRIP * g for g in range(self.groups(n))]
            at += STRIP * self.groups(n)
            at = at if at <= 96 else -(-at // 64) * 64
            lines += [at + 64 * i for i in range(-(-n // self.line))]
            at = lines[-1] + 64
        return np.array(groups), np.array(lines), at

    def strip_bytes(self, cols: int) -> int:
        return self.places(cols)[2]


LAYOUTS = {I8: Layout(I8, 32, 4, 255, -127, 127, 0), I4: Layout(I4, 16, 8, 8, 0, 15, BLOCK)}


@dataclass(frozen=True)
class Weights:
    """rotated(w) = scale * multiplier * (code - zero); scale [rows, scales], multiplier and zero [rows, groups]."""

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
        return rotated(self.layout.format, self.column_scale * self.steps.astype(np.float32))

    def encode(self, rng: np.random.Generator) -> np.ndarray:
        """Packed bytes; codes past the last column, which nothing may depend on, are random."""
        layout, (rows, cols) = self.layout, self.code.shape
        strips, n_scales, n_groups = -(-rows // STRIP), layout.scales(cols), layout.groups(cols)
        groups_at, lines_at, strip_bytes = layout.places(cols)
        packed = np.zeros((strips, strip_bytes), np.uint8)
        width = len(lines_at) * layout.line
        scale, multiplier, zero = (np.zeros((strips * STRIP, n), np.int64) for n in (n_scales, n_groups, n_groups))
        code = rng.integers(layout.low, layout.high + 1, (strips * STRIP, width))
        scale[:rows], multiplier[:rows], zero[:rows], code[:rows, :cols] = (
            to_bf16(self.scale), self.multiplier, self.zero, self.code
        )  # fmt: skip
        of_strips = [a.reshape(strips, STRIP, -1).transpose(0, 2, 1) for a in (scale, multiplier, zero)]
        packed[:, : 2 * STRIP * n_scales] = of_strips[0].astype(np.uint16).reshape(strips, -1).view(np.uint8)
        code = code.reshape(strips, STRIP, -1, layout.line).transpose(0, 2, 1, 3)
        if layout.format == I8:
            groups, lines = of_strips[1], code + 128
        else:
            groups = np.maximum(of_strips[1] - 1, 0) | of_strips[2] << 4
            lines = code[..., :4] | code[..., 4:] << 4
        packed[:, groups_at[:, None] + np.arange(STRIP)] = groups
        packed[:, lines_at[:, None] + np.arange(64)] = lines.reshape(strips, -1, 64)
        return packed


def decode(format: int, packed: np.ndarray, rows: int, cols: int) -> Weights:
    """The inverse of `Weights.encode`."""
    layout = LAYOUTS[format]
    groups_at, lines_at, strip_bytes = layout.places(cols)
    packed = packed.reshape(-1, strip_bytes)

    def by_rows(values: np.ndarray) -> np.ndarray:
        return values.reshape(len(packed), -1, STRIP).transpose(0, 2, 1).reshape(len(packed) * STRIP, -1)[:rows]

    scale = from_bf16(by_rows(np.ascontiguousarray(packed[:, : 2 * STRIP * layout.scales(cols)]).view(np.uint16)))
    groups = by_rows(packed[:, groups_at[:, None] + np.arange(STRIP)]).astype(np.int64)
    lines = packed[:, lines_at[:, None] + np.arange(64)].reshape(len(packed), -1, STRIP, 4).astype(np.int64)
    parts = [lines - 128] if format == I8 else [lines & 15, lines >> 4]
    code = np.concatenate(parts, axis=3).transpose(0, 2, 1, 3).reshape(len(packed) * STRIP, -1)[:rows, :cols]
    if format == I8:
        return Weights(layout, scale, groups, np.zeros_like(groups), code)
    return Weights(layout, scale, (groups & 15) + 1, groups >> 4, code)


def with_scales(format: int, scale: np.ndarray, values: np.ndarray) -> Weights:
    """Plain rounding: multipliers that just clip nothing, zeros so that the lowest weight of a group takes code 0."""
    layout, (rows, cols), values = LAYOUTS[format], values.shape, rotated(format, values)
    padded = np.zeros((rows, layout.groups(cols) * layout.group))
    padded[:, :cols] = values
    groups = padded.reshape(rows, -1, layout.group)
    unit = np.repeat(scale, max(1, layout.scale_cols // layout.group), axis=1)[:, : layout.groups(cols)]
    unit = np.maximum(np.broadcast_to(unit, groups.shape[:2]).astype(np.float64), 1e-30)
    if format == I8:
        multiplier, zero = np.ceil(np.abs(groups).max(axis=2) / (127 * unit)), np.zeros_like(unit)
    else:
        low, high = np.minimum(groups.min(axis=2), 0), np.maximum(groups.max(axis=2), 0)
        multiplier = np.clip(np.ceil((high - low) / (15 * unit)), 1, layout.top)
        zero = np.clip(np.rint(-low / (unit * multiplier)), 0, 15)
    multiplier = np.clip(multiplier, 1, layout.top)
    group = np.arange(cols) // layout.group
    code = np.clip(np.rint(values / (unit * multiplier)[:, group]) + zero[:, group], layout.low, layout.high)
    return Weights(layout, scale, multiplier.astype(np.int64), zero.astype(np.int64), code.astype(np.int64))


def plainly(format: int, values: np.ndarray) -> Weights:
    """`with_scales`, of scales by which the widest group takes nearly the largest multiplier."""
    layout, cols = LAYOUTS[format], values.shape[1]
    width = layout.scale_cols or cols
    parts = [rotated(format, values)[:, at : at + width] for at in range(0, cols, width)]
    spread = [
        np.abs(p).max(axis=1) / 127
        if format == I8
        else (np.maximum(p.max(axis=1), 0) - np.minimum(p.min(axis=1), 0)) / 15
        for p in parts
    ]
    scale = np.stack(spread, axis=1) * (1.01 / layout.top)
    return with_scales(format, from_bf16(to_bf16(scale.astype(np.float32))), values)


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
    """Of rotated rows: code int8 [tokens, cols], scale float32 [tokens, blocks]."""

    format: int
    code: np.ndarray
    scale: np.ndarray

    @property
    def values(self) -> np.ndarray:
        """Numbers that become these if each block has a code of 127 or -127, and a scale that is a power of two."""
        return rotated(self.format, self.code * np.repeat(self.scale, BLOCK, axis=1)[:, : self.code.shape[1]])


def quantised(format: int, x: np.ndarray) -> Inputs:
    """Rotated; one scale per block of 256, such that the largest number takes 127; nearest even codes. In float32."""
    x = rotated(format, x)
    blocks = [x[:, at : at + BLOCK] for at in range(0, x.shape[1], BLOCK)]
    codes, scales = [], []
    for block in blocks:
        top = np.abs(block).max(axis=1, keepdims=True).astype(np.float32)
        some = top > 2.0**-100
        factor = np.where(some, np.float32(127) / np.where(some, top, np.float32(1)), np.float32(0))
        codes.append(np.rint(block * factor.astype(np.float32)).astype(np.int8))
        scales.append(np.where(some, top * (np.float32(1) / np.float32(127)), np.float32(0)).astype(np.float32))
    return Inputs(format, np.concatenate(codes, axis=1), np.concatenate(scales, axis=1))


def exact_inputs(format: int, rng: np.random.Generator, tokens: int, cols: int) -> Inputs:
    """Any codes, with scales that are powers of two; `values` of them are quantised without an error."""
    code = rng.integers(-127, 128, (tokens, cols)).astype(np.int8)
    for at in range(0, cols, BLOCK):
        code[np.arange(tokens), rng.integers(at, min(at + BLOCK, cols), tokens)] = rng.choice([-127, 127], tokens)
    return Inputs(format, code, (2.0 ** rng.integers(-4, 5, (tokens, -(-cols // BLOCK)))).astype(np.float32))


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
