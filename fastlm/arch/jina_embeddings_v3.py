"""Jina Embeddings v3 (without its adapters): XLM-RoBERTa with rotary positions."""

from collections.abc import Mapping

from fastlm.arch import post_norm, roberta
from fastlm.arch.config import MAX_VOCAB, Config
from fastlm.arch.family import Family, Rule, Take
from fastlm.arch.heads import with_head
from fastlm.arch.rope import read_rope
from fastlm.arch.skeleton import ROTARY_BUFFERS, Shape, grouped, layer_norm, read_shape
from fastlm.arch.spec import Embed

DEFAULT = Shape(vocab=250002, hidden=1024, width=4096, layers=24, heads=16, context=8194)
COMMON = (
    (r"^emb_ln\.", "embeddings.LayerNorm."),
    (r"^encoder\.layers?\.", "layers."),
    (r"\.norm1\.", ".post_attention_layernorm."),
    (r"\.norm2\.", ".post_mlp_layernorm."),
)
RENAMES = ((r"^roberta\.", ""), *COMMON, (r"\.mixer\.out_proj\.", ".self_attn.o_proj."))
UNUSED = (*post_norm.UNUSED, *ROTARY_BUFFERS)


def read(config: Config) -> Family:
    config.ignore("tie_word_embeddings")
    shape = read_shape(config, DEFAULT)
    norm = layer_norm(config, "layer_norm_eps", 1e-5)
    rope = read_rope(config, shape.head_dim, shape.context, theta=20000.0)
    embed = Embed(types=config.count("type_vocab_size", 1, MAX_VOCAB))
    ffn = post_norm.feed_forward(config, shape)
    spec = post_norm.encoder(shape, norm, grouped(shape, rope, bias=True), ffn, embed)
    rules = {**layers(shape, "mixer.Wqkv"), "encoder.{i}.1.up": "layers.{i}.mlp.fc1"}
    rules["encoder.{i}.1.down"] = "layers.{i}.mlp.fc2"
    family = Family("jina_embeddings_v3", spec, rules, RENAMES, UNUSED)
    return with_head(family, config, roberta.heads(config, shape, norm))


def layers(shape: Shape, fused: str) -> Mapping[str, Rule]:
    """Embedding and attention of BERT's kin with rotary positions; fused: the module of q, k and v, if they are one."""
    wide = shape.heads * shape.head_dim
    rules: dict[str, Rule] = {
        "embed.tokens": "embeddings.word_embeddings",
        "encoder.embed.types": "embeddings.token_type_embeddings",
        "encoder.embed.norm": "embeddings.LayerNorm",
        "encoder.{i}.0.o": "layers.{i}.self_attn.o_proj",
        "encoder.{i}.0.residual_norm": "layers.{i}.post_attention_layernorm",
        "encoder.{i}.1.residual_norm": "layers.{i}.post_mlp_layernorm",
    }
    for n, x in enumerate("qkv"):
        one = Take("layers.{i}." + fused, n * wide, 3 * wide)
        rules[f"encoder.{{i}}.0.{x}"] = (f"layers.{{i}}.self_attn.{x}_proj", one)
    return rules
