"""ModernBERT and Ettin: pre-norm layers with rotary positions, most of which see a window only (Warner et al. 2024)."""

from dataclasses import replace

from fastlm.arch.config import MAX_CONTEXT, MAX_LAYERS, Config
from fastlm.arch.family import Family, Rule, Take
from fastlm.arch.heads import normed_heads, with_head
from fastlm.arch.rope import make_rope
from fastlm.arch.skeleton import ROTARY_BUFFERS, Shape, grouped, pre_norm_layer, read_shape, sliding_layers
from fastlm.arch.spec import Embed, FeedForward, ModelSpec, Norm, NormKind, Rope, Stack

DEFAULT = Shape(vocab=50368, hidden=768, width=1152, layers=22, heads=12, context=8192)
RENAMES = ((r"^model\.", ""),)
OF_TRAINING = ("initializer_cutoff_factor", "sparse_prediction", "sparse_pred_ignore_index", "repad_logits_with_grad")


def read(config: Config) -> Family:
    config.ignore("cls_token_id", "sep_token_id", "deterministic_flash_attn", "reference_compile", *OF_TRAINING)
    config.ignore("tie_word_embeddings", "layer_norm_eps", "position_embedding_type")
    shape = read_shape(config, DEFAULT)
    norm = Norm(NormKind.LAYER, config.number("norm_eps", 1e-5, most=1.0), bias=config.flag("norm_bias", False))
    bias, ffn_bias = config.flag("attention_bias", False), config.flag("mlp_bias", False)
    full, local = read_ropes(config, shape)
    window = config.count("local_attention", 128, MAX_CONTEXT) // 2 + 1
    attention = replace(grouped(shape, full, bias=bias), causal=False)
    near = replace(attention, rope=local, window=window)
    activation = config.activation("hidden_activation", "gelu")
    ffn = FeedForward(shape.width, activation, gated=True, bias=ffn_bias, out_bias=ffn_bias)
    every = config.count("global_attn_every_n_layers", 3, MAX_LAYERS)
    sliding = sliding_layers(config, shape, lambda i: i % every != 0)
    layers = [pre_norm_layer(norm, near if slides else attention, ffn) for slides in sliding]
    first, *others = layers[0].sublayers
    layers[0] = replace(layers[0], sublayers=(replace(first, pre_norm=None), *others))
    stack = Stack(tuple(layers), norm, embed=Embed(norm=norm))
    spec = ModelSpec(shape.vocab, shape.hidden, shape.context, encoder=stack)
    family = Family("modernbert", spec, weights(shape), RENAMES, ROTARY_BUFFERS)
    return with_head(family, config, normed_heads(config, shape.hidden, norm))


def read_ropes(config: Config, shape: Shape) -> tuple[Rope, Rope]:
    """Of layers that see everything, and of those with a window."""
    config.only("rope_scaling")
    both = config.section("rope_parameters")
    full, local = (both.section(kind) if both else None for kind in ("full_attention", "sliding_attention"))
    theta, local_theta = config.number("global_rope_theta", 160_000.0), config.number_or_none("local_rope_theta", 1e4)
    return (
        make_rope(config, full, shape.head_dim, shape.context, theta=theta),
        make_rope(config, local, shape.head_dim, shape.context, theta=local_theta or theta),
    )


def weights(shape: Shape) -> dict[str, Rule]:
    wide, width = shape.heads * shape.head_dim, shape.width
    return {
        "embed.tokens": "embeddings.tok_embeddings",
        "encoder.embed.norm": "embeddings.norm",
        **{f"encoder.{{i}}.0.{x}": Take("layers.{i}.attn.Wqkv", n * wide, 3 * wide) for n, x in enumerate("qkv")},
        "encoder.{i}.0.pre_norm": "layers.{i}.attn_norm",
        "encoder.{i}.0.o": "layers.{i}.attn.Wo",
        "encoder.{i}.1.pre_norm": "layers.{i}.mlp_norm",
        "encoder.{i}.1.gate": Take("layers.{i}.mlp.Wi", 0, 2 * width),
        "encoder.{i}.1.up": Take("layers.{i}.mlp.Wi", width, 2 * width),
        "encoder.{i}.1.down": "layers.{i}.mlp.Wo",
        "encoder.norm": "final_norm",
    }
