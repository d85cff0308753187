"""fastlm/reference.py against loops and closed forms; against transformers in tests/arch/test_families.py."""

from __future__ import annotations

import cmath
import math
from dataclasses import replace

import numpy as np
import pytest
from greedy import write_greedily
from numpy.typing import NDArray

from fastlm import positions, reference
from fastlm.arch.slots import slots
from fastlm.arch.spec import (
    Activate,
    Activation,
    Attention,
    Dense,
    Embed,
    FeedForward,
    Layer,
    Logits,
    MixtureOfExperts,
    ModelSpec,
    Norm,
    NormKind,
    NormSpan,
    RelativeBias,
    Rope,
    Source,
    Stack,
    Sublayer,
)

Array = NDArray[np.float64]
RMS = Norm(NormKind.RMS, 1e-5)
LAYER = Norm(NormKind.LAYER, 1e-5, bias=True)
ROPE = Rope(frequencies=(1.0, 0.3), scale=1.1, long_from=6, long_frequencies=(0.5, 0.1), long_scale=1.3)
PLAIN = Attention(heads=4, kv_heads=2, head_dim=5, scale=0.4)
FFN = FeedForward(width=7, activation=Activation.SILU, gated=True)
IDS = [3, 1, 4, 1, 5, 9, 2, 6]


def decoder(*sublayers: Sublayer, parallel: bool = False, layers: int = 1) -> ModelSpec:
    stack = Stack(layers=(Layer(sublayers, parallel),) * layers, norm=RMS)
    return ModelSpec(vocab=11, hidden=6, context=64, decoder=stack, head=(Logits(tied=False),))


def weights(spec: ModelSpec, seed: int = 0) -> dict[str, Array]:
    rng = np.random.default_rng(seed)
    shapes = {s.name: (s.cols,) if s.is_vector else (s.rows, s.cols) for s in slots(spec)}
    return {name: rng.standard_normal(shape) for name, shape in shapes.items()}


def normalized(row: Array, norm: Norm | None, w: dict[str, Array], slot: str) -> Array:
    if norm is None:
        return row
    center = sum(row) / len(row) if norm.kind == NormKind.LAYER else 0.0
    spread = math.sqrt(sum((v - center) ** 2 for v in row) / len(row) + norm.eps)
    bias = w[f"{slot}.bias"] if norm.bias else np.zeros(len(row))
    return np.array([(v - center) / spread * g + b for v, g, b in zip(row, w[f"{slot}.weight"], bias, strict=True)])


def turned(head: Array, position: int, rope: Rope | None, long: bool) -> Array:
    """Rotary positions by complex multiplication."""
    out = head.copy()
    if rope:
        frequencies = rope.long_frequencies if long else rope.frequencies
        for i, f in enumerate(frequencies):
            angle = float(np.float32(position) * np.float32(f))
            z = complex(head[i], head[i + len(frequencies)]) * cmath.exp(1j * angle)
            out[i], out[i + len(frequencies)] = z.real, z.imag
        out[: 2 * len(frequencies)] *= rope.long_scale if long else rope.scale
    return out


def attention_by_loops(x: Array, a: Attention, w: dict[str, Array], slot: str, long: bool) -> tuple[Array, Array]:
    """One query, one head and one key at a time: outputs and probabilities."""

    def heads(part: str, row: Array, n: int, norm: Norm | None) -> list[Array]:
        y = w[f"{slot}.{part}"] @ row + (w[f"{slot}.{part}.bias"] if a.qkv_bias else 0.0)
        if a.norm_span == NormSpan.PROJECTION:
            y = normalized(y, norm, w, f"{slot}.{part}_norm")
        split = [y[h * a.head_dim : (h + 1) * a.head_dim] for h in range(n)]
        if a.norm_span == NormSpan.HEAD:
            split = [normalized(s, norm, w, f"{slot}.{part}_norm") for s in split]
        return split

    n = len(x)
    probabilities, out = np.zeros((a.heads, n, n)), np.zeros_like(x)
    for t in range(n):
        mixed = []
        for h in range(a.heads):
            q = turned(heads("q", x[t], a.heads, a.q_norm)[h], t, a.rope, long)
            group = h * a.kv_heads // a.heads
            total = np.zeros(a.head_dim)
            for s in range(n):
                if (a.causal and s > t) or (a.window and s <= t - a.window):
                    continue
                k = turned(heads("k", x[s], a.kv_heads, a.k_norm)[group], s, a.rope, long)
                score = a.scale * float(q @ k)
                score = a.softcap * math.tanh(score / a.softcap) if a.softcap else score
                score += a.alibi[h] * (s - t) if a.alibi else 0.0
                probabilities[h, t, s] = math.exp(score)
            probabilities[h, t] /= probabilities[h, t].sum()
            for s in range(n):
                total += probabilities[h, t, s] * heads("v", x[s], a.kv_heads, None)[group]
            mixed.append(total)
        out[t] = w[f"{slot}.o"] @ np.concatenate(mixed) + (w[f"{slot}.o.bias"] if a.out_bias else 0.0)
    return out, probabilities


