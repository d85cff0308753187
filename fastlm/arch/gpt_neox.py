"""GPT-NeoX and Pythia: parallel residual with two norms, partial rotation, qkv interleaved by head."""

from fastlm.arch.config import Config
from fastlm.arch.family import Family, Rule, Take
from fastlm.arch.rope import read_rope
from fastlm.arch.skeleton import (
    Shape,
    decoder,
    grouped,
    layer_norm,
    pre_norm_layer,
    read_shape,
)
from fastlm.arch.spec import FeedForward

DEFAULT = Shape(vocab=50432, hidden=6144, width=24576, layers=44, heads=64, context=2048)
RENAMES = ((r"^gpt_neox\.", ""),)
BUFFERS = (r"layers\.\d+\.attention\.((masked_)?bias|rotary_emb\.inv_freq)", r"rotary_emb\.inv_freq")


def read(config: Config) -> Family:
    config.alias(rotary_emb_base="rope_theta", rotary_pct="partial_rotary_factor")
    shape = read_shape(config, DEFAULT)
    norm = layer_norm(config, "layer_norm_eps", 1e-5)
    rope = read_rope(config, shape.head_dim, shape.context, partial=0.25)
    attention = grouped(shape, rope, bias=config.flag("attention_bias", True))
    ffn = FeedForward(shape.width, config.activation("hidden_act", "gelu"), bias=True, out_bias=True)
    parallel = config.flag("use_parallel_residual", True)
    layer = pre_norm_layer(norm, attention, ffn, parallel=parallel)
    weights = {
        "embed.tokens": "embed_in",
        "decoder.{i}.0.pre_norm": "layers.{i}.input_layernorm",
        **interleaved_qkv(shape, "layers.{i}.attention.query_key_value"),
        "decoder.{i}.0.o": "layers.{i}.attention.dense",
        "decoder.{i}.1.pre_norm": "layers.{i}.post_attention_layernorm",
        "decoder.{i}.1.up": "layers.{i}.mlp.dense_h_to_4h",
        "decoder.{i}.1.down": "layers.{i}.mlp.dense_4h_to_h",
        "decoder.norm": "final_layer_norm",
        "head": ("embed_out", "lm_head"),
    }
    return Family("gpt_neox", decoder(shape, [layer] * shape.layers, norm), weights, RENAMES, BUFFERS)


def interleaved_qkv(shape: Shape, module: str) -> dict[str, Rule]:
    """q, k and v from one tensor whose rows are [heads, 3, head_dim]."""
    d, of = shape.head_dim, 3 * shape.heads * shape.head_dim
    parts = {"q": 0, "k": d, "v": 2 * d}
    return {
        f"decoder.{{i}}.0.{part}": Take(module, start=start, of=of, block=d, stride=3 * d)
        for part, start in parts.items()
    }
