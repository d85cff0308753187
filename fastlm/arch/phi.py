"""Phi 1, 1.5 and 2: attention and feed-forward in parallel behind one shared norm, partial rotation."""

from dataclasses import replace

from fastlm.arch.config import Config
from fastlm.arch.family import Family, Rule
from fastlm.arch.rope import read_rope
from fastlm.arch.skeleton import (
    ATTENTION,
    NO_MODEL_PREFIX,
    ROTARY_BUFFERS,
    Shape,
    decoder,
    grouped,
    layer_norm,
    pre_norm_layer,
    read_shape,
)
from fastlm.arch.spec import FeedForward

DEFAULT = Shape(vocab=51200, hidden=2048, width=8192, layers=24, heads=32, context=2048)
WEIGHTS: dict[str, Rule] = {
    **ATTENTION,
    "embed.tokens": "embed_tokens",
    "decoder.{i}.0.pre_norm": "layers.{i}.input_layernorm",
    "decoder.{i}.0.o": "layers.{i}.self_attn.dense",
    "decoder.{i}.0.q_norm": "layers.{i}.self_attn.q_layernorm",
    "decoder.{i}.0.k_norm": "layers.{i}.self_attn.k_layernorm",
    "decoder.{i}.1.pre_norm": "layers.{i}.input_layernorm",
    "decoder.{i}.1.up": "layers.{i}.mlp.fc1",
    "decoder.{i}.1.down": "layers.{i}.mlp.fc2",
    "decoder.norm": "final_layernorm",
    "head": "lm_head",
}


def read(config: Config) -> Family:
    config.ignore("rms_norm_eps")
    shape = read_shape(config, DEFAULT)
    norm = layer_norm(config, "layer_norm_eps", 1e-5)
    rope = read_rope(config, shape.head_dim, shape.context, partial=0.5)
    attention = grouped(shape, rope, bias=True)
    if config.flag("qk_layernorm", False):
        attention = replace(attention, q_norm=norm, k_norm=norm)
    ffn = FeedForward(shape.width, config.activation("hidden_act", "gelu_new"), bias=True, out_bias=True)
    layer = pre_norm_layer(norm, attention, ffn, parallel=True)
    spec = decoder(shape, [layer] * shape.layers, norm, bias=True)
    return Family("phi", spec, WEIGHTS, NO_MODEL_PREFIX, ROTARY_BUFFERS)