ATTENTIONS = {
    "grouped": PLAIN,
    "one key head": replace(PLAIN, kv_heads=1),
    "window": replace(PLAIN, window=3),
    "both ways": replace(PLAIN, causal=False),
    "rope": replace(PLAIN, rope=ROPE),
    "long rope": replace(PLAIN, rope=ROPE),
    "softcap": replace(PLAIN, softcap=1.5, rope=ROPE),
    "alibi": replace(PLAIN, alibi=(0.5, 0.25, 0.125, 0.0625)),
    "biases": replace(PLAIN, qkv_bias=True, out_bias=True),
    "norms": replace(PLAIN, q_norm=RMS, k_norm=RMS, rope=ROPE),
    "norms of projections": replace(PLAIN, q_norm=RMS, k_norm=RMS, norm_span=NormSpan.PROJECTION),
}


@pytest.mark.parametrize("name", ATTENTIONS)
def test_attention_against_loops(name: str) -> None:
    long = name == "long rope"
    spec = decoder(Sublayer(ATTENTIONS[name]))
    w = weights(spec)
    result = reference.forward(spec, w, IDS, attentions=True, hidden_states=True, long_rope=long)
    x = w["embed.tokens"][IDS]
    out, probabilities = attention_by_loops(x, ATTENTIONS[name], w, "decoder.0.0", long)
    np.testing.assert_allclose(result.attentions[0], probabilities, rtol=1e-12, atol=1e-14)
    expected = [normalized(row, RMS, w, "decoder.norm") for row in x + out]
    np.testing.assert_allclose(result.hidden, expected, rtol=1e-12, atol=1e-13)


def test_rope_angles_are_rounded_to_float32() -> None:
    (angle,) = positions.rope_angles(10_000, (0.1,))[-1]
    exact = 9_999 * float(np.float32(0.1))
    assert angle == np.float32(exact)
    assert 0 < abs(angle - exact) < 6.2e-5


def test_activations() -> None:
    x = np.array([-800.0, -1.0, 0.0, 1.0, 800.0])
    values = {
        Activation.RELU: [0, 0, 0, 1, 800],
        Activation.GELU: [0, -0.15865525393145707, 0, 0.8413447460685429, 800],
        Activation.GELU_TANH: [0, -0.15880800939172324, 0, 0.8411919906082768, 800],
        Activation.SILU: [0, -0.2689414213699951, 0, 0.7310585786300049, 800],
        Activation.TANH: [-1, -0.7615941559557649, 0, 0.7615941559557649, 1],
    }
    for kind in Activation:
        np.testing.assert_allclose(reference.activate(x, kind), values[kind], rtol=1e-14, atol=1e-15)


@pytest.mark.parametrize("norm", [RMS, LAYER, replace(RMS, eps=0.5), replace(LAYER, eps=0.5)])
def test_norms_against_loops(norm: Norm) -> None:
    rng = np.random.default_rng(1)
    x = 3 + rng.standard_normal((4, 9))
    w = {"n.weight": rng.standard_normal(9), "n.bias": rng.standard_normal(9)}
    expected = [normalized(row, norm, w, "n") for row in x]
    np.testing.assert_allclose(reference.normalize(x, norm, w, "n"), expected, rtol=1e-13)
    bare = reference.normalize(x, replace(norm, weight=False, bias=False), {}, "n")
    np.testing.assert_allclose(bare * w["n.weight"] + (w["n.bias"] if norm.bias else 0), expected, rtol=1e-12)


