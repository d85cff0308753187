"""Small models with random weights, made from a spec without a checkpoint."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from fastlm import _core
from fastlm.arch.slots import slots
from fastlm.arch.spec import (
    Activation,
    Attention,
    Embed,
    FeedForward,
    Layer,
    Logits,
    MixtureOfExperts,
    ModelSpec,
    Norm,
    NormKind,
    Rope,
    Stack,
    Sublayer,
    encode,
)
from fastlm.errors import ParameterError
from fastlm.weights.formats import matrix_format

RMS = Norm(NormKind.RMS, 1e-5)


def _rope(pairs: int) -> Rope:
    return Rope(tuple(float(np.float32(10000.0 ** (-i / pairs))) for i in range(pairs)))


def llama_spec(hidden: int, layers: int, heads: int, kv_heads: int, width: int, vocab: int, *, tied: bool) -> ModelSpec:
    head_dim = hidden // heads
    attention = Attention(heads, kv_heads, head_dim, head_dim**-0.5, rope=_rope(head_dim // 2))
    ffn = FeedForward(width, Activation.SILU, gated=True)
    layer = Layer((Sublayer(attention, pre_norm=RMS), Sublayer(ffn, pre_norm=RMS)))
    return ModelSpec(vocab, hidden, 1024, decoder=Stack((layer,) * layers, RMS), head=(Logits(tied=tied),))


def plain_spec(hidden: int = 512, layers: int = 2, vocab: int = 1003) -> ModelSpec:
    """Grouped heads of 64, an odd width, untied head."""
    return llama_spec(hidden, layers, hidden // 64, max(1, hidden // 256), hidden + 137, vocab, tied=False)


def exotic_spec() -> ModelSpec:
    """What could see its neighbours: windows, softcaps, norms, ALiBi, experts, parallel layers, odd sizes."""
    local = Attention(6, 3, 20, 0.2, rope=_rope(7), window=70, softcap=20.0, q_norm=RMS, k_norm=RMS, qkv_bias=True)
    sloped = Attention(5, 1, 28, 0.19, alibi=(0.5, 0.25, 0.125, 0.0625, 0.03), out_bias=True)
    regional = replace(sloped, window=270)  # more than a split of attention
    layer_norm = Norm(NormKind.LAYER, 1e-5, bias=True)
    wide = FeedForward(201, Activation.GELU_TANH, gated=True)
    experts = MixtureOfExperts(7, 3, 45, Activation.SILU)
    first = Layer((Sublayer(local, RMS, branch_norm=RMS), Sublayer(wide, RMS, branch_norm=RMS)))
    second = Layer((Sublayer(sloped, layer_norm), Sublayer(experts, layer_norm)), parallel=True)
    third = Layer((Sublayer(regional, residual_norm=layer_norm), Sublayer(experts, residual_scale=0.5)))
    stack = Stack((first, second, third), layer_norm, embed=Embed(positions=1024, norm=RMS))
    logits = Logits(tied=True, softcap=15.0, scale=0.7, bias=True)
    return ModelSpec(211, 150, 1024, decoder=stack, head=(logits,))


def usable(isa: str) -> bool:
    """Whether this processor can run that instruction set."""
    try:
        return _core.Context(1, isa).isa == isa
    except ParameterError:
        return False


def create(context: _core.Context, spec: ModelSpec, format: str, **options: Any) -> _core.Model:
    """A model without weights, its matrices in the formats of a model of that type."""
    model = _core.Model.create(context, encode(spec), format=format, **options)
    for i, t in enumerate(model.tensors()):
        if t.is_matrix:
            model.set_format(i, matrix_format(t.name, format))
    return model


def fill(model: _core.Model, seed: int = 0) -> None:
    """Load all tensors; the same shapes and seed give the same weights."""
    rng = np.random.default_rng(seed)
    for i, t in enumerate(model.tensors()):
        values = rng.standard_normal((t.rows, t.cols), dtype=np.float32)
        if t.is_matrix:
            values *= np.float32(t.cols**-0.5)
        else:
            values = values * np.float32(0.2) + np.float32("norm.weight" in t.name)
        model.load_rows(i, 0, values)


def weights(spec: ModelSpec) -> dict[str, np.ndarray]:
    """Those that `fill` gives, for the reference."""
    rng, found = np.random.default_rng(0), {}
    for slot in slots(spec):
        values = rng.standard_normal((slot.rows, slot.cols), dtype=np.float32)
        if slot.is_matrix:
            values *= np.float32(slot.cols**-0.5)
        else:
            values = values * np.float32(0.2) + np.float32("norm.weight" in slot.name)
        found[slot.name] = (values[0] if slot.is_vector else values).astype(np.float64)
    return found


def build(
    spec: ModelSpec,
    *,
    threads: int,
    format: str = "float32",
    kv: str = "auto",
    prefix: bool = True,
    kv_bytes: int = 0,
    isa: str | None = None,
    seed: int = 0,
) -> tuple[_core.Context, _core.Model]:
    """A finished model; the same spec and seed give the same weights."""
    context = _core.Context(threads, isa)
    model = create(context, spec, format, kv_dtype=kv, kv_bytes=kv_bytes, prefix_cache=prefix)
    fill(model, seed)
    model.finish()
    return context, model


def run(model: _core.Model, work: list[tuple[_core.Session, np.ndarray, int]], vocab: int) -> list[np.ndarray]:
    """One ragged call; work: (session, tokens, rows: 0 none, 1 last, 2 all). The logits of each."""
    found = [np.empty(((0, 1, len(ids))[rows], vocab), np.float32) for _, ids, rows in work]
    items = [
        _core.Item(s, ids, rows=("last", "last", "all")[rows], logits=logits if rows else None)
        for (s, ids, rows), logits in zip(work, found, strict=True)
    ]
    _core.forward(model, items)
    return found
