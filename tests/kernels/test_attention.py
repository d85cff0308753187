"""Attention over pages against a float64 softmax; the bits of a query do not depend on what it is computed with."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pytest
from kernel_harness import BF16, EPS, F32, PAGE, SPLIT, AttentionJob, Guarded, Kernels, address, rounded, same_bits
from quantized_formats import to_bf16

I8 = 4  # of keys and values, beside F32 and BF16
KV_DTYPES = [F32, BF16, I8]
POISON = np.uint8(0xFF)  # fills pages where nothing was stored: NaN in either type


@dataclass(frozen=True)
class Case:
    """A sequence of n_keys positions; its last n_tokens are the queries unless `first` says otherwise."""

    head_dim: int = 16
    group: int = 1
    n_keys: int = 20
    n_tokens: int = 1
    first: int | None = None
    causal: bool = True
    window: int = 0
    scale: float = 0.25
    softcap: float = 0.0
    alibi: bool = False
    reach: int | None = None
    vectors: str = ""  # k, q: of the buckets, that queries and keys are multiplied with
    kv_dtype: int = F32
    seed: int = 1
    arrays: dict[str, np.ndarray] = field(default_factory=dict, compare=False, repr=False)

    @property
    def start(self) -> int:
        return self.n_keys - self.n_tokens if self.first is None else self.first

    def draw(self) -> Case:
        rng = np.random.default_rng(self.seed)
        arrays = {
            "q": 2 * rng.standard_normal((self.n_tokens, self.group, self.head_dim)),
            "k": 2 * rng.standard_normal((self.n_keys, self.head_dim)),
            "v": rng.standard_normal((self.n_keys, self.head_dim)),
        }
        if self.alibi:
            arrays["alibi"] = 2.0 ** -rng.uniform(1, 8, self.group)
        if self.reach is not None:
            arrays["bucket"] = np.cumsum(rng.random(2 * self.reach + 1) < 0.3)  # runs of equal buckets
            arrays["relative"] = rng.standard_normal((self.group, int(arrays["bucket"].max()) + 1))
            for kind in self.vectors:
                arrays[f"relative_{kind}"] = rng.standard_normal((self.head_dim, arrays["relative"].shape[1]))
        return replace(self, arrays={name: array.astype(np.float32) for name, array in arrays.items()})


def area_bytes(kv_dtype: int, head_dim: int) -> int:
    """Of one head's keys, and of its values."""
    even = head_dim + head_dim % 2
    return PAGE * {F32: 4 * head_dim, BF16: 2 * even, I8: even + 4}[kv_dtype]


def stored(x: np.ndarray, kv_dtype: int) -> np.ndarray:
    """Heads [..., head_dim] as pages hold them, in float32 (int8: within the rounding of code * scale)."""
    if kv_dtype != I8:
        return rounded(x, kv_dtype)
    codes, scales = coded(x)
    return np.asarray(codes * scales, np.float32)