def test_relative_buckets() -> None:
    """Buckets of T5's published defaults: 32, up to distance 128."""
    both = positions.relative_buckets(200, RelativeBias(8, 32, 128, bidirectional=True))
    keys = {0: 0, 1: 1, 7: 7, 8: 8, 11: 8, 12: 9, 15: 9, 16: 10, 23: 11, 31: 11, 32: 12, 64: 14, 91: 15, 199: 15}
    for distance, bucket in keys.items():
        assert both[199, 199 - distance] == bucket
        assert both[0, distance] == (bucket + 16 if distance else 0)
    back = positions.relative_buckets(200, RelativeBias(8, 32, 128, bidirectional=False))
    keys = {0: 0, 15: 15, 16: 16, 18: 16, 19: 17, 32: 21, 64: 26, 112: 30, 113: 31, 199: 31}
    for distance, bucket in keys.items():
        assert back[199, 199 - distance] == bucket
        assert back[0, distance] == 0


def test_relative_bias_is_added_to_scores() -> None:
    spec = decoder(Sublayer(replace(PLAIN, relative_bias=True)))
    assert spec.decoder
    spec = replace(spec, decoder=replace(spec.decoder, relative=RelativeBias(4, 8, 16, bidirectional=False)))
    w = weights(spec)
    w["decoder.0.0.q"][:] = 0  # scores are the bias alone
    p = reference.forward(spec, w, IDS[:2], attentions=True).attentions[0]
    table = np.exp(w["decoder.relative_bias"])
    np.testing.assert_allclose(p[:, 1, 0], table[:, 1] / (table[:, 0] + table[:, 1]), rtol=1e-12)


def test_gated_and_plain_feed_forward() -> None:
    rng = np.random.default_rng(2)
    x = rng.standard_normal((3, 6))
    w = {f"f.{part}": rng.standard_normal((7, 6) if part != "down" else (6, 7)) for part in ("gate", "up", "down")}
    w |= {f"f.{part}.bias": rng.standard_normal(7 if part != "down" else 6) for part in ("gate", "up", "down")}
    gate, up = x @ w["f.gate"].T, x @ w["f.up"].T
    gated = reference.feed_forward(x, FFN, "f", w)
    np.testing.assert_allclose(gated, (gate / (1 + np.exp(-gate)) * up) @ w["f.down"].T, rtol=1e-12)
    biased = replace(FFN, gated=False, activation=Activation.RELU, bias=True, out_bias=True)
    expected = np.maximum(up + w["f.up.bias"], 0) @ w["f.down"].T + w["f.down.bias"]
    np.testing.assert_allclose(reference.feed_forward(x, biased, "f", w), expected, rtol=1e-12)


@pytest.mark.parametrize("normalize", [True, False])
def test_mixture_against_loops(normalize: bool) -> None:
    m = MixtureOfExperts(experts=4, active=2, width=5, activation=Activation.SILU, normalize=normalize)
    w = weights(decoder(Sublayer(m)))
    x = np.random.default_rng(3).standard_normal((5, 6))
    found = reference.mixture(x, m, "decoder.0.0", w)
    for row, y in zip(x, found, strict=True):
        e = np.exp(w["decoder.0.0.router"] @ row)
        p = e / e.sum()
        first, second = sorted(range(4), key=lambda i: -p[i])[:2]
        total = p[first] + p[second] if normalize else 1.0
        parts = []
        for i in (first, second):
            gate, up = (w[f"decoder.0.0.experts.{i}.{part}"] @ row for part in ("gate", "up"))
            parts.append(p[i] / total * (w[f"decoder.0.0.experts.{i}.down"] @ (gate / (1 + np.exp(-gate)) * up)))
        np.testing.assert_allclose(y, parts[0] + parts[1], rtol=1e-12)


