"""BLOOM: ALiBi instead of positions, a norm on the embeddings, qkv interleaved by head."""

from dataclasses import replace

from fastlm.arch.config import Config
from fastlm.arch.family import Family
from fastlm.arch.gpt_neox import interleaved_qkv
from fastlm.arch.skeleton import (
    Shape,
    decoder,
    grouped,
    layer_norm,
    pre_norm_layer,
    read_shape,
)
from fastlm.arch.spec import Activation, FeedForward

DEFAULT = Shape(vocab=250880, hidden=64, layers=2, heads=8, context=2048, tied=True)
UNUSED = ("attention_softmax_in_fp32", "bias_dropout_fusion", "masked_softmax_fusion", "offset_alibi", "slow_but_exact")


def slopes(heads: int) -> tuple[float, ...]:
    """ALiBi slopes: a geometric series over the largest power of two heads, then every other one of the next."""
    whole = 1 << (heads.bit_length() - 1)
    first = [2.0 ** (-8 * (i + 1) / whole) for i in range(whole)]
    return tuple(first + [2.0 ** (-4 * (2 * i + 1) / whole) for i in range(heads - whole)])


def read(config: Config) -> Family:
    config.alias(n_embed="hidden_size", n_head="num_attention_heads", n_layer="num_hidden_layers")
    config.alias(seq_length="max_position_embeddings", n_inner="intermediate_size")
    config.ignore(*UNUSED, "skip_bias_add", "skip_bias_add_qkv")
    config.only("apply_residual_connection_post_layernorm", False)
    shape = read_shape(config, DEFAULT)
    norm = layer_norm(config, "layer_norm_epsilon", 1e-5)
    attention = replace(grouped(shape, bias=True), alibi=slopes(shape.heads))
    ffn = FeedForward(shape.width, Activation.GELU_TANH, bias=True, out_bias=True)
    weights = {
        "embed.tokens": "word_embeddings",
        "decoder.embed.norm": "word_embeddings_layernorm",
        "decoder.{i}.0.pre_norm": "h.{i}.input_layernorm",
        **interleaved_qkv(shape, "h.{i}.self_attention.query_key_value"),
        "decoder.{i}.0.o": "h.{i}.self_attention.dense",
        "decoder.{i}.1.pre_norm": "h.{i}.post_attention_layernorm",
        "decoder.{i}.1.up": "h.{i}.mlp.dense_h_to_4h",
        "decoder.{i}.1.down": "h.{i}.mlp.dense_4h_to_h",
        "decoder.norm": "ln_f",
        "head": "lm_head",
    }
    spec = decoder(shape, [pre_norm_layer(norm, attention, ffn)] * shape.layers, norm, embed_norm=norm)
    return Family("bloom", spec, weights, ((r"^transformer\.", ""),))
