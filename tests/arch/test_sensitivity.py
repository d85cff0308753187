"""The goldens notice mistakes: a model that is slightly another one must not pass test_families.py.

Twins of each golden's spec (another epsilon, activation, window, ...) and of its weights (one slot perturbed by 1 %)
run in the reference. A twin that agrees with transformers means that the golden is too weak for that mistake:
strengthen the golden (tests/golden/make_golden.py), not the twin.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np

from fastlm.arch.spec import (
    Activate,
    Activation,
    Attention,
    Embed,
    Layer,
    Mixer,
    MixtureOfExperts,
    ModelSpec,
    Norm,
    NormKind,
    Pool,
    RelativeBias,
    RelativeVectors,
    Rope,
    Source,
    Stack,
    Sublayer,
)

# Beside sinusoids, which no checkpoint can make small, and no norm, an epsilon of 1e-5 is nothing.
UNSEEN = {"m2m_100": {"epsilon of the blocks", "epsilon of the last norm"}}
CLOSE = 1e-4  # the criterion of test_families.py, in standard deviations of the output

Twin = ModelSpec | None  # None: the change does not apply to the model


def stacks(spec: ModelSpec, change: Callable[[Stack], Stack]) -> ModelSpec:
    return replace(
        spec,
        encoder=change(spec.encoder) if spec.encoder else None,
        decoder=change(spec.decoder) if spec.decoder else None,
    )


def layers(spec: ModelSpec, change: Callable[[int, Layer], Layer]) -> ModelSpec:
    return stacks(spec, lambda s: replace(s, layers=tuple(change(i, layer) for i, layer in enumerate(s.layers))))


def sublayers(spec: ModelSpec, change: Callable[[Sublayer], Sublayer]) -> ModelSpec:
    return layers(spec, lambda _, layer: replace(layer, sublayers=tuple(map(change, layer.sublayers))))


def attention(spec: ModelSpec, change: Callable[[Attention], Attention]) -> ModelSpec:
    def one(mixer: Mixer) -> Mixer:
        return change(mixer) if isinstance(mixer, Attention) else mixer

    return sublayers(spec, lambda s: replace(s, mixer=one(s.mixer)))


def rope(spec: ModelSpec, change: Callable[[Rope], Rope]) -> ModelSpec:
    return attention(spec, lambda a: replace(a, rope=change(a.rope)) if a.rope else a)


def all_attention(spec: ModelSpec) -> Iterator[Attention]:
    for stack in (spec.encoder, spec.decoder):
        for layer in stack.layers if stack else ():
            for s in layer.sublayers:
                if isinstance(s.mixer, Attention):
                    yield s.mixer


def other_eps(norm: Norm | None) -> Norm | None:
    """The epsilon of the next family: 1e-6 for 1e-5, else 1e-5."""
    return norm and replace(norm, eps=1e-6 if norm == replace(norm, eps=1e-5) else 1e-5)


def other_kind(norm: Norm | None) -> Norm | None:
    return norm and replace(norm, kind=NormKind.LAYER if norm.kind == NormKind.RMS else NormKind.RMS)


def block_norms(spec: ModelSpec, change: Callable[[Norm | None], Norm | None]) -> ModelSpec:
    return sublayers(
        spec,
        lambda s: replace(
            s,
            pre_norm=change(s.pre_norm),
            branch_norm=change(s.branch_norm),
            residual_norm=change(s.residual_norm),
        ),
    )


OTHER_ACTIVATION = {
    Activation.RELU: Activation.GELU,
    Activation.GELU: Activation.GELU_TANH,
    Activation.GELU_TANH: Activation.GELU,
    Activation.SILU: Activation.GELU,
    Activation.TANH: Activation.RELU,
}


def other_activation(spec: ModelSpec) -> ModelSpec:
    def one(mixer: Mixer) -> Mixer:
        if isinstance(mixer, Attention):
            return mixer
        return replace(mixer, activation=OTHER_ACTIVATION[mixer.activation])

    return sublayers(spec, lambda s: replace(s, mixer=one(s.mixer)))


def experts(spec: ModelSpec, change: Callable[[MixtureOfExperts], MixtureOfExperts]) -> ModelSpec:
    def one(mixer: Mixer) -> Mixer:
        return change(mixer) if isinstance(mixer, MixtureOfExperts) else mixer

    return sublayers(spec, lambda s: replace(s, mixer=one(s.mixer)))


def windows(spec: ModelSpec, change: Callable[[int], int]) -> ModelSpec:
    return attention(spec, lambda a: replace(a, window=change(a.window)) if a.window else a)


def swapped_windows(spec: ModelSpec) -> Twin:
    """The windows, and with them the local ropes, on the layers that have none and the other way round."""
    found = [a for a in all_attention(spec) if a.source == Source.SELF]
    wide = next((a for a in found if not a.window), None)
    narrow = next((a for a in found if a.window), None)
    if wide is None or narrow is None:
        return None
    return attention(spec, lambda a: wide if a.window else narrow)


def base(r: Rope, power: float) -> Rope:
    """Frequencies of a rope base raised to `power`."""
    return replace(
        r,
        frequencies=tuple(f**power for f in r.frequencies),
        long_frequencies=tuple(f**power for f in r.long_frequencies),
    )


def one_pair_less(spec: ModelSpec) -> ModelSpec:
    return rope(spec, lambda r: replace(r, frequencies=r.frequencies[:-1], long_frequencies=r.long_frequencies[:-1]))


def unscaled(spec: ModelSpec) -> ModelSpec:
    """Ropes whose frequencies are not base^(-i / pairs) (linear, llama3, longrope) lose what bends them.

    The base is guessed from the second frequency, which llama3 leaves alone.
    """

    def plain(r: Rope) -> Rope:
        f = r.frequencies
        even = tuple(f[1] ** i for i in range(len(f)))
        if np.allclose(even, f, rtol=1e-3):
            return r
        return replace(r, frequencies=even, long_frequencies=even if r.long_from else ())

    return rope(spec, plain)


def relative(spec: ModelSpec, change: Callable[[RelativeBias], RelativeBias]) -> ModelSpec:
    return stacks(spec, lambda s: replace(s, relative=change(s.relative)) if s.relative else s)


def vectors(spec: ModelSpec, change: Callable[[RelativeVectors], RelativeVectors]) -> ModelSpec:
    return attention(spec, lambda a: replace(a, vectors=change(a.vectors)) if a.vectors else a)


def last_norm(spec: ModelSpec, change: Callable[[Norm | None], Norm | None]) -> ModelSpec:
    return stacks(spec, lambda s: replace(s, norm=change(s.norm)))


def embed(spec: ModelSpec, change: Callable[[Embed], Embed]) -> ModelSpec:
    return stacks(spec, lambda s: replace(s, embed=change(s.embed)))


def head(spec: ModelSpec, **changes: Any) -> Twin:
    return spec.with_logits(replace(spec.logits, **changes)) if spec.logits else None


def head_steps(spec: ModelSpec, kind: type, change: Callable[[Any], Any]) -> Twin:
    steps = tuple(change(step) if isinstance(step, kind) else step for step in spec.head)
    return replace(spec, head=steps)


OTHER_POOL = {Pool.NONE: Pool.NONE, Pool.FIRST: Pool.LAST, Pool.LAST: Pool.MEAN, Pool.MEAN: Pool.FIRST}
OTHER_POOL[Pool.LATE] = Pool.MEAN


def token_scale(spec: ModelSpec) -> Twin:
    """Without the factor on embeddings, or with Gemma's where there is none."""
    plain = spec.main.embed.scale == 1.0
    return embed(spec, lambda e: replace(e, scale=math.sqrt(spec.hidden) if plain else 1.0))