def coded(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    top = np.abs(x).max(-1, keepdims=True)
    with np.errstate(divide="ignore"):
        inverse = np.where(top > 0, np.float32(127) / top, np.float32(0))
    return np.rint(x * inverse), top * np.float32(1 / 127)


def rounds(kernels: Kernels, case: Case) -> bool:
    """Whether queries and exponentials are rounded to bfloat16, the operands of its dot products."""
    return case.kv_dtype != F32 and kernels.isa.decode() in ("avx512vnni", "amx")


class Pages:
    """One K/V head's pages, written by kv_store, with other (poisoned) areas around its own."""

    def __init__(self, kernels: Kernels, guarded: Guarded, case: Case) -> None:
        self.area = area_bytes(case.kv_dtype, case.head_dim)
        self.pages = []
        for start in range(0, max(case.n_keys, 1), PAGE):
            page = guarded.empty(2 * self.area, np.uint8)
            page[:] = POISON if case.kv_dtype == F32 else 0  # the others' products take whole steps of a zeroed page
            for p in range(start, min(start + PAGE, case.n_keys)):
                k, v = guarded.copy(case.arrays["k"][p]), guarded.copy(case.arrays["v"][p])
                areas, rows = (address(page), address(page) + self.area), (address(k), address(v))
                kernels.kv_store(*areas, case.kv_dtype, p % PAGE, 1, *rows, 0, len(k))
            self.pages.append(page)
        self.table = (ctypes.c_void_p * len(self.pages))(*[address(page) for page in self.pages])


def attend(
    kernels: Kernels,
    guarded: Guarded,
    case: Case,
    pages: Pages,
    *,
    tokens: slice = slice(None),
    heads: slice = slice(None),
) -> tuple[np.ndarray, np.ndarray]:
    """out [tokens, heads, head_dim] and probabilities [heads, tokens, n_keys] of a part of the case's queries."""
    a = case.arrays
    chosen = a["q"][tokens, heads]
    n_tokens, group, head_dim = chosen.shape
    first_token, first_head = range(case.n_tokens)[tokens][0], range(case.group)[heads][0]
    q = guarded.empty((n_tokens, group * head_dim + 3))
    q[:, : group * head_dim] = chosen.reshape(n_tokens, -1)
    out = guarded.empty((n_tokens, group * head_dim + 5))
    width = (head_dim + 15) // 16 * 16
    scratch = guarded.empty((SPLIT + 16 * 17) * width + 16 * (SPLIT + SPLIT // 2) + SPLIT + 32)
    keys = guarded.empty((group, n_tokens, case.n_keys + 1))
    alibi = guarded.copy(a["alibi"][heads]) if case.alibi else None
    relative = guarded.copy(a["relative"][heads]) if case.reach is not None and not case.vectors else None
    vectors = {kind: address(guarded.copy(a[f"relative_{kind}"])) for kind in case.vectors}
    bucket = guarded.copy(a["bucket"], np.uint16) if case.reach is not None else None
    buckets = a["relative"].shape[1] if case.reach is not None else 0
    job = AttentionJob(
        address(q), address(out), q.shape[1], out.shape[1], n_tokens, group, head_dim, case.start + first_token,
        case.n_keys, case.window, case.causal, case.scale, case.softcap, address(alibi), address(relative),
        address(bucket), buckets, case.reach or 0, vectors.get("k"), vectors.get("q"),
        ctypes.addressof(pages.table), 0, pages.area, pages.table[0], case.kv_dtype,
        address(scratch), address(keys), keys.shape[1] * keys.shape[2], keys.shape[2],
    )  # fmt: skip
    kernels.attention(ctypes.byref(job))
    assert np.all(np.isnan(out[:, group * head_dim :])) and np.all(np.isnan(keys[:, :, case.n_keys :]))
    job.out = address(plain := guarded.empty(out.shape))
    job.probabilities = None
    kernels.attention(ctypes.byref(job))
    assert same_bits(plain, out)  # capturing changes nothing
    assert first_head >= 0
    return out[:, : group * head_dim].reshape(n_tokens, group, head_dim).copy(), keys[:, :, : case.n_keys].copy()


def oracle(case: Case, rounding: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """out, probabilities, and error bounds of both, in float64."""
    a = {name: array.astype(np.float64) for name, array in case.arrays.items()}
    if rounding:
        a["q"] = rounded(case.arrays["q"], BF16).astype(np.float64)
    k, v = (stored(case.arrays[name], case.kv_dtype).astype(np.float64) for name in "kv")
    position = case.start + np.arange(case.n_tokens)
    distance = np.arange(case.n_keys)[None] - position[:, None]
    products, sizes = (np.einsum("tgd,jd->gtj", x, y) for x, y in ((a["q"], k), (abs(a["q"]), abs(k))))
    if case.vectors:
        columns = a["bucket"].astype(int)[np.clip(distance, -case.reach, case.reach) + case.reach]
        q = case.arrays["q"].astype(np.float64)  # never rounded
        for kind, dims, x in (("k", "tgd,dtj->gtj", q), ("q", "jd,dtj->tj", k)):
            if kind in case.vectors:
                table = a[f"relative_{kind}"][:, columns]
                products = products + np.einsum(dims, x, table)
                sizes = sizes + np.einsum(dims, abs(x), abs(table))
    s, error = np.float32(case.scale) * products, (case.head_dim + 8) * EPS * case.scale * sizes
    if case.softcap:
        s = case.softcap * np.tanh(s / case.softcap)
    if case.alibi:
        s = s + a["alibi"][:, None, None] * distance
    if case.reach is not None and not case.vectors:
        buckets = case.arrays["bucket"].astype(int)
        s = s + a["relative"][:, buckets[np.clip(distance, -case.reach, case.reach) + case.reach]]
    visible = np.ones_like(distance, bool)
    if case.causal:
        visible &= distance <= 0
    if case.window:
        visible &= abs(distance) < case.window
    error = np.where(visible, error + 8 * EPS * (abs(s) + case.softcap), 0).max(-1, keepdims=True, initial=0)
    s = np.where(visible, s, -np.inf)
    with np.errstate(invalid="ignore"):
        p = np.exp(s - s.max(-1, keepdims=True, initial=-1e300))
    p = np.where(visible, p, 0)
    p = p / np.maximum(p.sum(-1, keepdims=True), 1e-300)
    relative = 2 * error + (SPLIT / 4 + 40) * EPS + (2.0**-8 if rounding else 0)
    out = np.einsum("gtj,jd->tgd", p, v)
    bound = np.einsum("gtj,jd->tgd", p * (relative + case.n_keys * EPS), abs(v)) + 1e-30
    return out, p, bound, p * relative + 1e-37


def check(kernels: Kernels, guarded: Guarded, case: Case) -> None:
    check_drawn(kernels, guarded, case.draw())


def check_drawn(kernels: Kernels, guarded: Guarded, case: Case) -> None:
    pages = Pages(kernels, guarded, case)
    out, p = attend(kernels, guarded, case, pages)
    exact_out, exact_p, out_bound, p_bound = oracle(case, rounds(kernels, case))
    assert np.all(np.abs(p - exact_p) <= p_bound), case
    assert np.all(p[exact_p == 0] < 1e-37), case
    assert np.all(np.abs(out - exact_out) <= out_bound), case


OPTIONS: list[dict[str, Any]] = [
    {},
    {"window": 1},
    {"window": 7},
    {"window": 300},
    {"softcap": 3.0},
    {"alibi": True},
    {"reach": 5},
    {"reach": 700},
    {"causal": False},
    {"causal": False, "window": 1},
    {"causal": False, "window": 7},
    {"causal": False, "window": 70},
    {"causal": False, "reach": 9, "softcap": 20.0},
    {"window": 40, "alibi": True, "softcap": 8.0, "reach": 100},
]
VECTORS: list[dict[str, Any]] = [  # random buckets: runs of equal ones; steps: each distance has its own
    {"vectors": "kq", "reach": 9, "causal": False},
    {"vectors": "kq", "reach": 700, "causal": False},
    {"vectors": "k", "reach": 30},
    {"vectors": "q", "reach": 30, "causal": False, "window": 40, "softcap": 20.0},
]


@pytest.mark.parametrize("kv_dtype", KV_DTYPES)
@pytest.mark.parametrize("options", OPTIONS, ids=lambda options: "-".join(options) or "causal")
def test_options(kernels: Kernels, guarded: Guarded, options: dict[str, Any], kv_dtype: int) -> None:
    for n_keys, n_tokens, group, head_dim in [
        (20, 1, 1, 8),
        (65, 3, 4, 36),
        (300, 17, 1, 20),
        (530, 5, 7, 16),
        (270, 19, 3, 64),
        (90, 2, 9, 96),
    ]:
        check(kernels, guarded, Case(head_dim, group, n_keys, n_tokens, kv_dtype=kv_dtype, **options))


@pytest.mark.parametrize("kv_dtype", KV_DTYPES)
def test_every_length(kernels: Kernels, guarded: Guarded, kv_dtype: int) -> None:
    lengths = [*range(1, 40), *range(60, 70), *range(120, 132), *range(250, 262), 320, 511, 512, 513, 577, 600]
    for n_keys in lengths:
        n_tokens = 1 + n_keys * 5 % min(n_keys, 13)
        check(kernels, guarded, Case(12, 1 + n_keys % 3, n_keys, n_tokens, kv_dtype=kv_dtype, window=n_keys % 4 * 30))


@pytest.mark.parametrize("kv_dtype", KV_DTYPES)
def test_head_dims(kernels: Kernels, guarded: Guarded, kv_dtype: int) -> None:
    for head_dim in (1, 2, 4, 7, 8, 15, 16, 17, 20, 31, 36, 48, 64, 80, 96, 112, 128, 129, 256):
        check(kernels, guarded, Case(head_dim, 3, 70, 4, kv_dtype=kv_dtype, scale=head_dim**-0.5))


@pytest.mark.parametrize("kv_dtype", [F32, BF16])
@pytest.mark.parametrize("steps", [False, True], ids=["runs", "steps"])
@pytest.mark.parametrize("options", VECTORS, ids=lambda options: "-".join(map(str, options.values())))
def test_vectors_of_relative_positions(
    kernels: Kernels, guarded: Guarded, options: dict[str, Any], steps: bool, kv_dtype: int
) -> None:
    shapes = [(1, 1, 1), (20, 1, 8), (65, 3, 37), (300, 17, 20), (530, 16, 16), (270, 19, 64), (90, 90, 33)]
    for n_keys, n_tokens, head_dim in shapes:
        case = Case(head_dim, 1, n_keys, n_tokens, kv_dtype=kv_dtype, scale=0.1, **options).draw()
        if steps:
            case.arrays["bucket"] = np.arange(2 * case.reach + 1, dtype=np.float32)
            rng = np.random.default_rng(n_keys)
            for kind in ("relative", *(f"relative_{kind}" for kind in case.vectors)):
                rows = len(case.arrays[kind])
                case.arrays[kind] = rng.standard_normal((rows, 2 * case.reach + 1)).astype(np.float32)
        check_drawn(kernels, guarded, case)


@pytest.mark.parametrize("kv_dtype", [F32, BF16])
@pytest.mark.parametrize("options", VECTORS, ids=lambda options: "-".join(map(str, options.values())))
def test_vectors_give_the_same_bits_in_any_chunk(
    kernels: Kernels, guarded: Guarded, options: dict[str, Any], kv_dtype: int
) -> None:
    case = Case(24, 1, 300, 70, kv_dtype=kv_dtype, **options).draw()
    pages = Pages(kernels, guarded, case)
    out, p = attend(kernels, guarded, case, pages)
    for size in (1, 2, 3, 5, 6, 7, 16):
        for t in range(0, case.n_tokens, size):
            part, p_part = attend(kernels, guarded, case, pages, tokens=slice(t, t + size))
            assert same_bits(part, out[t : t + size]) and same_bits(p_part, p[:, t : t + size]), (size, t)


def test_cross_attention(kernels: Kernels, guarded: Guarded) -> None:
    """Queries at positions unrelated to the keys, all of which they see."""
    for first in (0, 3, 1000):
        check(kernels, guarded, Case(24, 2, 90, 5, first=first, causal=False))


def test_nothing_visible_gives_zeros(kernels: Kernels, guarded: Guarded) -> None:
    for case in (Case(20, 2, 0, 3, first=0, causal=False), Case(20, 2, 40, 3, first=200, window=16)):
        case = case.draw()
        out, p = attend(kernels, guarded, case, Pages(kernels, guarded, case))
        assert not out.any() and not p.any()


@pytest.mark.parametrize("kv_dtype", KV_DTYPES)
@pytest.mark.parametrize(
    "options",
    [{}, {"window": 130}, {"window": 300}, {"alibi": True, "softcap": 9.0}, {"reach": 33}],
    ids=lambda o: "-".join(o) or "-",
)
def test_same_bits_in_any_chunk(kernels: Kernels, guarded: Guarded, options: dict[str, Any], kv_dtype: int) -> None:
    """One token and head at a time, against chunks of tokens, of heads, and against keys stored later."""
    for head_dim, group, n_keys, n_tokens in [(20, 5, 600, 40), (64, 9, 281, 27), (8, 1, 300, 300)]:
        case = Case(head_dim, group, n_keys, n_tokens, kv_dtype=kv_dtype, **options).draw()
        pages = Pages(kernels, guarded, case)
        out, p = attend(kernels, guarded, case, pages)
        rng = np.random.default_rng(case.seed)
        for t in rng.choice(n_tokens, 8, replace=False):
            end = case.start + int(t) + 1  # as it was when this token was the newest
            for g in range(0, group, 2):
                part = {name: a if name in ("alibi", "relative", "bucket") else a[: end if name in "kv" else None]
                        for name, a in case.arrays.items()}  # fmt: skip
                alone = replace(case, n_keys=end, first=case.start, arrays=part)
                one, p_one = attend(kernels, guarded, alone, pages, tokens=slice(t, t + 1), heads=slice(g, g + 1))
                assert same_bits(one[0, 0], out[t, g]), (t, g)
                assert same_bits(p_one[0, 0], p[g, t, :end]) and not p[g, t, end:].any()
        for size in (2, 5, 6, 7, 16):
            for t in range(0, n_tokens, size):
                part, _ = attend(kernels, guarded, case, pages, tokens=slice(t, t + size))
                assert same_bits(part, out[t : t + size]), (size, t)
                if t > 2 * size:
                    break


def test_exponential_in_units_of_the_last_place(kernels: Kernels, guarded: Guarded) -> None:
    """Against a first key with score 0 that dominates, the other keys' probabilities are e^score, to the bit."""
    worst = 0.0
    for step in range(24):
        scores = np.linspace(-87.3, -23.0, 255 * 24, dtype=np.float32)[step::24]
        case = Case(head_dim=1, n_keys=256, causal=False, scale=1.0)
        k = np.concatenate([[0.0], scores])[:, None].astype(np.float32)
        case = replace(case, arrays={"q": np.ones((1, 1, 1), np.float32), "k": k, "v": np.zeros_like(k)})
        _, p = attend(kernels, guarded, case, Pages(kernels, guarded, case))
        assert p[0, 0, 0] == 1.0
        exact = np.exp(scores.astype(np.float64))
        spacing = np.spacing(exact.astype(np.float32)).astype(np.float64)
        worst = max(worst, float(np.max(np.abs(p[0, 0, 1:] - exact) / spacing)))
    assert worst <= 2.0


def test_very_negative_scores_give_exact_zeros(kernels: Kernels, guarded: Guarded) -> None:
    scores = np.array([0, -88, -90, -104, -1e4, -3e38], np.float32)
    case = Case(head_dim=1, n_keys=len(scores), causal=False, scale=1.0)
    k = scores[:, None].copy()
    case = replace(case, arrays={"q": np.ones((1, 1, 1), np.float32), "k": k, "v": np.ones_like(k)})
    out, p = attend(kernels, guarded, case, Pages(kernels, guarded, case))
    assert p[0, 0].tolist() == [1, 0, 0, 0, 0, 0] and out.item() == 1.0


def test_nan_is_not_hidden(kernels: Kernels, guarded: Guarded) -> None:
    for kv_dtype in KV_DTYPES:
        for what, bad in (("q", np.nan), ("k", np.nan), ("v", np.nan), ("k", np.inf), ("v", -np.inf)):
            case = Case(n_keys=30, causal=False, kv_dtype=kv_dtype).draw()
            case.arrays[what][0] = bad
            out, _ = attend(kernels, guarded, case, Pages(kernels, guarded, case))
            assert not np.any(np.isfinite(out)) or (what == "k" and bad == np.inf and kv_dtype != I8)


def element_order(keys: np.ndarray, values: np.ndarray, head_dim: int) -> tuple[np.ndarray, np.ndarray]:
    """Areas of bfloat16 or int8 pages as [PAGE, head_dim]; what pads an odd head_dim must be zero."""
    pairs = keys.reshape(PAGE // 16, -1, 16, 2).transpose(0, 2, 1, 3).reshape(PAGE, -1)
    assert not pairs[:, head_dim:].any()
    lines = values[: PAGE * head_dim].reshape(-1, head_dim, 2).swapaxes(1, 2).reshape(PAGE, head_dim)
    return np.ascontiguousarray(pairs[:, :head_dim]), lines


@pytest.mark.parametrize("kv_dtype", KV_DTYPES)
def test_stored_keys_and_values(kernels: Kernels, guarded: Guarded, kv_dtype: int) -> None:
    """Positions of the page layout, rounding to bfloat16, codes and scales of int8; any runs of them, in any order."""
    rng = np.random.default_rng(3)
    for head_dim in (1, 5, 8, 16, 33):
        areas = [guarded.copy(np.zeros(area_bytes(kv_dtype, head_dim), np.uint8), np.uint8) for _ in range(2)]
        k, v = rng.standard_normal((2, PAGE, head_dim)).astype(np.float32)
        if kv_dtype == BF16:
            for halves in (k.view(np.uint32), v.view(np.uint32)):
                halves[::2] = halves[::2] & 0xFFFF0000 | 0x8000  # halfway between two bfloat16 numbers
        cuts = [0, *sorted(rng.choice(np.arange(1, PAGE), 9, replace=False)), PAGE]
        for run in rng.permutation(len(cuts) - 1):
            slot, n, stride = int(cuts[run]), int(cuts[run + 1] - cuts[run]), head_dim + int(rng.integers(4))
            rows = [guarded.empty((n - 1) * stride + head_dim) for _ in range(2)]
            for row, x in zip(rows, (k, v), strict=True):
                for p in range(n):
                    row[p * stride : p * stride + head_dim] = x[slot + p]
            ends = [address(row) for row in rows]
            kernels.kv_store(address(areas[0]), address(areas[1]), kv_dtype, slot, n, *ends, stride, head_dim)
        if kv_dtype == F32:
            keys, values = (area.view(np.float32) for area in areas)
            assert same_bits(keys.reshape(PAGE // 16, head_dim, 16).transpose(0, 2, 1).reshape(PAGE, head_dim), k)
            assert same_bits(values.reshape(PAGE, head_dim), v)
        elif kv_dtype == BF16:
            keys, values = element_order(*(area.view(np.uint16) for area in areas), head_dim)
            assert same_bits(keys, to_bf16(k)) and same_bits(values, to_bf16(v))
        else:
            scales = [area[-4 * PAGE :].view(np.float32)[:, None] for area in areas]
            codes = element_order(*(area[: -4 * PAGE].view(np.int8) for area in areas), head_dim)
            for x, code, scale in zip((k, v), codes, scales, strict=True):
                assert np.array_equal(code, coded(x)[0]) and same_bits(scale, coded(x)[1])


@pytest.mark.parametrize("kv_dtype", KV_DTYPES)
def test_one_row_stored_at_several_positions(kernels: Kernels, guarded: Guarded, kv_dtype: int) -> None:
    """Rows that are 0 floats apart, as the zeros behind the last position are: the bytes of one call for each."""
    rng = np.random.default_rng(4)
    for head_dim in (1, 8, 16, 33, 64):
        row = guarded.copy(rng.standard_normal(head_dim).astype(np.float32), np.float32)
        empty = np.zeros(area_bytes(kv_dtype, head_dim), np.uint8)
        found = [[guarded.copy(empty, np.uint8) for _ in "kv"] for _ in range(2)]
        once, each = ([address(area) for area in areas] for areas in found)
        kernels.kv_store(*once, kv_dtype, 17, 47, address(row), address(row), 0, head_dim)
        for p in range(17, 64):
            kernels.kv_store(*each, kv_dtype, p, 1, address(row), address(row), 0, head_dim)
        assert all(np.array_equal(a, b) and a.any() for a, b in zip(*found, strict=True))


def test_int8_of_zeros_and_of_what_is_not_finite(kernels: Kernels, guarded: Guarded) -> None:
    """Zeros have scale 0; a number that is not finite shows in the scale, whatever the codes are."""
    area = area_bytes(I8, 8)
    for bad, k in ((0.0, np.zeros(8)), (np.inf, [1, 2, np.inf, 4, 5, 6, 7, 8]), (np.nan, [np.nan] * 8)):
        areas = [guarded.copy(np.zeros(area, np.uint8), np.uint8) for _ in range(2)]
        row = guarded.copy(np.asarray(k, np.float32))
        kernels.kv_store(address(areas[0]), address(areas[1]), I8, 3, 1, address(row), address(row), 0, 8)
        scale = areas[0][-4 * PAGE :].view(np.float32)[3]
        assert scale == 0.0 if bad == 0.0 else not np.isfinite(scale)
