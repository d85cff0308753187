"""Gemma 2: Gemma with a norm before and after each block, soft caps, and a window on every other layer."""

from dataclasses import replace

from fastlm.arch.config import Config
from fastlm.arch.family import Family
from fastlm.arch.gemma import unit_offset
from fastlm.arch.rope import read_rope
from fastlm.arch.skeleton import (
    LLAMA,
    NO_MODEL_PREFIX,
    ROTARY_BUFFERS,
    Shape,
    decoder,
    grouped,
    read_shape,
    read_window,
    rms_norm,
    sliding_layers,
)
from fastlm.arch.spec import Attention, FeedForward, Layer, Norm, Sublayer

DEFAULT = Shape(
    vocab=256000, hidden=2304, width=9216, layers=26, heads=8, kv_heads=4, head_dim=256, context=8192, tied=True
)
NORMS = {
    "decoder.{i}.0.pre_norm": "layers.{i}.input_layernorm",
    "decoder.{i}.0.branch_norm": "layers.{i}.post_attention_layernorm",
    "decoder.{i}.1.pre_norm": "layers.{i}.pre_feedforward_layernorm",
    "decoder.{i}.1.branch_norm": "layers.{i}.post_feedforward_layernorm",
}
WEIGHTS = unit_offset({**LLAMA, **NORMS}, *NORMS, "decoder.norm")


def read(config: Config) -> Family:
    shape = read_shape(config, DEFAULT)
    norm = rms_norm(config, 1e-6)
    rope = read_rope(config, shape.head_dim, shape.context)
    attention = replace(gemma_attention(config, shape, 50.0), rope=rope)
    ffn = FeedForward(shape.width, config.activation("hidden_activation", "gelu_pytorch_tanh"), gated=True)
    config.ignore("hidden_act", "sliding_window_size")
    window = read_window(config, 4096)
    sliding = sliding_layers(config, shape, lambda i: i % 2 == 0)
    layers = [four_norm_layer(norm, replace(attention, window=window if slides else 0), ffn) for slides in sliding]
    cap = config.number_or_none("final_logit_softcapping", 30.0) or 0.0
    spec = decoder(shape, layers, norm, scale=shape.hidden**0.5, softcap=cap)
    return Family("gemma2", spec, WEIGHTS, NO_MODEL_PREFIX, ROTARY_BUFFERS)


def gemma_attention(config: Config, shape: Shape, softcap: float | None) -> Attention:
    """Scaled by query_pre_attn_scalar instead of head_dim; softcap: the family's default."""
    base = grouped(shape, bias=config.flag("attention_bias", False))
    cap = config.number_or_none("attn_logit_softcapping", softcap) or 0.0
    return replace(base, scale=config.number("query_pre_attn_scalar", 256.0) ** -0.5, softcap=cap)


def four_norm_layer(norm: Norm, *mixers: Attention | FeedForward) -> Layer:
    return Layer(tuple(Sublayer(mixer, pre_norm=norm, branch_norm=norm) for mixer in mixers))
