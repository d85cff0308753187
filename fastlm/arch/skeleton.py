"""What families share: reading their dimensions, the causal stack, and the Llama names of weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from fastlm.arch.config import MAX_CONTEXT, MAX_HEAD_DIM, MAX_HEADS, MAX_LAYERS, MAX_VOCAB, MAX_WIDTH, Config
from fastlm.arch.family import Rule
from fastlm.arch.spec import (
    Attention,
    Embed,
    FeedForward,
    Layer,
    Logits,
    Mixer,
    ModelSpec,
    Norm,
    NormKind,
    Rope,
    Stack,
    Sublayer,
)


@dataclass(frozen=True, slots=True)
class Shape:
    """The dimensions of a decoder; as a family's defaults, zeros mean what they are derived from when absent."""

    vocab: int
    hidden: int
    layers: int
    heads: int
    context: int
    width: int = 0  # of the feed-forward block; 0: 4 * hidden
    kv_heads: int = 0  # 0: heads
    head_dim: int = 0  # 0: hidden / heads
    tied: bool = False


def read_shape(config: Config, default: Shape) -> Shape:
    """Dimensions under their usual keys; a family that writes them otherwise calls `Config.alias` first."""
    hidden = config.count("hidden_size", default.hidden, MAX_WIDTH)
    heads = config.count("num_attention_heads", default.heads, MAX_HEADS)
    kv_heads = config.count_or_none("num_key_value_heads", default.kv_heads or None, MAX_HEADS) or heads
    head_dim = config.count_or_none("head_dim", default.head_dim or None, MAX_HEAD_DIM)
    if default.width:
        width = config.count("intermediate_size", default.width, MAX_WIDTH)
    else:
        width = config.count_or_none("intermediate_size", None, MAX_WIDTH) or 4 * hidden
    if heads % kv_heads:
        raise config.bad("num_key_value_heads", f"{kv_heads} does not divide num_attention_heads ({heads})")
    if head_dim is None and hidden % heads:
        given = f"{config.name('hidden_size')} ({hidden})"
        why = f"{heads} does not divide {given}, and no {config.name('head_dim')} is given"
        raise config.bad("num_attention_heads", why)
    head_dim = head_dim or hidden // heads
    if heads * head_dim > MAX_WIDTH or head_dim > MAX_HEAD_DIM or width > MAX_WIDTH:
        key = "intermediate_size" if width > MAX_WIDTH else "head_dim"
        raise config.bad(key, f"{heads} heads of {head_dim} and width {width} are too large (hidden_size {hidden})")
    return Shape(
        vocab=config.count("vocab_size", default.vocab, MAX_VOCAB),
        hidden=hidden,
        layers=config.count("num_hidden_layers", default.layers, MAX_LAYERS),
        heads=heads,
        context=config.count("max_position_embeddings", default.context, MAX_CONTEXT),
        width=width,
        kv_heads=kv_heads,
        head_dim=head_dim,
        tied=config.flag("tie_word_embeddings", default.tied),
    )


def after_padding(config: Config, shape: Shape, padding: int) -> Shape:
    """The shape of a model whose positions begin behind the padding token's row of the table, which is never read."""
    if shape.context <= padding + 1:
        why = f"expected more than {padding + 1}: positions begin behind the padding token's, {padding}"
        raise config.bad("max_position_embeddings", why)
    return replace(shape, context=shape.context - padding - 1)


def rms_norm(config: Config, default: float) -> Norm:
    return Norm(NormKind.RMS, config.number("rms_norm_eps", default, most=1.0))


def layer_norm(config: Config, key: str, default: float) -> Norm:
    return Norm(NormKind.LAYER, config.number(key, default, most=1.0), bias=True)


def grouped(shape: Shape, rope: Rope | None = None, *, bias: bool = False) -> Attention:
    """Causal attention of `shape` with the usual 1/sqrt(head_dim); bias: on all four projections."""
    scale = shape.head_dim**-0.5
    return Attention(shape.heads, shape.kv_heads, shape.head_dim, scale, rope, qkv_bias=bias, out_bias=bias)


