"""A slow, exact executor of a `ModelSpec`: float64 NumPy, one function per kind of layer.

The oracle of the C engine's tests, and the shortest complete account of what fastlm computes. Nothing is cached.

Weights are a dict from slot name to float64 array; matrices are [outputs, inputs]. Slots of layer i, sublayer j
start with `decoder.{i}.{j}.` or `encoder.{i}.{j}.`. Shapes in comments: T tokens, S keys, H heads, G key/value
heads, d head_dim, D hidden, V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fastlm.arch.spec import (
    Activate,
    Activation,
    Attention,
    Dense,
    FeedForward,
    Layer,
    MixtureOfExperts,
    ModelSpec,
    Norm,
    NormKind,
    NormSpan,
    Pool,
    Source,
    Stack,
)
from fastlm.positions import relative_buckets, rotate, vector_buckets

Array = NDArray[np.float64]
Weights = Mapping[str, Array]
Ids = Sequence[int]


@dataclass(frozen=True, slots=True)
class Result:
    """What `forward` returns; T counts the tokens of the decoder if there is one, else of the encoder."""

    logits: Array | None  # (T, V), or (1, labels) of a head that reads one row; None without a head
    hidden: Array  # (T, D), after the final norm
    attentions: list[Array]  # if asked for: per layer (H, T, T), the probabilities of its self-attention
    hidden_states: list[Array]  # if asked for: (T, D) of the embedding, then of every layer, at last normed


@dataclass(frozen=True, slots=True)
class _Pass:
    """What the sublayers of one pass through a stack share."""

    weights: Weights
    buckets: NDArray[np.int64]  # of relative positions (T, T), where the stack has a bias for them; else empty
    shared: str  # the slot of that bias, if all layers have the same
    memory: Array  # the encoder's output (S, D); empty without one
    long_rope: bool
    attentions: list[Array]  # filled by self-attention


def softmax(x: Array) -> Array:
    """exp(x) normalised over the last axis; -inf gives 0."""
    e = np.exp(x - x.max(axis=-1, keepdims=True))
    return np.asarray(e / e.sum(axis=-1, keepdims=True))


def softcap(x: Array, cap: float) -> Array:
    return cap * np.tanh(x / cap) if cap else x


_erf = np.vectorize(math.erf, otypes=[np.float64])


def activate(x: Array, kind: Activation) -> Array:
    if kind in (Activation.TANH, Activation.RELU):
        return np.tanh(x) if kind is Activation.TANH else np.maximum(x, 0.0)
    if kind is Activation.GELU:
        return np.asarray(0.5 * x * (1.0 + _erf(x / math.sqrt(2.0))))
    if kind is Activation.GELU_TANH:
        return np.asarray(0.5 * x * (1.0 + np.tanh(math.sqrt(2.0 / math.pi) * (x + 0.044715 * x**3))))
    return np.asarray(x * 0.5 * (1.0 + np.tanh(0.5 * x)))  # x * sigmoid(x), without overflow


def normalize(x: Array, norm: Norm | None, weights: Weights, slot: str) -> Array:
    """The norm over the last axis; None: the identity."""
    if norm is None:
        return x
    if norm.kind is NormKind.LAYER:
        x = x - x.mean(axis=-1, keepdims=True)
    y = x / np.sqrt(np.mean(x * x, axis=-1, keepdims=True) + norm.eps)
    y = y * weights[f"{slot}.weight"] if norm.weight else y
    return np.asarray(y + weights[f"{slot}.bias"] if norm.bias else y)


def linear(x: Array, weights: Weights, slot: str, bias: bool = False) -> Array:
    return np.asarray(x @ weights[slot].T + (weights[f"{slot}.bias"] if bias else 0.0))


def vector_products(q: Array, k: Array, a: Attention, slot: str, weights: Weights) -> Array:
    """(H, T, S): of queries with one vector of their bucket, and of keys with another."""
    assert a.vectors is not None
    bucket = vector_buckets(len(q), a.vectors)[None]  # (1, T, S)
    products = np.zeros((a.heads, len(q), len(k)))
    if a.vectors.keys:
        table = weights[f"{slot}.relative_k"].reshape(a.heads, a.head_dim, -1)
        products += np.take_along_axis(np.einsum("thd,hdb->htb", q, table), bucket, axis=2)
    if a.vectors.queries:
        table = weights[f"{slot}.relative_q"].reshape(a.heads, a.head_dim, -1)
        by_key = np.take_along_axis(np.einsum("shd,hdb->hsb", k, table), bucket.swapaxes(1, 2), axis=2)
        products += by_key.swapaxes(1, 2)
    return products


def attend(x: Array, a: Attention, slot: str, run: _Pass) -> Array:
    """x (T, D) -> (T, D): every token takes a weighted mean of the values it may look at."""
    source = run.memory if a.source is Source.ENCODER else x
    q = _heads(x, a, slot, "q", a.heads, a.q_norm, run)  # (T, H, d)
    k = _heads(source, a, slot, "k", a.kv_heads, a.k_norm, run)  # (S, G, d)
    v = _heads(source, a, slot, "v", a.kv_heads, None, run)
    if a.rope is not None:
        q, k = rotate(q, a.rope, run.long_rope), rotate(k, a.rope, run.long_rope)
    shared = a.heads // a.kv_heads  # query head h reads key/value head h // shared
    k, v = np.repeat(k, shared, axis=1), np.repeat(v, shared, axis=1)

    products = np.einsum("thd,shd->hts", q, k)
    if a.vectors:
        products = products + vector_products(q, k, a, slot, run.weights)
    scores = softcap(a.scale * products, a.softcap)  # (H, T, S)
    distance = np.arange(len(x))[:, None] - np.arange(len(source))[None, :]  # (T, S): tokens back from the query
    if a.alibi:
        scores = scores - np.array(a.alibi)[:, None, None] * distance
    if a.relative_bias:
        scores = scores + run.weights[run.shared or f"{slot}.relative_bias"][:, run.buckets]
    if a.causal:
        scores = np.where(distance < 0, -np.inf, scores)
    if a.window:
        scores = np.where(np.abs(distance) >= a.window, -np.inf, scores)
    p = softmax(scores)
    if a.source is Source.SELF:
        run.attentions.append(p)
    mixed = np.einsum("hts,shd->thd", p, v).reshape(len(x), a.heads * a.head_dim)
    return linear(mixed, run.weights, f"{slot}.o", a.out_bias)


def _heads(x: Array, a: Attention, slot: str, part: str, n: int, norm: Norm | None, run: _Pass) -> Array:
    """Project x (T, D) to n heads (T, n, d), normalised over each head or over the whole projection."""
    y = linear(x, run.weights, f"{slot}.{part}", a.qkv_bias)
    if a.norm_span is NormSpan.PROJECTION:
        y = normalize(y, norm, run.weights, f"{slot}.{part}_norm")
        norm = None
    return normalize(y.reshape(len(x), n, a.head_dim), norm, run.weights, f"{slot}.{part}_norm")


def feed_forward(x: Array, f: FeedForward, slot: str, weights: Weights) -> Array:
    up = linear(x, weights, f"{slot}.up", f.bias)
    if f.gated:
        up = up * activate(linear(x, weights, f"{slot}.gate", f.bias), f.activation)
    else:
        up = activate(up, f.activation)
    return linear(up, weights, f"{slot}.down", f.out_bias)


def mixture(x: Array, m: MixtureOfExperts, slot: str, weights: Weights) -> Array:
    """Each token goes through its `active` best experts; their outputs are added with the router's weights."""
    p = softmax(linear(x, weights, f"{slot}.router"))  # (T, experts)
    best = np.argsort(-p, axis=-1, kind="stable")[:, : m.active]
    share = np.zeros_like(p)
    np.put_along_axis(share, best, np.take_along_axis(p, best, axis=-1), axis=-1)
    if m.normalize:
        share = share / share.sum(axis=-1, keepdims=True)
    expert = FeedForward(width=m.width, activation=m.activation, gated=True)
    y = np.zeros_like(x)
    for e in range(m.experts):
        rows = np.flatnonzero(share[:, e])
        y[rows] += share[rows, e : e + 1] * feed_forward(x[rows], expert, f"{slot}.experts.{e}", weights)
    return y


