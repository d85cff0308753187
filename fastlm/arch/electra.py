"""ELECTRA: BERT whose tokens may be narrower than its layers (Clark et al. 2020). Of its two models either loads."""

from functools import partial

from fastlm.arch import bert, post_norm
from fastlm.arch.config import MAX_VOCAB, MAX_WIDTH, Config
from fastlm.arch.family import Family, Rule
from fastlm.arch.heads import Heads, answers, labels, pooled_labels, with_head, words
from fastlm.arch.skeleton import Shape, layer_norm, read_shape
from fastlm.arch.spec import Activation, Norm

DEFAULT = Shape(vocab=30522, hidden=256, width=1024, layers=12, heads=4, context=512)
RENAMES = ((r"^electra\.", ""), *post_norm.RENAMES)
WEIGHTS: dict[str, Rule] = {**bert.WEIGHTS, "encoder.embed.project": "embeddings_project"}


def read(config: Config) -> Family:
    post_norm.check(config)
    config.ignore("summary_type", "summary_use_proj", "summary_activation")  # of multiple choice
    shape = read_shape(config, DEFAULT)
    width = config.count("embedding_size", 128, MAX_WIDTH)
    norm = layer_norm(config, "layer_norm_eps", 1e-12)
    types = config.count("type_vocab_size", 2, MAX_VOCAB)
    spec = post_norm.narrow_encoder(shape, norm, post_norm.feed_forward(config, shape), types, width)
    family = Family("electra", spec, WEIGHTS, RENAMES, post_norm.UNUSED)
    return with_head(family, config, heads(config, shape, width, norm))


def heads(config: Config, shape: Shape, width: int, norm: Norm) -> Heads:
    modules = "generator_predictions.dense", "generator_predictions.LayerNorm", "generator_lm_head"
    first = partial(pooled_labels, config, shape.hidden, Activation.GELU, "classifier.dense", "classifier.out_proj")
    return {
        "SequenceClassification": first,
        "TokenClassification": lambda: labels(config),
        "QuestionAnswering": answers,
        "MaskedLM": lambda: words(width, Activation.GELU, norm, *modules),
    }
