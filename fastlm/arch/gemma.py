"""Gemma: Llama with norms that multiply by 1 + w, embeddings times sqrt(hidden), and gated tanh GELU."""

from collections.abc import Mapping

from fastlm.arch.config import Config
from fastlm.arch.family import Family, Rule, Take
from fastlm.arch.rope import read_rope
from fastlm.arch.skeleton import (
    LLAMA,
    NO_MODEL_PREFIX,
    ROTARY_BUFFERS,
    Shape,
    decoder,
    grouped,
    pre_norm_layer,
    read_shape,
    rms_norm,
)
from fastlm.arch.spec import Activation, FeedForward

DEFAULT = Shape(
    vocab=256000, hidden=3072, width=24576, layers=28, heads=16, kv_heads=16, head_dim=256, context=8192, tied=True
)


def unit_offset(weights: Mapping[str, Rule], *slots: str) -> dict[str, Rule]:
    """`weights` with 1 added to what these slots take."""
    return {**weights, **{slot: Take(str(weights[slot]), add=1.0) for slot in slots}}


WEIGHTS = unit_offset(LLAMA, "decoder.{i}.0.pre_norm", "decoder.{i}.1.pre_norm", "decoder.norm")


def read(config: Config) -> Family:
    shape = read_shape(config, DEFAULT)
    norm = rms_norm(config, 1e-6)
    rope = read_rope(config, shape.head_dim, shape.context)
    key = "hidden_activation" if config.has("hidden_activation") else "hidden_act"
    config.ignore("hidden_act")
    activation = config.activation(key, "gelu_pytorch_tanh")
    if activation is Activation.GELU:  # the first releases say "gelu" and mean its tanh form
        activation = Activation.GELU_TANH
    attention = grouped(shape, rope, bias=config.flag("attention_bias", False))
    layer = pre_norm_layer(norm, attention, FeedForward(shape.width, activation, gated=True))
    spec = decoder(shape, [layer] * shape.layers, norm, scale=shape.hidden**0.5)
    return Family("gemma", spec, WEIGHTS, NO_MODEL_PREFIX, ROTARY_BUFFERS)
