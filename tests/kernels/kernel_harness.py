"""Kernel tables through ctypes, and buffers that end at guard pages."""

from __future__ import annotations

import ctypes
import mmap
from ctypes import c_char_p, c_float, c_int, c_size_t, c_uint32, c_void_p
from typing import Any, Protocol

import numpy as np
from quantized_formats import BLOCK, I4, I8, Weights, from_bf16, to_bf16

F32, F16, BF16 = 1, 2, 3
FORMATS = {"f32": F32, "f16": F16, "bf16": BF16}
QUANTIZED = {"i8": I8, "i4": I4}
RELU, GELU, GELU_TANH, SILU, TANH, GELU_SHORT = 1, 2, 3, 4, 5, 6
ACTIVATIONS = {"relu": RELU, "gelu": GELU, "gelu_tanh": GELU_TANH, "silu": SILU, "tanh": TANH, "gelu_short": GELU_SHORT}
PAGE, SPLIT = 64, 256
EPS = 2.0**-24  # half a unit in the last place of 1: the relative error of one float32 operation
TINY = 2.0**-126  # what a dot product of bfloat16 may lose at each step: subnormals count as zeros

_LIBC = ctypes.CDLL(None, use_errno=True)
_LIBC.mprotect.argtypes = [c_void_p, c_size_t, c_int]


class Matrix(ctypes.Structure):
    _fields_ = [
        ("data", c_void_p),
        ("rows", c_uint32),
        ("cols", c_uint32),
        ("format", c_int),
        ("strip_bytes", c_size_t),
    ]


class InputsJob(ctypes.Structure):
    _fields_ = [
        ("x", c_void_p),
        ("x_stride", c_size_t),
        ("row", c_size_t),
        ("n", c_size_t),
        ("from", c_size_t),
        ("to", c_size_t),
        ("dst", c_void_p),
        ("n_rows", c_size_t),
        ("cols", c_size_t),
    ]


class AttentionJob(ctypes.Structure):
    _fields_ = [
        ("q", c_void_p),
        ("out", c_void_p),
        ("q_stride", c_size_t),
        ("out_stride", c_size_t),
        ("n_tokens", c_uint32),
        ("group", c_uint32),
        ("head_dim", c_uint32),
        ("first", c_uint32),
        ("n_keys", c_uint32),
        ("window", c_uint32),
        ("causal", c_int),
        ("scale", c_float),
        ("softcap", c_float),
        ("alibi", c_void_p),
        ("relative", c_void_p),
        ("bucket", c_void_p),
        ("relative_buckets", c_uint32),
        ("relative_reach", c_uint32),
        ("relative_keys", c_void_p),
        ("relative_queries", c_void_p),
        ("pages", c_void_p),
        ("k_offset", c_size_t),
        ("v_offset", c_size_t),
        ("next", c_void_p),
        ("kv_dtype", c_int),
        ("scratch", c_void_p),
        ("probabilities", c_void_p),
        ("prob_head_stride", c_size_t),
        ("prob_stride", c_size_t),
    ]


_F, _N = c_void_p, c_size_t


class Product(ctypes.Structure):
    """struct flm_product."""

    _fields_ = [
        ("quantize_inputs", ctypes.CFUNCTYPE(None, ctypes.POINTER(InputsJob))),
        ("matmul", ctypes.CFUNCTYPE(None, ctypes.POINTER(Matrix), _N, _N, _F, _N, _N, _F, _N)),
        ("unpack_row", ctypes.CFUNCTYPE(None, ctypes.POINTER(Matrix), _N, _F)),
        ("quantize_strip", ctypes.CFUNCTYPE(None, _F, _F, _N, _N)),
        ("input_rows", ctypes.c_uint),
        ("chunk_rows", ctypes.c_uint),
    ]


