"""Qwen 3 MoE: Qwen 3 whose layers are mixtures of experts, but for those that are listed or skipped."""

from dataclasses import replace

from fastlm.arch.config import MAX_LAYERS, MAX_WIDTH, Config
from fastlm.arch.family import Family, Rule
from fastlm.arch.mixtral import read_experts
from fastlm.arch.rope import read_rope
from fastlm.arch.skeleton import (
    LLAMA,
    NO_MODEL_PREFIX,
    ROTARY_BUFFERS,
    Shape,
    decoder,
    gated,
    grouped,
    pre_norm_layer,
    read_shape,
    read_window,
    rms_norm,
)

DEFAULT = Shape(vocab=151936, hidden=2048, width=6144, layers=24, heads=32, kv_heads=4, context=32768)
WEIGHTS: dict[str, Rule] = {
    **LLAMA,
    "decoder.{i}.1.router": "layers.{i}.mlp.gate",
    "decoder.{i}.1.experts.{e}.gate": "layers.{i}.mlp.experts.{e}.gate_proj",
    "decoder.{i}.1.experts.{e}.up": "layers.{i}.mlp.experts.{e}.up_proj",
    "decoder.{i}.1.experts.{e}.down": "layers.{i}.mlp.experts.{e}.down_proj",
}


def read(config: Config) -> Family:
    config.alias(num_experts="num_local_experts")
    shape = read_shape(config, DEFAULT)
    norm = rms_norm(config, 1e-6)
    rope = read_rope(config, shape.head_dim, shape.context)
    attention = grouped(shape, rope, bias=config.flag("attention_bias", False))
    window = read_window(config, 4096) if config.flag("use_sliding_window", False) else 0
    config.ignore("sliding_window", "max_window_layers")
    attention = replace(attention, q_norm=norm, k_norm=norm, window=window)
    width = config.count("moe_intermediate_size", 768, MAX_WIDTH)
    experts = read_experts(config, 128, 8, width, normalize=config.flag("norm_topk_prob", False))
    step = config.count("decoder_sparse_step", 1, MAX_LAYERS)
    dense = set(config.items("mlp_only_layers", int) or ())
    sparse_layer = pre_norm_layer(norm, attention, experts)
    dense_layer = pre_norm_layer(norm, attention, gated(config, shape))
    layers = [dense_layer if i in dense or (i + 1) % step else sparse_layer for i in range(shape.layers)]
    return Family("qwen3_moe", decoder(shape, layers, norm), WEIGHTS, NO_MODEL_PREFIX, ROTARY_BUFFERS)