def run_layer(x: Array, layer: Layer, slot: str, run: _Pass) -> Array:
    """Add every sublayer's branch to the residual stream x (T, D)."""
    start = x
    for j, s in enumerate(layer.sublayers):
        name = f"{slot}.{j}"
        y = normalize(start if layer.parallel else x, s.pre_norm, run.weights, f"{name}.pre_norm")
        if isinstance(s.mixer, Attention):
            y = attend(y, s.mixer, name, run)
        elif isinstance(s.mixer, FeedForward):
            y = feed_forward(y, s.mixer, name, run.weights)
        else:
            y = mixture(y, s.mixer, name, run.weights)
        y = normalize(y, s.branch_norm, run.weights, f"{name}.branch_norm")
        x = normalize(x + s.residual_scale * y, s.residual_norm, run.weights, f"{name}.residual_norm")
    return x


def run_stack(x: Array, stack: Stack, name: str, run: _Pass) -> list[Array]:
    """The embedding x, then every layer's output; the last one is the stack's, after its final norm."""
    states = [x]
    for i, layer in enumerate(stack.layers):
        first = layer.repeats - 1 if layer.repeats else i
        states.append(run_layer(states[-1], stack.layers[first], f"{name}.{first}", run))
    states[-1] = normalize(states[-1], stack.norm, run.weights, f"{name}.norm")
    return states