class Kernels(ctypes.Structure):
    """struct flm_kernels."""

    _fields_ = [
        ("isa", c_char_p),
        ("vector_floats", ctypes.c_uint),
        ("slice_tokens", ctypes.c_uint),
        ("product", Product * 6),
        ("rms_norm", ctypes.CFUNCTYPE(None, _F, _F, _F, _N, c_float)),
        ("layer_norm", ctypes.CFUNCTYPE(None, _F, _F, _F, _F, _N, c_float)),
        ("add", ctypes.CFUNCTYPE(None, _F, _F, _N)),
        ("add_to_rows", ctypes.CFUNCTYPE(None, _F, _N, _N, _F, _N)),
        ("add_scaled", ctypes.CFUNCTYPE(None, _F, _F, c_float, _N)),
        ("scale", ctypes.CFUNCTYPE(None, _F, c_float, _N)),
        ("softcap", ctypes.CFUNCTYPE(None, _F, c_float, _N)),
        ("activate", ctypes.CFUNCTYPE(None, _F, _F, _N) * 7),
        ("gate", ctypes.CFUNCTYPE(None, _F, _F, _F, _N) * 7),
        ("rope", ctypes.CFUNCTYPE(None, _F, _F, _F, _N)),
        ("kv_store", ctypes.CFUNCTYPE(None, _F, _F, c_int, _N, _N, _F, _F, _N, _N)),
        ("attention", ctypes.CFUNCTYPE(None, ctypes.POINTER(AttentionJob))),
        ("argmax", ctypes.CFUNCTYPE(c_size_t, _F, _N)),
        ("finite_largest", ctypes.CFUNCTYPE(c_int, _F, _N, ctypes.POINTER(c_float))),
        ("log_sum_exp", ctypes.CFUNCTYPE(c_float, _F, _N)),
        ("exp_sum", ctypes.CFUNCTYPE(c_float, _F, _N, c_float)),
        ("log_of_parts", ctypes.CFUNCTYPE(c_float, _F, _F, _N)),
    ]


def declare(lib: ctypes.CDLL) -> None:
    """Argument and result types of the functions that tests call."""
    lib.flm_kernels_select.argtypes = [c_char_p]
    lib.flm_kernels_select.restype = ctypes.POINTER(Kernels)
    lib.flm_kernels_usable.argtypes = [c_char_p, _N]
    lib.flm_kernels_usable.restype = None
    lib.flm_input_bytes.argtypes = [c_int, _N]
    lib.flm_input_bytes.restype = c_size_t
    lib.flm_matrix_quantize.argtypes = [_F, c_int, _F, _F, c_int, _N, _N, _F]
    lib.flm_matrix_pack.argtypes = [c_int, _F, _F, c_int, _N, _N]
    lib.flm_matrix_bytes.argtypes = [c_int, _N, _N]
    lib.flm_matrix_bytes.restype = c_size_t
    lib.flm_strip_bytes.argtypes = [c_int, _N]
    lib.flm_strip_bytes.restype = c_size_t
    for name in ("f16", "bf16"):
        getattr(lib, f"flm_{name}_to_f32").argtypes = [ctypes.c_uint16]
        getattr(lib, f"flm_{name}_to_f32").restype = c_float
        getattr(lib, f"flm_f32_to_{name}").argtypes = [c_float]
        getattr(lib, f"flm_f32_to_{name}").restype = ctypes.c_uint16


class Guarded:
    """Arrays that end (`at_end`) or start right at an inaccessible page: an access outside them is a crash.

    An array that ends at a guard page starts wherever its size puts it, so most are unaligned.
    """

    def __init__(self) -> None:
        self._maps: list[mmap.mmap] = []

    def _region(self, n_bytes: int) -> tuple[int, int]:
        """Address and size of fresh pages with a guard page on either side."""
        inner = (max(n_bytes, 1) + mmap.PAGESIZE - 1) // mmap.PAGESIZE * mmap.PAGESIZE
        block = mmap.mmap(-1, inner + 2 * mmap.PAGESIZE)
        start = ctypes.addressof(ctypes.c_char.from_buffer(block))
        for guard in (start, start + mmap.PAGESIZE + inner):
            if _LIBC.mprotect(guard, mmap.PAGESIZE, 0) != 0:
                raise OSError(ctypes.get_errno(), "mprotect")
        self._maps.append(block)
        return start + mmap.PAGESIZE, inner

    def empty(self, shape: int | tuple[int, ...], dtype: Any = np.float32, *, at_end: bool = True) -> np.ndarray:
        """An array filled with NaN (floats) or 0xA5 bytes."""
        shape = (shape,) if isinstance(shape, int) else shape
        n_bytes = int(np.prod(shape)) * np.dtype(dtype).itemsize
        start, inner = self._region(n_bytes)
        if at_end:
            start += inner - n_bytes
        raw = (ctypes.c_uint8 * n_bytes).from_address(start)
        array = np.frombuffer(raw, dtype).reshape(shape)
        if np.dtype(dtype).kind == "f":
            array[...] = np.nan
        else:
            array.view(np.uint8)[...] = 0xA5
        return array

    def copy(self, values: Any, dtype: Any = np.float32, *, at_end: bool = True) -> np.ndarray:
        array = self.empty(np.shape(values), dtype, at_end=at_end)
        array[...] = values
        return array