@pytest.mark.parametrize("parallel", [True, False])
def test_sublayers_and_their_norms(parallel: bool) -> None:
    s = Sublayer(FFN, pre_norm=RMS, branch_norm=LAYER, residual_norm=None if parallel else LAYER, residual_scale=0.5)
    spec = decoder(s, s, parallel=parallel)
    w = weights(spec)
    x = start = w["embed.tokens"][IDS]
    for j in range(2):
        slot = f"decoder.0.{j}"
        y = reference.normalize(start if parallel else x, RMS, w, f"{slot}.pre_norm")
        y = reference.normalize(reference.feed_forward(y, FFN, slot, w), LAYER, w, f"{slot}.branch_norm")
        x = reference.normalize(x + 0.5 * y, s.residual_norm, w, f"{slot}.residual_norm")
    expected = reference.normalize(x, RMS, w, "decoder.norm")
    np.testing.assert_allclose(reference.forward(spec, w, IDS).hidden, expected, rtol=1e-12)


def test_embedding_and_head() -> None:
    spec = decoder(Sublayer(FFN))
    assert spec.decoder
    stack = replace(spec.decoder, embed=Embed(scale=3.0, positions=64, types=2, norm=LAYER))
    head = (Dense(4), Logits(tied=True, bias=True, scale=0.75, softcap=2.0))
    spec = replace(spec, width=4, decoder=stack, head=head)
    w = weights(spec)
    types = [0, 0, 1, 1, 0, 1, 0, 1]
    result = reference.forward(spec, w, IDS, token_types=types, hidden_states=True)
    x = 3 * w["embed.tokens"][IDS] @ w["decoder.embed.project"].T
    x = x + w["decoder.embed.positions"][: len(IDS)] + w["decoder.embed.types"][types]
    expected = reference.normalize(x, LAYER, w, "decoder.embed.norm")
    np.testing.assert_allclose(result.hidden_states[0], expected, rtol=1e-12)
    logits = result.hidden @ w["head.0"].T @ w["embed.tokens"].T + w["head.bias"]
    assert result.logits is not None
    np.testing.assert_allclose(result.logits, 2 * np.tanh(0.75 * logits / 2), rtol=1e-12)
    zeros = reference.forward(spec, w, IDS).hidden
    np.testing.assert_array_equal(zeros, reference.forward(spec, w, IDS, token_types=[0] * len(IDS)).hidden)


def test_heads_of_encoders() -> None:
    """A classifier, and a head for masked tokens: the same steps."""
    spec = replace(
        decoder(Sublayer(replace(PLAIN, causal=False))), decoder=None, encoder=decoder(Sublayer(FFN)).decoder
    )
    classifier = (Dense(6, bias=True), Activate(Activation.TANH), Logits(tied=False, outputs=3, bias=True))
    masked = (Dense(6, bias=True), Activate(Activation.GELU), LAYER, Logits(tied=True, bias=True))
    for head, outputs in ((classifier, 3), (masked, 11)):
        spec = replace(spec, head=head)
        w = weights(spec)
        result = reference.forward(spec, w, IDS)
        x = reference.activate(result.hidden @ w["head.0"].T + w["head.0.bias"], head[1].activation)
        if outputs == 11:
            x = reference.normalize(x, LAYER, w, "head.2")
        expected = x @ w["head.weight" if outputs == 3 else "embed.tokens"].T + w["head.bias"]
        assert result.logits is not None and result.logits.shape == (8, outputs)
        np.testing.assert_allclose(result.logits, expected, rtol=1e-12)


def test_stacks_have_embeddings_of_their_own() -> None:
    """One token table, as in BART: each stack adds its own positions and norm."""
    spec = encoder_decoder()
    assert spec.encoder and spec.decoder
    own = Embed(scale=2.0, positions=64, norm=LAYER)
    spec = replace(spec, encoder=replace(spec.encoder, embed=own), decoder=replace(spec.decoder, embed=own))
    w = weights(spec)
    for name, ids, states in (
        ("encoder", IDS, reference.forward(replace(spec, decoder=None, head=()), w, IDS, hidden_states=True)),
        ("decoder", [0, 7], reference.forward(spec, w, IDS, decoder_ids=[0, 7], hidden_states=True)),
    ):
        x = 2 * w["embed.tokens"][ids] + w[f"{name}.embed.positions"][: len(ids)]
        expected = reference.normalize(x, LAYER, w, f"{name}.embed.norm")
        np.testing.assert_allclose(states.hidden_states[0], expected, rtol=1e-12)