def embed(spec: ModelSpec, stack: Stack, name: str, weights: Weights, ids: Ids, types: Ids | None) -> Array:
    """What the stack reads, (T, D)."""
    e, slot = stack.embed, f"{name}.embed"
    x = e.scale * weights[f"{slot}.tokens" if e.tokens else "embed.tokens"][list(ids)]
    if spec.width not in (0, spec.hidden) and not e.narrow:
        x = linear(x, weights, f"{slot}.project")
    if e.norm_first:
        x = normalize(x, e.norm, weights, f"{slot}.norm")
    if e.positions:
        x = x + weights[f"{slot}.positions"][: len(ids)]
    if e.types:
        x = x + weights[f"{slot}.types"][list(types) if types is not None else [0] * len(ids)]
    if not e.norm_first:
        x = normalize(x, e.norm, weights, f"{slot}.norm")
    return linear(x, weights, f"{slot}.project", bias=True) if e.narrow else x


def pool(x: Array, kind: Pool) -> Array:
    """The rows of hidden (T, D) that the head reads: all T, or one."""
    if kind is Pool.MEAN:
        return np.asarray(x.mean(axis=0, keepdims=True))
    return {Pool.FIRST: x[:1], Pool.LAST: x[-1:]}.get(kind, x)


def read_out(x: Array, spec: ModelSpec, weights: Weights) -> Array:
    """Hidden (T, D) -> logits (rows, outputs), step by step of the head."""
    x = pool(x, spec.pool)
    for i, step in enumerate(spec.head):
        if isinstance(step, Dense):
            x = linear(x, weights, f"head.{i}", step.bias)
        elif isinstance(step, Activate):
            x = activate(x, step.activation)
        elif isinstance(step, Norm):
            x = normalize(x, step, weights, f"head.{i}")
        else:
            x = x @ weights["embed.tokens" if step.tied else "head.weight"].T
            x = softcap(step.scale * (x + weights["head.bias"] if step.bias else x), step.softcap)
    return pool(x, Pool.MEAN) if spec.pool is Pool.LATE else x


def forward(
    spec: ModelSpec,
    weights: Weights,
    ids: Ids,
    *,
    decoder_ids: Ids | None = None,
    token_types: Ids | None = None,
    attentions: bool = False,
    hidden_states: bool = False,
    long_rope: bool = False,
) -> Result:
    """Run the model over one whole sequence. `long_rope` uses the long twins of the ropes that have them.

    An encoder-decoder's encoder reads `ids`, its decoder `decoder_ids`, the start token first.
    """
    memory = np.empty((0, spec.hidden))
    stacks = [("encoder", spec.encoder, ids), ("decoder", spec.decoder, decoder_ids if spec.encoder else ids)]
    for name, stack, tokens in stacks:
        if stack is None:
            continue
        if tokens is None or len(tokens) == 0:
            raise ValueError(f"the {name} has no tokens to read")
        buckets = relative_buckets(len(tokens), stack.relative) if stack.relative else np.empty((0, 0), np.int64)
        shared = "" if stack.relative and stack.relative.by_layer else f"{name}.relative_bias"
        run = _Pass(weights, buckets, shared, memory, long_rope, [])
        states = run_stack(embed(spec, stack, name, weights, tokens, token_types), stack, name, run)
        memory = states[-1]
    return Result(
        logits=read_out(states[-1], spec, weights) if spec.head else None,
        hidden=states[-1],
        attentions=run.attentions if attentions else [],
        hidden_states=states if hidden_states else [],
    )