SPEC_TWINS: dict[str, Callable[[ModelSpec], Twin]] = {
    "epsilon of the blocks": lambda s: block_norms(s, other_eps),
    "epsilon of the last norm": lambda s: last_norm(s, other_eps),
    "epsilon of q and k": lambda s: attention(
        s, lambda a: replace(a, q_norm=other_eps(a.q_norm), k_norm=other_eps(a.k_norm))
    ),
    "epsilon of the embedding": lambda s: embed(s, lambda e: replace(e, norm=other_eps(e.norm))),
    "kind of norm in the blocks": lambda s: block_norms(s, other_kind),
    "kind of the last norm": lambda s: last_norm(s, other_kind),
    "activation": other_activation,
    "parallel": lambda s: layers(s, lambda _, layer: replace(layer, parallel=not layer.parallel)),
    "residual scale": lambda s: sublayers(s, lambda sub: replace(sub, residual_scale=sub.residual_scale * 1.01)),
    "causal": lambda s: attention(s, lambda a: replace(a, causal=not a.causal) if a.source == Source.SELF else a),
    "scale of attention": lambda s: attention(s, lambda a: replace(a, scale=a.scale * 1.01)),
    "scale 1 / sqrt(head_dim)": lambda s: attention(s, lambda a: replace(a, scale=a.head_dim**-0.5)),
    "no window": lambda s: windows(s, lambda w: 0),
    "window one wider": lambda s: windows(s, lambda w: w + 1),
    "window one narrower": lambda s: windows(s, lambda w: w - 1),
    "windows on the other layers": swapped_windows,
    "softcap of attention": lambda s: attention(s, lambda a: replace(a, softcap=a.softcap * 1.05)),
    "no softcap of attention": lambda s: attention(s, lambda a: replace(a, softcap=0.0)),
    "softcap of the head": lambda s: head(s, softcap=(s.logits.softcap if s.logits else 0.0) * 1.05),
    "no softcap of the head": lambda s: head(s, softcap=0.0),
    "no scale of the head": lambda s: head(s, scale=1.0),
    "activation of the head": lambda s: head_steps(
        s, Activate, lambda step: replace(step, activation=OTHER_ACTIVATION[step.activation])
    ),
    "epsilon of the head": lambda s: head_steps(s, Norm, other_eps),
    "which hidden state the head reads": lambda s: replace(s, pool=OTHER_POOL[s.pool]),
    "scale of the embedding": token_scale,
    "norm before the positions": lambda s: embed(
        s, lambda e: replace(e, norm_first=not e.norm_first) if e.norm and e.positions else e
    ),
    "rope base": lambda s: rope(s, lambda r: base(r, 1.1)),
    "rope on one pair less": one_pair_less,
    "no scaling of the rope": unscaled,
    "rope scale": lambda s: rope(s, lambda r: replace(r, scale=r.scale * 1.01, long_scale=r.long_scale * 1.01)),
    "no long rope": lambda s: rope(s, lambda r: replace(r, long_from=0)),
    "no rope": lambda s: attention(s, lambda a: replace(a, rope=None)),
    "slopes of alibi": lambda s: attention(s, lambda a: replace(a, alibi=tuple(x * 1.01 for x in a.alibi))),
    "no alibi": lambda s: attention(s, lambda a: replace(a, alibi=())),
    "no relative bias": lambda s: attention(s, lambda a: replace(a, relative_bias=False)),
    "direction of the relative bias": lambda s: relative(s, lambda r: replace(r, bidirectional=not r.bidirectional)),
    "distance of the relative bias": lambda s: relative(s, lambda r: replace(r, max_distance=r.max_distance + 4)),
    "no vectors of keys": lambda s: vectors(s, lambda v: replace(v, keys=False)),
    "no vectors of queries": lambda s: vectors(s, lambda v: replace(v, queries=False)),
    "vectors shared by farther distances": lambda s: vectors(
        s, lambda v: replace(v, max_distance=v.max_distance + 4) if v.max_distance else v
    ),
    "no vectors shared by distances": lambda s: vectors(s, lambda v: replace(v, max_distance=0)),
    "experts not normalised, or normalised": lambda s: experts(s, lambda m: replace(m, normalize=not m.normalize)),
    "one expert more": lambda s: experts(s, lambda m: replace(m, active=m.active + 1)),
    "one expert less": lambda s: experts(s, lambda m: replace(m, active=m.active - 1)),
}


