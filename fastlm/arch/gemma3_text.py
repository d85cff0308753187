"""Gemma 3 (text): Gemma 2 with q and k norms, five sliding layers to each full one, and a rope for each kind.

EmbeddingGemma is the same as an encoder: its tokens see each other, half of the window on each side.
"""

from dataclasses import replace

from fastlm.arch import gemma2
from fastlm.arch.config import MAX_LAYERS, Config
from fastlm.arch.family import Family
from fastlm.arch.gemma import unit_offset
from fastlm.arch.gemma2 import four_norm_layer, gemma_attention
from fastlm.arch.heads import last_labels, with_head
from fastlm.arch.rope import make_rope
from fastlm.arch.skeleton import (
    NO_MODEL_PREFIX,
    ROTARY_BUFFERS,
    Shape,
    as_encoder,
    decoder,
    of_encoder,
    read_shape,
    read_window,
    rms_norm,
    sliding_layers,
)
from fastlm.arch.spec import FeedForward, Rope

DEFAULT = Shape(
    vocab=262208, hidden=2304, width=9216, layers=26, heads=8, kv_heads=4, head_dim=256, context=131072, tied=True
)
WEIGHTS = unit_offset(gemma2.WEIGHTS, "decoder.{i}.0.q_norm", "decoder.{i}.0.k_norm")
ENCODER = of_encoder(WEIGHTS)


def read(config: Config) -> Family:
    config.ignore("hidden_act")
    config.alias(_sliding_window_pattern="sliding_window_pattern")
    shape = read_shape(config, DEFAULT)
    norm = rms_norm(config, 1e-6)
    full, local = read_ropes(config, shape)
    two_sided = config.has("use_bidirectional_attention") and config.flag("use_bidirectional_attention", False)
    attention = replace(gemma_attention(config, shape, None), q_norm=norm, k_norm=norm, causal=not two_sided)
    ffn = FeedForward(shape.width, config.activation("hidden_activation", "gelu_pytorch_tanh"), gated=True)
    pattern = config.count("sliding_window_pattern", 6, MAX_LAYERS)
    sliding = sliding_layers(config, shape, lambda i: (i + 1) % pattern != 0)
    window = read_window(config, 4096)
    if two_sided and window:
        window = window // 2 + 1
    full_layer = four_norm_layer(norm, replace(attention, rope=full), ffn)
    local_layer = four_norm_layer(norm, replace(attention, rope=local, window=window), ffn)
    cap = config.number_or_none("final_logit_softcapping", None) or 0.0
    layers = [local_layer if slides else full_layer for slides in sliding]
    spec = decoder(shape, layers, norm, scale=shape.hidden**0.5, softcap=cap)
    if not two_sided:
        return Family("gemma3_text", spec, WEIGHTS, NO_MODEL_PREFIX, ROTARY_BUFFERS)
    family = Family("gemma3_text", as_encoder(spec), ENCODER, NO_MODEL_PREFIX, ROTARY_BUFFERS)
    return with_head(family, config, {"SequenceClassification": lambda: last_labels(config)})


def read_ropes(config: Config, shape: Shape) -> tuple[Rope, Rope]:
    """Of full layers (which rope_scaling concerns) and of sliding ones."""
    both = config.section("rope_parameters")
    full = both.section("full_attention") if both else config.section("rope_scaling")
    local = both.section("sliding_attention") if both else None
    theta, local_theta = config.number("rope_theta", 1e6), config.number("rope_local_base_freq", 1e4)
    return (
        make_rope(config, full, shape.head_dim, shape.context, theta=theta),
        make_rope(config, local, shape.head_dim, shape.context, theta=local_theta),
    )
