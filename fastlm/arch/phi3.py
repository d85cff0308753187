"""Phi 3, 3.5 and 4-mini: Llama with fused qkv and gate-up projections, and ropes that grow with the sequence."""

from dataclasses import replace

from fastlm.arch.config import Config
from fastlm.arch.family import Family, Take
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

DEFAULT = Shape(vocab=32064, hidden=3072, width=8192, layers=32, heads=32, context=4096)


def read(config: Config) -> Family:
    shape = read_shape(config, DEFAULT)
    norm = rms_norm(config, 1e-5)
    rope = read_rope(config, shape.head_dim, shape.context, partial=1.0, original=4096)
    config.only("full_attn_mod", 1)
    config.only("interpolate_factor", 1)
    config.only("lm_head_bias", False)
    attention = replace(grouped(shape, rope), window=read_window(config, None))
    layer = pre_norm_layer(norm, attention, gated(config, shape))
    spec = decoder(shape, [layer] * shape.layers, norm)
    q, kv = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
    qkv, mlp = "layers.{i}.self_attn.qkv_proj", "layers.{i}.mlp.gate_up_proj"
    fused = {
        "decoder.{i}.0.q": Take(qkv, start=0, of=q + 2 * kv),
        "decoder.{i}.0.k": Take(qkv, start=q, of=q + 2 * kv),
        "decoder.{i}.0.v": Take(qkv, start=q + kv, of=q + 2 * kv),
        "decoder.{i}.1.gate": Take(mlp, start=0, of=2 * shape.width),
        "decoder.{i}.1.up": Take(mlp, start=shape.width, of=2 * shape.width),
    }
    return Family("phi3", spec, {**LLAMA, **fused}, NO_MODEL_PREFIX, ROTARY_BUFFERS)