def test_states_and_what_is_left_out() -> None:
    spec = decoder(Sublayer(PLAIN), Sublayer(FFN), layers=3)
    w = weights(spec)
    plain = reference.forward(spec, w, IDS)
    assert plain.attentions == [] and plain.hidden_states == []
    full = reference.forward(spec, w, IDS, attentions=True, hidden_states=True)
    assert [p.shape for p in full.attentions] == [(4, 8, 8)] * 3
    assert [h.shape for h in full.hidden_states] == [(8, 6)] * 4
    np.testing.assert_array_equal(full.hidden_states[-1], full.hidden)
    np.testing.assert_array_equal(full.hidden_states[0], w["embed.tokens"][IDS])
    np.testing.assert_allclose([p.sum(axis=-1) for p in full.attentions], np.ones((3, 4, 8)), rtol=1e-12)


def test_decoder_does_not_look_ahead() -> None:
    spec = decoder(Sublayer(PLAIN, pre_norm=RMS), Sublayer(FFN), layers=2)
    w = weights(spec)
    whole, part = reference.forward(spec, w, IDS).logits, reference.forward(spec, w, IDS[:5]).logits
    assert whole is not None and part is not None
    np.testing.assert_allclose(whole[:5], part, rtol=1e-11)


def encoder_decoder() -> ModelSpec:
    both = replace(PLAIN, causal=False)
    cross = replace(both, source=Source.ENCODER)
    encoder = Stack(layers=(Layer((Sublayer(both), Sublayer(FFN))),), norm=RMS)
    layer = Layer((Sublayer(PLAIN), Sublayer(cross), Sublayer(FFN)))
    return replace(decoder(), encoder=encoder, decoder=Stack(layers=(layer,), norm=RMS))


def test_cross_attention_reads_the_encoders_output() -> None:
    spec = encoder_decoder()
    w = weights(spec)
    result = reference.forward(spec, w, IDS, decoder_ids=[0, 7], attentions=True, hidden_states=True)
    assert [p.shape for p in result.attentions] == [(4, 2, 2)]
    assert result.logits is not None and result.logits.shape == (2, 11)
    assert spec.encoder
    memory = reference.forward(replace(spec, decoder=None, head=()), w, IDS)
    assert memory.logits is None
    x = w["embed.tokens"][[0, 7]]
    x = x + attention_by_loops(x, PLAIN, w, "decoder.0.0", False)[0]
    y = np.zeros_like(x)
    for t in range(2):
        mixed = []
        for h in range(4):
            rows = slice(5 * h, 5 * h + 5), slice(5 * (h // 2), 5 * (h // 2) + 5)
            q = w["decoder.0.1.q"][rows[0]] @ x[t]
            scores = np.exp(PLAIN.scale * (memory.hidden @ w["decoder.0.1.k"][rows[1]].T) @ q)
            mixed.append(scores / scores.sum() @ (memory.hidden @ w["decoder.0.1.v"][rows[1]].T))
        y[t] = w["decoder.0.1.o"] @ np.concatenate(mixed)
    x = x + y
    x = x + reference.feed_forward(x, FFN, "decoder.0.2", w)
    np.testing.assert_allclose(result.hidden, reference.normalize(x, RMS, w, "decoder.norm"), rtol=1e-11)


def test_missing_tokens_are_an_error() -> None:
    spec = encoder_decoder()
    with pytest.raises(ValueError, match="decoder has no tokens"):
        reference.forward(spec, weights(spec), IDS)
    with pytest.raises(ValueError, match="decoder has no tokens"):
        reference.forward(decoder(), weights(decoder()), [])


def test_greedy_takes_the_best_token_each_time() -> None:
    spec = decoder(Sublayer(replace(PLAIN, rope=ROPE)), Sublayer(FFN))
    w = weights(spec)
    text = list(IDS)
    for _ in range(4):
        logits = reference.forward(spec, w, text, long_rope=True).logits
        assert logits is not None
        text.append(int(logits[-1].argmax()))
    assert write_greedily(spec, w, IDS, 4, long_rope=True) == text[-4:]
    both = encoder_decoder()
    w = weights(both)
    first = reference.forward(both, w, IDS, decoder_ids=[0]).logits
    assert first is not None
    assert write_greedily(both, w, IDS, 3, decoder_ids=[0])[0] == first[-1].argmax()
    headless = replace(spec, head=())
    with pytest.raises(ValueError, match="without a head"):
        write_greedily(headless, weights(headless), IDS, 1)
