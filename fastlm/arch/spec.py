"""The vocabulary of layers: a model family is a value of these frozen classes.

A spec says everything about a model's computation except the weights. `encode` writes it as the versioned blob that C
reads (csrc/model/parse_spec.c) and that a `.flm` file holds. `decode` reads it back. `fastlm/reference.py` executes it.
The order of a class's fields is their order in the blob (blob.py): new ones go last.

The computation, for a residual stream x of shape (tokens, hidden)::

    e = stack.embed
    x = e.norm(e.scale * tokens[ids] (@ project) + positions[p] + types[t]) (@ project, if narrow)
    for layer in stack.layers:
        for s in layer.sublayers:                          # parallel: every s reads the layer's input
            y = s.branch_norm(s.mixer(s.pre_norm(x)))
            x = s.residual_norm(x + s.residual_scale * y)
    x = stack.norm(x)
    x = pool(x)
    for step in head:                                      # of the decoder, or of an encoder alone
        x = step(x)
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, replace
from enum import IntEnum

from fastlm.arch import blob
from fastlm.arch.blob import Record
from fastlm.errors import ModelFormatError, UnsupportedError

SPEC_MAGIC = 0x534D4C46  # "FLMS", little-endian
SPEC_VERSION = 2
_START = struct.Struct("<2I")


class NormKind(IntEnum):
    RMS = 1  # x / sqrt(mean(x^2) + eps) * weight          (Zhang and Sennrich 2019)
    LAYER = 2  # (x - mean) / sqrt(var + eps) * weight + bias (Ba et al. 2016)


class Activation(IntEnum):
    RELU = 1
    GELU = 2  # x * Phi(x), by erf
    GELU_TANH = 3  # its tanh approximation ("gelu_new", "gelu_pytorch_tanh")
    SILU = 4  # x * sigmoid(x)
    TANH = 5


@dataclass(frozen=True, slots=True)
class Norm(Record):
    """A normalisation; weights of the form 1 + w are folded when bound."""

    kind: NormKind
    eps: float
    weight: bool = True
    bias: bool = False


@dataclass(frozen=True, slots=True)
class Rope(Record):
    """Rotary positions (Su et al. 2021) on the first 2 * len(frequencies) dimensions of each head.

    Dimension i is rotated with dimension i + len(frequencies) ("rotate half") by position * frequencies[i]
    radians; cosine and sine are multiplied by `scale`. A sequence of more than `long_from` tokens (0: never) uses the
    `long_` twins instead, for all of its positions (longrope): one that outgrows them while it is written is computed
    again.
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
class RelativeVectors(Record):
    """DeBERTa's (He et al. 2021): q . relative_k[b] + k . relative_q[b] joins q k^T, b the bucket of the distance."""

    span: int  # half of the buckets; the nearest span / 2 positions on each side have one each
    max_distance: int = 0  # up to which the others grow logarithmically; 0: all of the span have one each
    keys: bool = True  # "content to position"
    queries: bool = True  # "position to content"


@dataclass(frozen=True, slots=True)
class Attention(Record):
    """softmax(softcap(scale * q k^T) + position bias + mask) v, heads sharing K/V in groups of heads / kv_heads."""

    heads: int
    kv_heads: int
    head_dim: int
    scale: float
    rope: Rope | None = None
    causal: bool = True
    window: int = 0  # 0: unlimited; w: a token sees itself, the w - 1 before it and, unless causal, the w - 1 behind it
    softcap: float = 0.0  # 0: none; c: c * tanh(s / c)
    qkv_bias: bool = False
    out_bias: bool = False
    q_norm: Norm | None = None  # after projection and bias, before rope
    k_norm: Norm | None = None
    norm_span: NormSpan = NormSpan.HEAD
    alibi: tuple[float, ...] = ()  # per head: adds slope * (key position - query position) (Press et al. 2021)
    relative_bias: bool = False  # adds the stack's relative-position bias (T5)
    source: Source = Source.SELF
    vectors: RelativeVectors | None = None  # of relative positions; heads = kv_heads


@dataclass(frozen=True, slots=True)
class FeedForward(Record):
    """down(act(gate x) * up x) when gated, else down(act(up x))."""

    width: int
    activation: Activation
    gated: bool = False
    bias: bool = False  # on gate and up
    out_bias: bool = False


@dataclass(frozen=True, slots=True)
class MixtureOfExperts(Record):
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
class Sublayer(Record):
    mixer: Mixer
    pre_norm: Norm | None = None
    branch_norm: Norm | None = None
    residual_norm: Norm | None = None
    residual_scale: float = 1.0


@dataclass(frozen=True, slots=True)
class Layer(Record):
    sublayers: tuple[Sublayer, ...] = ()
    parallel: bool = False
    repeats: int = 0  # n > 0: layer n - 1 of the stack, which has sublayers, once more: with its weights


