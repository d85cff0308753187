"""GPT-2 and DistilGPT2: learned positions, pre-norm, matrices stored [in, out], fused qkv."""

from dataclasses import replace

from fastlm.arch.config import Config
from fastlm.arch.family import Family, Rule, Take
from fastlm.arch.skeleton import Shape, decoder, grouped, layer_norm, pre_norm_layer, read_shape
from fastlm.arch.spec import FeedForward

DEFAULT = Shape(vocab=50257, hidden=768, layers=12, heads=12, context=1024, tied=True)


def read(config: Config) -> Family:
    config.alias(
        n_embd="hidden_size",
        n_head="num_attention_heads",
        n_layer="num_hidden_layers",
        n_positions="max_position_embeddings",
        n_inner="intermediate_size",
    )
    config.ignore("n_ctx", "reorder_and_upcast_attn", "summary_type", "summary_use_proj", "summary_activation")
    config.ignore("summary_proj_to_labels")
    shape = read_shape(config, DEFAULT)
    norm = layer_norm(config, "layer_norm_epsilon", 1e-5)
    attention = grouped(shape, bias=True)
    scale = attention.scale if config.flag("scale_attn_weights", True) else 1.0
    by_layer = config.flag("scale_attn_by_inverse_layer_idx", False)
    ffn = FeedForward(shape.width, config.activation("activation_function", "gelu_new"), bias=True, out_bias=True)
    layers = [
        pre_norm_layer(norm, replace(attention, scale=scale / (i + 1) if by_layer else scale), ffn)
        for i in range(shape.layers)
    ]
    n, qkv = shape.hidden, "h.{i}.attn.c_attn"
    weights: dict[str, Rule] = {
        "embed.tokens": "wte",
        "decoder.embed.positions": "wpe",
        "decoder.{i}.0.pre_norm": "h.{i}.ln_1",
        "decoder.{i}.0.q": Take(qkv, start=0, of=3 * n, transposed=True),
        "decoder.{i}.0.k": Take(qkv, start=n, of=3 * n, transposed=True),
        "decoder.{i}.0.v": Take(qkv, start=2 * n, of=3 * n, transposed=True),
        "decoder.{i}.0.o": Take("h.{i}.attn.c_proj", transposed=True),
        "decoder.{i}.1.pre_norm": "h.{i}.ln_2",
        "decoder.{i}.1.up": Take("h.{i}.mlp.c_fc", transposed=True),
        "decoder.{i}.1.down": Take("h.{i}.mlp.c_proj", transposed=True),
        "decoder.norm": "ln_f",
        "head": "lm_head",
    }
    spec = decoder(shape, layers, norm, positions=shape.context)
    return Family("gpt2", spec, weights, ((r"^transformer\.", ""),), (r"h\.\d+\.attn\.(masked_)?bias",))