def unnoticed_by(golden: Any, spec: ModelSpec, weights: dict[str, Any]) -> str:
    """Empty if a twin differs from transformers on some stored prompt, else by how much it differs."""
    errors = [0.0]
    for prompt in golden.prompts:
        with np.errstate(all="ignore"):
            error = golden.error(golden.run(spec, weights, prompt), prompt)
        errors.append(math.inf if math.isnan(error) else error)
    return "" if max(errors) > CLOSE else f"{max(errors):.1e}"


def twins(spec: ModelSpec) -> Iterator[tuple[str, ModelSpec]]:
    for name, change in SPEC_TWINS.items():
        twin = change(spec)
        if twin is not None and twin != spec:
            yield name, twin


def test_another_computation_is_noticed(golden: Any) -> None:
    spec, weights = golden.classic
    assert unnoticed_by(golden, spec, weights)
    same = {name: unnoticed_by(golden, twin, weights) for name, twin in twins(spec)}
    assert UNSEEN.get(golden.name, set()) <= set(same)
    same = {name: error for name, error in same.items() if name not in UNSEEN.get(golden.name, ())}
    assert {name: error for name, error in same.items() if error} == {}


def test_another_weight_is_noticed(golden: Any) -> None:
    spec, weights = golden.classic
    rotated = any(a.rope for a in all_attention(spec))
    rng = np.random.default_rng(0)
    same = {}
    for slot, values in weights.items():
        if slot.endswith(".k.bias") and not rotated:
            continue  # adds the same to all of a query's scores, which softmax takes away
        other = values * (1 + 0.01 * rng.standard_normal(values.shape))
        same[slot] = unnoticed_by(golden, spec, {**weights, slot: other})
    assert {slot: error for slot, error in same.items() if error} == {}


def test_every_twin_applies_to_some_golden(golden_specs: list[ModelSpec]) -> None:
    found = {name for spec in golden_specs for name, _ in twins(spec)}
    assert found == set(SPEC_TWINS)
