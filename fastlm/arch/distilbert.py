"""DistilBERT: BERT without token types (Sanh et al. 2019)."""

from functools import partial

from fastlm.arch import bert, post_norm
from fastlm.arch.config import Config
from fastlm.arch.family import Family, Rule
from fastlm.arch.heads import Heads, answers, labels, pooled_labels, with_head, words
from fastlm.arch.skeleton import Shape, grouped, read_shape
from fastlm.arch.spec import Activation, Embed, Norm, NormKind

DEFAULT = bert.DEFAULT
LAYER = "transformer.layer.{i}."
WEIGHTS: dict[str, Rule] = {
    "embed.tokens": "embeddings.word_embeddings",
    "encoder.embed.positions": "embeddings.position_embeddings",
    "encoder.embed.norm": "embeddings.LayerNorm",
    **{f"encoder.{{i}}.0.{x}": f"{LAYER}attention.{x}_lin" for x in "qkv"},
    "encoder.{i}.0.o": LAYER + "attention.out_lin",
    "encoder.{i}.0.residual_norm": LAYER + "sa_layer_norm",
    "encoder.{i}.1.up": LAYER + "ffn.lin1",
    "encoder.{i}.1.down": LAYER + "ffn.lin2",
    "encoder.{i}.1.residual_norm": LAYER + "output_layer_norm",
}
RENAMES = ((r"^distilbert\.", ""), *post_norm.RENAMES)


def read(config: Config) -> Family:
    config.alias(dim="hidden_size", hidden_dim="intermediate_size", n_layers="num_hidden_layers")
    config.alias(n_heads="num_attention_heads", activation="hidden_act")
    config.ignore("sinusoidal_pos_embds", "tie_weights_", "tie_word_embeddings")
    shape = read_shape(config, DEFAULT)
    norm = Norm(NormKind.LAYER, 1e-12, bias=True)
    ffn = post_norm.feed_forward(config, shape)
    spec = post_norm.encoder(shape, norm, grouped(shape, bias=True), ffn, Embed(positions=shape.context))
    family = Family("distilbert", spec, WEIGHTS, RENAMES, (r"embeddings\.position_ids",))
    return with_head(family, config, heads(config, shape, ffn.activation, norm))


def heads(config: Config, shape: Shape, activation: Activation, norm: Norm) -> Heads:
    modules = "vocab_transform", "vocab_layer_norm", "vocab_projector"
    first = partial(pooled_labels, config, shape.hidden, Activation.RELU, "pre_classifier", "classifier")
    return {
        "SequenceClassification": first,
        "TokenClassification": lambda: labels(config),
        "QuestionAnswering": answers,
        "MaskedLM": lambda: words(shape.hidden, activation, norm, *modules),
    }
