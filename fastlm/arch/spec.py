"""The vocabulary of layers: a model family is a value of these frozen classes.

A spec says everything about a model's computation except the weights. `encode` writes it as the versioned
blob that C reads (csrc/model/spec.c) and that a `.flm` file holds; `fastlm/reference.py` executes it directly.

The computation, for a residual stream x of shape (tokens, hidden)::

    x = embed.scale * tokens[ids] (@ project) + positions[p] + types[t];  x = embed.norm(x)
    for layer in stack.layers:
        for s in layer.sublayers:                          # parallel: every s reads the layer's input
            y = s.branch_norm(s.mixer(s.pre_norm(x)))
            x = s.residual_norm(x + s.residual_scale * y)
    x = stack.norm(x)
    logits = softcap(scale * (weight @ project @ x + bias))
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import IntEnum

SPEC_MAGIC = 0x534D4C46  # "FLMS", little-endian
SPEC_VERSION = 1


class NormKind(IntEnum):
    RMS = 1  # x / sqrt(mean(x^2) + eps) * weight          (Zhang and Sennrich 2019)
    LAYER = 2  # (x - mean) / sqrt(var + eps) * weight + bias (Ba et al. 2016)


class Activation(IntEnum):
    RELU = 1
    GELU = 2  # x * Phi(x), by erf
    GELU_TANH = 3  # its tanh approximation ("gelu_new", "gelu_pytorch_tanh")
    SILU = 4  # x * sigmoid(x)


@dataclass(frozen=True, slots=True)
class Norm:
    """A normalisation; weights of the form 1 + w are folded when bound."""

    kind: NormKind
    eps: float
    weight: bool = True
    bias: bool = False


@dataclass(frozen=True, slots=True)
class Rope:
    """Rotary positions (Su et al. 2021) on the first 2 * len(frequencies) dimensions of each head.

    Dimension i is rotated with dimension i + len(frequencies) ("rotate half") by position * frequencies[i]
    radians; cosine and sine are multiplied by `scale`. A request whose prompt + max_tokens exceeds
    `long_from` (0: never) uses the `long_` twins instead (longrope).
    """

    frequencies: tuple[float, ...]
    scale: float = 1.0
    long_from: int = 0
    long_frequencies: tuple[float, ...] = ()
    long_scale: float = 1.0


class Source(IntEnum):
    SELF = 0  # keys and values from the same sequence
    ENCODER = 1  # cross-attention over the encoder's output


class NormSpan(IntEnum):
    HEAD = 0  # q/k norm over each head's head_dim
    PROJECTION = 1  # over the whole projection


@dataclass(frozen=True, slots=True)
class Attention:
    """softmax(softcap(scale * q k^T) + position bias + mask) v, heads sharing K/V in groups of heads / kv_heads."""

    heads: int
    kv_heads: int
    head_dim: int
    scale: float
    rope: Rope | None = None
    causal: bool = True
    window: int = 0  # 0: unlimited; w: a token sees itself and the w - 1 before it
    softcap: float = 0.0  # 0: none; c: c * tanh(s / c)
    qkv_bias: bool = False
    out_bias: bool = False
    q_norm: Norm | None = None  # after projection and bias, before rope
    k_norm: Norm | None = None
    norm_span: NormSpan = NormSpan.HEAD
    alibi: tuple[float, ...] = ()  # per head: adds slope * (key position - query position) (Press et al. 2021)
    relative_bias: bool = False  # adds the stack's relative-position bias (T5)
    source: Source = Source.SELF


@dataclass(frozen=True, slots=True)
class FeedForward:
    """down(act(gate x) * up x) when gated, else down(act(up x))."""

    width: int
    activation: Activation
    gated: bool = False
    bias: bool = False  # on gate and up
    out_bias: bool = False


@dataclass(frozen=True, slots=True)
class MixtureOfExperts:
    """sum over the `active` best experts of p_e * expert_e(x), p = softmax(router x) (Shazeer et al. 2017).

    `normalize`: the chosen p are divided by their sum. Experts are gated feed-forward blocks without bias.
    """

    experts: int
    active: int
    width: int
    activation: Activation
    normalize: bool = True


Mixer = Attention | FeedForward | MixtureOfExperts


@dataclass(frozen=True, slots=True)
class Sublayer:
    mixer: Mixer
    pre_norm: Norm | None = None
    branch_norm: Norm | None = None
    residual_norm: Norm | None = None
    residual_scale: float = 1.0


@dataclass(frozen=True, slots=True)
class Layer:
    sublayers: tuple[Sublayer, ...]
    parallel: bool = False


@dataclass(frozen=True, slots=True)
class RelativeBias:
    """T5's bucketed relative-position bias (Raffel et al. 2020), one table per stack: [heads, buckets]."""

    heads: int
    buckets: int
    max_distance: int
    bidirectional: bool


