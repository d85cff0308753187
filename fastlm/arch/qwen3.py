"""Qwen 3: no projection biases, RMS norms on each head of q and k before the rotation."""

from dataclasses import replace

from fastlm.arch.config import Config
from fastlm.arch.family import Family
from fastlm.arch.qwen2 import qwen_windows
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
    rms_norm,
)

DEFAULT = Shape(vocab=151936, hidden=4096, width=22016, layers=32, heads=32, kv_heads=32, head_dim=128, context=32768)


def read(config: Config) -> Family:
    shape = read_shape(config, DEFAULT)
    norm = rms_norm(config, 1e-6)
    rope = read_rope(config, shape.head_dim, shape.context)
    attention = grouped(shape, rope, bias=config.flag("attention_bias", False))
    attention = replace(attention, q_norm=norm, k_norm=norm)
    ffn = gated(config, shape)
    layers = [pre_norm_layer(norm, replace(attention, window=w), ffn) for w in qwen_windows(config, shape)]
    return Family("qwen3", decoder(shape, layers, norm), LLAMA, NO_MODEL_PREFIX, ROTARY_BUFFERS)
