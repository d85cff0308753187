"""Llama 1 to 3, TinyLlama, SmolLM 1 and 2, and the many models that kept its layers."""

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
    rms_norm,
)

DEFAULT = Shape(vocab=32000, hidden=4096, width=11008, layers=32, heads=32, context=2048)


def read(config: Config) -> Family:
    shape = read_shape(config, DEFAULT)
    norm = rms_norm(config, 1e-6)
    rope = read_rope(config, shape.head_dim, shape.context)
    attention = grouped(shape, rope, bias=config.flag("attention_bias", False))
    layer = pre_norm_layer(norm, attention, gated(config, shape, bias=config.flag("mlp_bias", False)))
    return Family("llama", decoder(shape, [layer] * shape.layers, norm), LLAMA, NO_MODEL_PREFIX, ROTARY_BUFFERS)
