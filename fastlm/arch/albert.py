"""ALBERT: one layer's weights for all layers, and tokens narrower than they are (Lan et al. 2019)."""

from dataclasses import replace
from functools import partial

from fastlm.arch import bert, post_norm
from fastlm.arch.config import MAX_VOCAB, MAX_WIDTH, Config
from fastlm.arch.family import Family, Rule
from fastlm.arch.heads import Heads, answers, labels, pooled_labels, with_head, words
from fastlm.arch.skeleton import Shape, layer_norm, read_shape
from fastlm.arch.spec import Activation, Layer, Norm

DEFAULT = Shape(vocab=30000, hidden=4096, width=16384, layers=12, heads=64, context=512)
LAYER = "encoder.albert_layer_groups.0.albert_layers.0."
RENAMES = ((r"^albert\.", ""), *post_norm.RENAMES)
WEIGHTS: dict[str, Rule] = {
    **{slot: rule for slot, rule in bert.WEIGHTS.items() if ".embed." in slot or slot == "embed.tokens"},
    "encoder.embed.project": "encoder.embedding_hidden_mapping_in",
    "encoder.{i}.0.q": LAYER + "attention.query",
    "encoder.{i}.0.k": LAYER + "attention.key",
    "encoder.{i}.0.v": LAYER + "attention.value",
    "encoder.{i}.0.o": LAYER + "attention.dense",
    "encoder.{i}.0.residual_norm": LAYER + "attention.LayerNorm",
    "encoder.{i}.1.up": LAYER + "ffn",
    "encoder.{i}.1.down": LAYER + "ffn_output",
    "encoder.{i}.1.residual_norm": LAYER + "full_layer_layer_norm",
}
ORDER = r"sop_classifier\..*"  # of two sentences: no task here


def read(config: Config) -> Family:
    post_norm.check(config)
    config.only("num_hidden_groups", 1)
    config.only("inner_group_num", 1)
    config.ignore("net_structure_type", "gap_size", "num_memory_blocks", "down_scale_factor")
    shape = read_shape(config, DEFAULT)
    width = config.count("embedding_size", 128, MAX_WIDTH)
    if width == shape.hidden:
        raise config.unsupported("embedding_size", width, f"only others than hidden_size, {shape.hidden}")
    norm = layer_norm(config, "layer_norm_eps", 1e-12)
    ffn = replace(post_norm.feed_forward(config, shape), activation=config.activation("hidden_act", "gelu_new"))
    spec = post_norm.narrow_encoder(shape, norm, ffn, config.count("type_vocab_size", 2, MAX_VOCAB), width)
    layers = (spec.main.layers[0], *[Layer(repeats=1)] * (shape.layers - 1))
    spec = replace(spec, encoder=replace(spec.main, layers=layers))
    family = Family("albert", spec, WEIGHTS, RENAMES, post_norm.UNUSED)
    return with_head(family, config, heads(config, shape, width, ffn.activation, norm))


def heads(config: Config, shape: Shape, width: int, activation: Activation, norm: Norm) -> Heads:
    modules = "predictions.dense", "predictions.LayerNorm", "predictions.decoder", "predictions"
    masked = partial(words, width, activation, norm, *modules)
    return {
        "SequenceClassification": partial(pooled_labels, config, shape.hidden, Activation.TANH, "pooler", "classifier"),
        "TokenClassification": lambda: labels(config),
        "QuestionAnswering": answers,
        "MaskedLM": masked,
        "PreTraining": lambda: replace(masked(), ignored=(ORDER,)),
    }