def gated(config: Config, shape: Shape, *, bias: bool = False) -> FeedForward:
    return FeedForward(shape.width, config.activation("hidden_act", "silu"), gated=True, bias=bias, out_bias=bias)


def pre_norm_layer(norm: Norm, *mixers: Mixer, parallel: bool = False) -> Layer:
    """x + mixer(norm(x)) for each mixer in turn, or all from the same x."""
    return Layer(tuple(Sublayer(mixer, pre_norm=norm) for mixer in mixers), parallel)


def decoder(
    shape: Shape,
    layers: Sequence[Layer],
    norm: Norm | None,
    *,
    scale: float = 1.0,
    positions: int = 0,
    embed_norm: Norm | None = None,
    softcap: float = 0.0,
    bias: bool = False,
) -> ModelSpec:
    """A decoder-only spec; scale, positions, embed_norm: of the embeddings, softcap, bias: of the logits."""
    stack = Stack(tuple(layers), norm, embed=Embed(scale, positions, norm=embed_norm))
    head = (Logits(shape.tied, bias=bias, softcap=softcap),)
    return ModelSpec(shape.vocab, shape.hidden, shape.context, decoder=stack, head=head)


def as_encoder(spec: ModelSpec) -> ModelSpec:
    """The stack of a decoder, which must not be causal, as an encoder without a head."""
    return replace(spec, encoder=spec.decoder, decoder=None, head=())


def of_encoder(weights: Mapping[str, Rule]) -> dict[str, Rule]:
    """The rules of a decoder's stack for the same stack as an encoder."""
    return {slot.replace("decoder", "encoder"): rule for slot, rule in weights.items() if slot != "head"}


def sliding_layers(config: Config, shape: Shape, default: Callable[[int], bool]) -> list[bool]:
    """Per layer, whether its attention slides: `layer_types`, or the family's rule where that is absent."""
    kinds = config.items("layer_types", str)
    if kinds is None:
        return [default(i) for i in range(shape.layers)]
    if len(kinds) != shape.layers:
        raise config.bad(
            "layer_types", f"expected one per layer (num_hidden_layers {shape.layers}), found {len(kinds)}"
        )
    for kind in kinds:
        if kind not in ("full_attention", "sliding_attention"):
            raise config.unsupported("layer_types", kind, "only full_attention, sliding_attention")
    return [kind == "sliding_attention" for kind in kinds]


def read_window(config: Config, default: int | None) -> int:
    """`sliding_window` in tokens; 0: none."""
    return config.count_or_none("sliding_window", default, (1 << 31) - 1) or 0


ATTENTION: Mapping[str, str] = {
    "decoder.{i}.0.q": "layers.{i}.self_attn.q_proj",
    "decoder.{i}.0.k": "layers.{i}.self_attn.k_proj",
    "decoder.{i}.0.v": "layers.{i}.self_attn.v_proj",
    "decoder.{i}.0.o": "layers.{i}.self_attn.o_proj",
    "decoder.{i}.0.q_norm": "layers.{i}.self_attn.q_norm",
    "decoder.{i}.0.k_norm": "layers.{i}.self_attn.k_norm",
}
LLAMA: Mapping[str, Rule] = {
    "embed.tokens": "embed_tokens",
    "decoder.{i}.0.pre_norm": "layers.{i}.input_layernorm",
    **ATTENTION,
    "decoder.{i}.1.pre_norm": "layers.{i}.post_attention_layernorm",
    "decoder.{i}.1.gate": "layers.{i}.mlp.gate_proj",
    "decoder.{i}.1.up": "layers.{i}.mlp.up_proj",
    "decoder.{i}.1.down": "layers.{i}.mlp.down_proj",
    "decoder.norm": "norm",
    "head": "lm_head",
}
NO_MODEL_PREFIX = ((r"^model\.", ""),)
ROTARY_BUFFERS = (r".*rotary_emb\.inv_freq",)
