"""BERT and MiniLM as encoders: token ids to hidden states. A pooler, which these do not need, is left aside."""

from dataclasses import replace

from fastlm.arch.config import MAX_VOCAB, Config
from fastlm.arch.family import Family, Rule
from fastlm.arch.skeleton import Shape, grouped, layer_norm, read_shape
from fastlm.arch.spec import Embed, FeedForward, Layer, ModelSpec, Stack, Sublayer

DEFAULT = Shape(vocab=30522, hidden=768, width=3072, layers=12, heads=12, context=512)
RENAMES = ((r"^bert\.", ""), (r"LayerNorm\.gamma$", "LayerNorm.weight"), (r"LayerNorm\.beta$", "LayerNorm.bias"))
UNUSED = (r"pooler\..*", r"embeddings\.position_ids")
WEIGHTS: dict[str, Rule] = {
    "embed.tokens": "embeddings.word_embeddings",
    "encoder.embed.positions": "embeddings.position_embeddings",
    "encoder.embed.types": "embeddings.token_type_embeddings",
    "encoder.embed.norm": "embeddings.LayerNorm",
    "encoder.{i}.0.q": "encoder.layer.{i}.attention.self.query",
    "encoder.{i}.0.k": "encoder.layer.{i}.attention.self.key",
    "encoder.{i}.0.v": "encoder.layer.{i}.attention.self.value",
    "encoder.{i}.0.o": "encoder.layer.{i}.attention.output.dense",
    "encoder.{i}.0.residual_norm": "encoder.layer.{i}.attention.output.LayerNorm",
    "encoder.{i}.1.up": "encoder.layer.{i}.intermediate.dense",
    "encoder.{i}.1.down": "encoder.layer.{i}.output.dense",
    "encoder.{i}.1.residual_norm": "encoder.layer.{i}.output.LayerNorm",
}


def read(config: Config) -> Family:
    config.only("position_embedding_type", "absolute")
    config.only("is_decoder", False)
    config.ignore("directionality", "tie_word_embeddings", "pooler_fc_size", "pooler_num_attention_heads")
    config.ignore("pooler_num_fc_layers", "pooler_size_per_head", "pooler_type")
    shape = read_shape(config, DEFAULT)
    norm = layer_norm(config, "layer_norm_eps", 1e-12)
    attention = replace(grouped(shape, bias=True), causal=False)
    ffn = FeedForward(shape.width, config.activation("hidden_act", "gelu"), bias=True, out_bias=True)
    layer = Layer((Sublayer(attention, residual_norm=norm), Sublayer(ffn, residual_norm=norm)))
    types = config.count("type_vocab_size", 2, MAX_VOCAB)
    embed = Embed(positions=shape.context, types=types, norm=norm)
    spec = ModelSpec(shape.vocab, shape.hidden, shape.context, encoder=Stack((layer,) * shape.layers, embed=embed))
    return Family("bert", spec, WEIGHTS, RENAMES, UNUSED)