@dataclass(frozen=True, slots=True)
class Stack:
    layers: tuple[Layer, ...]
    norm: Norm | None = None
    relative: RelativeBias | None = None


@dataclass(frozen=True, slots=True)
class Embed:
    vocab: int
    hidden: int
    width: int = 0  # of the token table if it differs from hidden (then a projection follows); 0: hidden
    scale: float = 1.0
    positions: int = 0  # rows of the learned position table; 0: none
    types: int = 0  # rows of the token-type table; 0: none
    norm: Norm | None = None


@dataclass(frozen=True, slots=True)
class Head:
    tied: bool  # logits use the token table
    width: int = 0  # as Embed.width: hidden is projected to it first; 0: hidden
    bias: bool = False
    scale: float = 1.0
    softcap: float = 0.0


@dataclass(frozen=True, slots=True)
class ModelSpec:
    embed: Embed
    context: int  # longest sequence the model was made for, in tokens
    encoder: Stack | None = None
    decoder: Stack | None = None
    head: Head | None = None

    @property
    def kind(self) -> str:
        if self.encoder is None:
            return "decoder"
        return "encoder" if self.decoder is None else "encoder-decoder"


class _Words:
    """Little-endian 32-bit words: the blob's only alphabet."""

    def __init__(self) -> None:
        self.data = bytearray()

    def ints(self, *values: int) -> None:
        self.data += struct.pack(f"<{len(values)}I", *values)

    def floats(self, *values: float) -> None:
        self.data += struct.pack(f"<{len(values)}f", *values)

    def norm(self, norm: Norm | None) -> None:
        if norm is None:
            self.ints(0)
        else:
            self.ints(norm.kind, norm.weight, norm.bias)
            self.floats(norm.eps)

    def rope(self, rope: Rope | None) -> None:
        if rope is None:
            self.ints(0)
            return
        self.ints(len(rope.frequencies))
        self.floats(rope.scale, *rope.frequencies)
        self.ints(rope.long_from)
        if rope.long_from:
            self.floats(rope.long_scale, *rope.long_frequencies)

    def mixer(self, m: Mixer) -> None:
        if isinstance(m, Attention):
            self.ints(1, m.source, m.heads, m.kv_heads, m.head_dim, m.causal, m.window)
            self.floats(m.scale, m.softcap)
            self.ints(m.qkv_bias, m.out_bias, m.norm_span, m.relative_bias, len(m.alibi))
            self.floats(*m.alibi)
            self.norm(m.q_norm)
            self.norm(m.k_norm)
            self.rope(m.rope)
        elif isinstance(m, FeedForward):
            self.ints(2, m.width, m.activation, m.gated, m.bias, m.out_bias)
        else:
            self.ints(3, m.experts, m.active, m.width, m.activation, m.normalize)

    def stack(self, stack: Stack | None) -> None:
        if stack is None:
            self.ints(0)
            return
        self.ints(len(stack.layers))
        for layer in stack.layers:
            self.ints(len(layer.sublayers), layer.parallel)
            for s in layer.sublayers:
                self.floats(s.residual_scale)
                self.norm(s.pre_norm)
                self.norm(s.branch_norm)
                self.norm(s.residual_norm)
                self.mixer(s.mixer)
        self.norm(stack.norm)
        r = stack.relative
        if r is None:
            self.ints(0)
        else:
            self.ints(r.heads, r.buckets, r.max_distance, r.bidirectional)


def encode(spec: ModelSpec) -> bytes:
    """The blob of `spec`: magic, version, bytes in all, then every field in the order C reads it."""
    words = _Words()
    e = spec.embed
    words.ints(spec.context, e.vocab, e.hidden, e.width, e.positions, e.types)
    words.floats(e.scale)
    words.norm(e.norm)
    words.stack(spec.encoder)
    words.stack(spec.decoder)
    if spec.head is None:
        words.ints(0)
    else:
        words.ints(1, spec.head.tied, spec.head.width, spec.head.bias)
        words.floats(spec.head.scale, spec.head.softcap)
    return struct.pack("<3I", SPEC_MAGIC, SPEC_VERSION, len(words.data) + 12) + bytes(words.data)


def is_encoded(spec: ModelSpec, blob: bytes) -> bool:
    """Whether `blob` is what `encode` made of `spec`, here or on another machine.

    Rotary frequencies come from powers, whose last bits are each mathematical library's own: words of 2^23 and more,
    which floats are and sizes are not, may differ by up to four units.
    """
    own = encode(spec)
    if len(blob) != len(own):
        return False
    layout = f"<{len(own) // 4}I"
    pairs = zip(struct.unpack(layout, own), struct.unpack(layout, blob), strict=True)
    return all(a == b or (min(a, b) >= 1 << 23 and abs(a - b) <= 4) for a, b in pairs)
