"""Mixtral: Mistral with a mixture of experts for the feed-forward block."""

from dataclasses import replace

from fastlm.arch.config import MAX_EXPERTS, Config
from fastlm.arch.family import Family, Rule
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
    read_window,
    rms_norm,
)
from fastlm.arch.spec import MixtureOfExperts

DEFAULT = Shape(vocab=32000, hidden=4096, width=14336, layers=32, heads=32, kv_heads=8, context=131072)
WEIGHTS: dict[str, Rule] = {
    **LLAMA,
    "decoder.{i}.1.router": "layers.{i}.block_sparse_moe.gate",
    "decoder.{i}.1.experts.{e}.gate": "layers.{i}.block_sparse_moe.experts.{e}.w1",
    "decoder.{i}.1.experts.{e}.up": "layers.{i}.block_sparse_moe.experts.{e}.w3",
    "decoder.{i}.1.experts.{e}.down": "layers.{i}.block_sparse_moe.experts.{e}.w2",
}


def read(config: Config) -> Family:
    shape = read_shape(config, DEFAULT)
    norm = rms_norm(config, 1e-5)
    rope = read_rope(config, shape.head_dim, shape.context, theta=1e6)
    attention = replace(grouped(shape, rope), window=read_window(config, None))
    layer = pre_norm_layer(norm, attention, read_experts(config, 8, 2, shape.width))
    return Family("mixtral", decoder(shape, [layer] * shape.layers, norm), WEIGHTS, NO_MODEL_PREFIX, ROTARY_BUFFERS)


def read_experts(config: Config, experts: int, active: int, width: int, *, normalize: bool = True) -> MixtureOfExperts:
    """The mixture under its usual keys; experts, active: the family's defaults."""
    experts = config.count("num_local_experts", experts, MAX_EXPERTS)
    active = config.count("num_experts_per_tok", active, MAX_EXPERTS)
    if active > experts:
        raise config.bad("num_experts_per_tok", f"{active} is more than {config.name('num_local_experts')} ({experts})")
    return MixtureOfExperts(experts, active, width, config.activation("hidden_act", "silu"), normalize)