@dataclass(frozen=True, slots=True)
class RelativeBias(Record):
    """T5's bucketed relative-position bias (Raffel et al. 2020), one table per stack: [heads, buckets]."""

    heads: int
    buckets: int
    max_distance: int
    bidirectional: bool
    by_layer: bool = False  # each attention that adds it has a table of its own


@dataclass(frozen=True, slots=True)
class Embed(Record):
    """What a stack makes of rows of a token table."""

    scale: float = 1.0  # of the rows
    positions: int = 0  # rows of the learned position table; 0: none
    types: int = 0  # rows of the token-type table; 0: none
    norm: Norm | None = None
    narrow: bool = False  # positions, types and norm come before the projection (which has a bias), as wide as tokens
    tokens: int = 0  # rows of a token table of its own, of an encoder beside a decoder; 0: the model's
    norm_first: bool = False  # positions and types are added behind the norm


@dataclass(frozen=True, slots=True)
class Stack(Record):
    layers: tuple[Layer, ...]
    norm: Norm | None = None
    relative: RelativeBias | None = None
    embed: Embed = Embed()


@dataclass(frozen=True, slots=True)
class Dense(Record):
    """weight x + bias, `width` numbers."""

    width: int
    bias: bool = False


@dataclass(frozen=True, slots=True)
class Activate(Record):
    activation: Activation


@dataclass(frozen=True, slots=True)
class Logits(Record):
    """softcap(scale * (weight x + bias)); the last step of a head."""

    tied: bool  # weight: the token table
    outputs: int = 0  # labels of a classifier; 0: a number for each token of the vocabulary
    bias: bool = False
    scale: float = 1.0
    softcap: float = 0.0


HeadStep = Dense | Activate | Norm | Logits  # an activation follows a dense step; a dense step or logits, a norm


class Pool(IntEnum):
    """Which hidden states the head reads."""

    NONE = 0  # each: a row of outputs for every token
    FIRST = 1  # one for the sequence: the first token's,
    LAST = 2  # the last token's,
    MEAN = 3  # or the mean of all tokens'
    LATE = 4  # each; the output of the sequence is the mean of all rows of outputs


@dataclass(frozen=True, slots=True)
class ModelSpec(Record):
    vocab: int  # rows of the token table, which all stacks read that have none of their own
    hidden: int
    context: int  # longest sequence the model was made for, in tokens
    width: int = 0  # of the token table if it differs from hidden (a stack then projects its rows); 0: hidden
    encoder: Stack | None = None
    decoder: Stack | None = None
    head: tuple[HeadStep, ...] = ()
    pool: Pool = Pool.NONE

    @property
    def kind(self) -> str:
        if self.encoder is None:
            return "decoder"
        return "encoder" if self.decoder is None else "encoder-decoder"

    @property
    def source_vocab(self) -> int:
        """Token ids that `forward` and prompts may hold: of an encoder's own table where it has one."""
        return (self.encoder.embed.tokens if self.encoder else 0) or self.vocab

    @property
    def main(self) -> Stack:
        """The stack whose output is the model's: the decoder, or an encoder alone."""
        stack = self.decoder or self.encoder
        assert stack is not None
        return stack

    @property
    def logits(self) -> Logits | None:
        """The last step of the head."""
        step = self.head[-1] if self.head else None
        return step if isinstance(step, Logits) else None

    @property
    def tied(self) -> bool:  # logits are made with the token table
        return self.logits is not None and self.logits.tied

    @property
    def outputs(self) -> int:
        """Numbers in a row of what the head gives; without a head, of the hidden states."""
        if self.logits is not None:
            return self.logits.outputs or self.vocab
        return next((step.width for step in reversed(self.head) if isinstance(step, Dense)), self.hidden)

    def with_logits(self, logits: Logits) -> ModelSpec:
        """The same model with another last step of the head."""
        return replace(self, head=(*self.head[:-1], logits))


def encode(spec: ModelSpec) -> bytes:
    """The blob of `spec`: magic, version, and the spec as a record (blob.py)."""
    return _START.pack(SPEC_MAGIC, SPEC_VERSION) + blob.encode(spec, ModelSpec)


def decode(data: bytes) -> ModelSpec:
    """The spec that `encode` made `data` of. Values are checked by C, which reads the blob of every model that runs."""
    magic, version = _START.unpack_from(data) if len(data) >= _START.size else (0, 0)
    if magic != SPEC_MAGIC:
        raise ModelFormatError("spec: not a model spec")
    if version != SPEC_VERSION:
        raise UnsupportedError(f"spec: version {version}; this fastlm reads version {SPEC_VERSION}: convert again")
    try:
        found: ModelSpec = blob.decode(data[_START.size :], ModelSpec)
    except (ModelFormatError, UnsupportedError) as error:
        raise type(error)(f"spec: {error}") from None
    return found
