"""Qwen 2 and 2.5: Llama with biases on q, k and v, and an optional window on the upper layers."""

from dataclasses import replace

from fastlm.arch.config import MAX_LAYERS, Config
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
    sliding_layers,
)

DEFAULT = Shape(vocab=151936, hidden=4096, width=22016, layers=32, heads=32, kv_heads=32, context=32768)


def read(config: Config) -> Family:
    shape = read_shape(config, DEFAULT)
    norm = rms_norm(config, 1e-6)
    rope = read_rope(config, shape.head_dim, shape.context)
    attention = replace(grouped(shape, rope), qkv_bias=True)
    ffn = gated(config, shape)
    layers = [pre_norm_layer(norm, replace(attention, window=w), ffn) for w in qwen_windows(config, shape)]
    return Family("qwen2", decoder(shape, layers, norm), LLAMA, NO_MODEL_PREFIX, ROTARY_BUFFERS)


def qwen_windows(config: Config, shape: Shape) -> list[int]:
    """Windows per layer as Qwen 2 and 3 choose them: switched on as a whole, then from a layer or by layer_types."""
    on = config.flag("use_sliding_window", False)
    window = read_window(config, 4096) if on else 0
    config.ignore("sliding_window")
    first = config.count("max_window_layers", 28, MAX_LAYERS, least=0)
    sliding = sliding_layers(config, shape, lambda i: window > 0 and i >= first)
    if any(sliding) and not window:
        raise config.bad("layer_types", "has sliding layers, but use_sliding_window or sliding_window is not set")
    return [window if slides else 0 for slides in sliding]
