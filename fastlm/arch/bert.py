"""BERT and MiniLM: norms after each sum, learned positions, token types."""

from collections.abc import Mapping

from fastlm.arch import post_norm
from fastlm.arch.config import MAX_VOCAB, Config
from fastlm.arch.family import Family, Rule
from fastlm.arch.heads import with_head
from fastlm.arch.skeleton import Shape, grouped, layer_norm, read_shape
from fastlm.arch.spec import Embed

DEFAULT = Shape(vocab=30522, hidden=768, width=3072, layers=12, heads=12, context=512)
RENAMES = ((r"^bert\.", ""), *post_norm.RENAMES)
LAYERS: Mapping[str, Rule] = {
    "encoder.{i}.0.q": "encoder.layer.{i}.attention.self.query",
    "encoder.{i}.0.k": "encoder.layer.{i}.attention.self.key",
    "encoder.{i}.0.v": "encoder.layer.{i}.attention.self.value",
    "encoder.{i}.0.o": "encoder.layer.{i}.attention.output.dense",
    "encoder.{i}.0.residual_norm": "encoder.layer.{i}.attention.output.LayerNorm",
    "encoder.{i}.1.up": "encoder.layer.{i}.intermediate.dense",
    "encoder.{i}.1.down": "encoder.layer.{i}.output.dense",
    "encoder.{i}.1.residual_norm": "encoder.layer.{i}.output.LayerNorm",
}
WEIGHTS: Mapping[str, Rule] = {
    "embed.tokens": "embeddings.word_embeddings",
    "encoder.embed.positions": "embeddings.position_embeddings",
    "encoder.embed.types": "embeddings.token_type_embeddings",
    "encoder.embed.norm": "embeddings.LayerNorm",
    **LAYERS,
}


def read(config: Config) -> Family:
    post_norm.check(config)
    config.ignore("directionality", "pooler_fc_size", "pooler_num_attention_heads")
    config.ignore("pooler_num_fc_layers", "pooler_size_per_head", "pooler_type")
    shape = read_shape(config, DEFAULT)
    norm = layer_norm(config, "layer_norm_eps", 1e-12)
    ffn = post_norm.feed_forward(config, shape)
    types = config.count("type_vocab_size", 2, MAX_VOCAB)
    spec = post_norm.encoder(shape, norm, grouped(shape, bias=True), ffn, Embed(positions=shape.context, types=types))
    family = Family("bert", spec, WEIGHTS, RENAMES, post_norm.UNUSED)
    return with_head(family, config, post_norm.heads(config, shape, ffn.activation, norm))
