"""MPNet: BERT with T5's relative positions beside its own, and no token types (Song et al. 2020)."""

from dataclasses import replace

from fastlm.arch import bert, post_norm, roberta
from fastlm.arch.config import Config
from fastlm.arch.family import Family, Rule, Take
from fastlm.arch.heads import with_head
from fastlm.arch.skeleton import Shape, after_padding, grouped, layer_norm, read_shape
from fastlm.arch.spec import Embed, RelativeBias

DEFAULT = Shape(vocab=30527, hidden=768, width=3072, layers=12, heads=12, context=512)
BUCKETS, MAX_DISTANCE = 32, 128  # which transformers' code has as numbers
PADDING = 1  # the token whose position no other has; likewise
RENAMES = ((r"^mpnet\.", ""), *post_norm.RENAMES)
ATTENTION = "encoder.layer.{i}.attention."
WEIGHTS: dict[str, Rule] = {
    **{slot: rule for slot, rule in bert.WEIGHTS.items() if slot != "encoder.embed.types"},
    **{f"encoder.{{i}}.0.{x}": f"{ATTENTION}attn.{x}" for x in "qkvo"},
    "encoder.{i}.0.residual_norm": ATTENTION + "LayerNorm",
    "encoder.relative_bias": Take("encoder.relative_attention_bias", transposed=True),
}


def read(config: Config) -> Family:
    config.ignore("tie_word_embeddings")
    config.only("relative_attention_num_buckets", BUCKETS)
    shape = after_padding(config, read_shape(config, DEFAULT), PADDING)
    norm = layer_norm(config, "layer_norm_eps", 1e-12)
    attention = replace(grouped(shape, bias=True), relative_bias=True)
    ffn = post_norm.feed_forward(config, shape)
    spec = post_norm.encoder(shape, norm, attention, ffn, Embed(positions=shape.context))
    relative = RelativeBias(shape.heads, BUCKETS, MAX_DISTANCE, bidirectional=True)
    spec = replace(spec, encoder=replace(spec.main, relative=relative))
    positions = Take("embeddings.position_embeddings", start=PADDING + 1, of=PADDING + 1 + shape.context)
    weights = {**WEIGHTS, "encoder.embed.positions": positions}
    family = Family("mpnet", spec, weights, RENAMES, post_norm.UNUSED)
    return with_head(family, config, roberta.heads(config, shape, norm))
