"""Nomic Embed Text: post-norm layers with rotary positions, gated feed-forwards and few biases.

Configs are written in two dialects: the model's own (n_embd), and transformers'.
"""

from dataclasses import replace

from fastlm.arch import post_norm
from fastlm.arch.config import MAX_VOCAB, Config
from fastlm.arch.family import Family
from fastlm.arch.heads import with_head
from fastlm.arch.jina_embeddings_v3 import COMMON, UNUSED, layers
from fastlm.arch.rope import read_rope
from fastlm.arch.skeleton import Shape, grouped, layer_norm, read_shape
from fastlm.arch.spec import Activation, Embed

DEFAULT = Shape(vocab=30528, hidden=768, width=3072, layers=12, heads=12, context=2048)
RENAMES = (
    (r"^nomic_bert\.", ""),
    *COMMON,
    (r"\.attn\.out_proj\.", ".self_attn.o_proj."),
    (r"\.mlp\.fc11\.", ".mlp.up_proj."),
    (r"\.mlp\.fc12\.", ".mlp.gate_proj."),
    (r"\.mlp\.fc2\.", ".mlp.down_proj."),
    (r"\.transform\.layer_norm\.", ".transform.LayerNorm."),
)


def read(config: Config) -> Family:
    own = config.has("n_embd")
    if own:
        read_own(config)
    config.ignore("tie_word_embeddings")
    shape = read_shape(config, DEFAULT)
    norm = layer_norm(config, "layer_norm_eps", 1e-12)
    rope = read_rope(config, shape.head_dim, shape.context, theta=1000.0)
    embed = Embed(types=config.count("type_vocab_size", 2, MAX_VOCAB))
    activation = Activation.SILU if own else config.activation("hidden_act", "silu")
    ffn = replace(post_norm.feed_forward(config, shape), activation=activation, gated=True, bias=False, out_bias=False)
    spec = post_norm.encoder(shape, norm, grouped(shape, rope), ffn, embed)
    gated = {f"encoder.{{i}}.1.{x}": f"layers.{{i}}.mlp.{x}_proj" for x in ("gate", "up", "down")}
    family = Family("nomic_bert", spec, {**layers(shape, "attn.Wqkv"), **gated}, RENAMES, UNUSED)
    heads = post_norm.heads(config, shape, activation, norm)
    return with_head(
        family, config, {kind: heads[kind] for kind in ("SequenceClassification", "TokenClassification", "MaskedLM")}
    )


def read_own(config: Config) -> None:
    """The model's own dialect: its names, and what it can be configured to beyond what checkpoints are."""
    config.alias(
        n_embd="hidden_size", n_head="num_attention_heads", n_inner="intermediate_size", n_layer="num_hidden_layers"
    )
    config.alias(
        n_positions="max_position_embeddings", layer_norm_epsilon="layer_norm_eps", rotary_emb_base="rope_theta"
    )
    config.only("activation_function", "swiglu")
    for key in ("causal", "mlp_fc1_bias", "mlp_fc2_bias", "parallel_block", "prenorm", "qkv_proj_bias", "use_rms_norm"):
        config.only(key, False)
    for key in ("rotary_emb_interleaved", "scale_attn_by_inverse_layer_idx"):
        config.only(key, False)
    config.only("rotary_emb_fraction", 1.0)
    config.only("rotary_scaling_factor")
    config.only("rotary_emb_scale_base")
    config.only("scale_attn_weights", True)
    config.ignore("dense_seq_output", "fused_bias_fc", "fused_dropout_add_ln", "max_trained_positions", "use_xentropy")
    config.ignore("pad_vocab_size_multiple", "parallel_block_tied_norm", "reorder_and_upcast_attn", "hidden_act")
    config.ignore(
        *(f"summary_{name}" for name in ("activation", "first_dropout", "proj_to_labels", "type", "use_proj"))
    )