def address(array: np.ndarray | None) -> int | None:
    return None if array is None else array.ctypes.data


def rounded(x: np.ndarray, number_format: int) -> np.ndarray:
    """x as float32 after a trip through a 16-bit format."""
    if number_format == F16:
        return x.astype(np.float16).astype(np.float32)
    if number_format == BF16:
        return from_bf16(to_bf16(x))
    return x.astype(np.float32)


def same_bits(a: np.ndarray, b: np.ndarray) -> bool:
    return a.shape == b.shape and np.ascontiguousarray(a).tobytes() == np.ascontiguousarray(b).tobytes()


class Packed:
    """A packed matrix of float32 values [rows, cols]; `dense` is what it holds, `matrix` what kernels take."""

    def __init__(self, lib: ctypes.CDLL, guarded: Guarded, number_format: int, values: np.ndarray) -> None:
        rows, cols = values.shape
        n_bytes = lib.flm_matrix_bytes(number_format, rows, cols)
        self.data = guarded.empty(n_bytes, np.uint8)  # a multiple of 64 that ends at a page: 64-byte aligned
        source = np.ascontiguousarray(values, np.float32)
        assert lib.flm_matrix_pack(number_format, address(self.data), address(source), F32, rows, cols) == 1
        self.dense = rounded(source, number_format)
        strip_bytes = lib.flm_strip_bytes(number_format, cols)
        self.matrix = Matrix(address(self.data), rows, cols, number_format, strip_bytes)
        self.strips = (rows + 15) // 16


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
    columns = guarded.empty(16 * -(-cols // 32) * 32)
    function = ctypes.cast(kernels.product[format].quantize_strip, ctypes.c_void_p)
    finite = lib.flm_matrix_quantize(
        function, format, address(data), address(source), dtype, rows, cols, address(columns)
    )
    return data, finite


class Multiplied(Protocol):
    matrix: Matrix
    strips: int


def cut(rng: np.random.Generator, places: range, end: int) -> list[tuple[int, int]]:
    """[0, end) in parts, cut at some of the places; the parts in any order."""
    at = [0, *(place for place in places if rng.random() < 0.5), end]
    return [(at[i], at[i + 1]) for i in rng.permutation(len(at) - 1)]


def quantize_inputs(
    kernels: Kernels, lib: ctypes.CDLL, guarded: Guarded, number_format: int, x: np.ndarray
) -> np.ndarray:
    """Inputs as uint8 [tokens, bytes], as the format's products read them; parts of rows are made in any order."""
    rows = guarded.copy(x)
    if not kernels.product[number_format].quantize_inputs:
        return rows.view(np.uint8)
    n, cols = x.shape
    quantized = guarded.empty((n, lib.flm_input_bytes(number_format, cols)), np.uint8)
    rng = np.random.default_rng(n)
    for first, end in cut(rng, range(1, n), n):
        for left, right in cut(rng, range(BLOCK, cols, BLOCK), cols):
            part = address(rows[first:, left:])
            job = InputsJob(part, cols, first, end - first, left, right, address(quantized), n, cols)
            kernels.product[number_format].quantize_inputs(ctypes.byref(job))
    return quantized


def multiply(
    kernels: Kernels,
    lib: ctypes.CDLL,
    guarded: Guarded,
    w: Multiplied,
    x: np.ndarray,
    *,
    strips: tuple[int, int] | None = None,
) -> np.ndarray:
    """y [tokens, 16 * strips]; outputs of strips not asked for stay NaN."""
    inputs = quantize_inputs(kernels, lib, guarded, w.matrix.format, x)
    first, last = strips or (0, w.strips)
    n, width, gap = len(x), 16 * w.strips, 3
    y = guarded.empty(n * (width + gap) - gap)  # rows start anywhere, and the last ends at the guard page
    kernels.product[w.matrix.format].matmul(
        ctypes.byref(w.matrix), first, last, address(inputs), inputs.shape[1], n, address(y), width + gap
    )
    rows = np.append(y, np.full(gap, np.nan, np.float32)).reshape(n, width + gap)
    assert np.isnan(rows[:, width:]).all()
    return rows[:, :width].copy()
