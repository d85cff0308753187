"""Mistral: Llama with a sliding window on every layer (or none)."""

from dataclasses import replace

from fastlm.arch.config import Config
from fastlm.arch.family import Family
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

DEFAULT = Shape(vocab=32000, hidden=4096, width=14336, layers=32, heads=32, kv_heads=8, context=131072)


def read(config: Config) -> Family:
    shape = read_shape(config, DEFAULT)
    norm = rms_norm(config, 1e-6)
    rope = read_rope(config, shape.head_dim, shape.context)
    attention = replace(grouped(shape, rope), window=read_window(config, 4096))
    layer = pre_norm_layer(norm, attention, gated(config, shape))
    return Family("mistral", decoder(shape, [layer] * shape.layers, norm), LLAMA, NO_MODEL_PREFIX, ROTARY_BUFFERS)
