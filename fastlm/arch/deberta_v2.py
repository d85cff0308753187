"""DeBERTa v2 and v3: BERT whose scores have products with vectors of relative positions, too (He et al. 2021)."""

from dataclasses import replace
from functools import partial

from fastlm.arch import bert, post_norm
from fastlm.arch.config import MAX_BUCKETS, MAX_VOCAB, Config
from fastlm.arch.family import Family, Projection, Rule
from fastlm.arch.heads import Heads, answers, labels, pooled_labels, with_head, words
from fastlm.arch.skeleton import Shape, grouped, layer_norm, read_shape
from fastlm.arch.spec import Activation, Embed, Norm, RelativeVectors

DEFAULT = Shape(vocab=128100, hidden=1536, width=6144, layers=24, heads=24, context=512)
RENAMES = ((r"^deberta\.", ""), *post_norm.RENAMES)
OF_TRAINING = (r"(lm|mask)_predictions\..*", r"embeddings\.position_embeddings\.weight")
UNUSED = (*post_norm.UNUSED, *OF_TRAINING, r"encoder\.(rel_embeddings|LayerNorm)\..*")
OWN = "encoder.layer.{i}.attention.self."


def read(config: Config) -> Family:
    post_norm.check(config)
    config.only("conv_kernel_size", 0)  # of v2-xlarge
    config.ignore("conv_act", "conv_groups", "legacy", "pooler_hidden_act")
    shape = read_shape(config, DEFAULT)
    config.only("embedding_size", shape.hidden)
    config.only("pooler_hidden_size", shape.hidden)
    config.only("attention_head_size", shape.head_dim)
    norm = layer_norm(config, "layer_norm_eps", 1e-7)
    kinds = config.words("pos_att_type", "c2p", "p2c")
    scale = (shape.head_dim * (1 + len(kinds))) ** -0.5
    attention = replace(grouped(shape, bias=True), scale=scale, vectors=read_vectors(config, shape, kinds))
    positions = shape.context if config.flag("position_biased_input", True) else 0
    embed = Embed(positions=positions, types=config.count("type_vocab_size", 0, MAX_VOCAB, least=0))
    ffn = post_norm.feed_forward(config, shape)
    spec = post_norm.encoder(shape, norm, attention, ffn, embed)
    family = Family("deberta-v2", spec, {**bert.WEIGHTS, **weights(config, norm)}, RENAMES, UNUSED)
    return with_head(family, config, heads(config, shape, ffn.activation, norm))


def read_vectors(config: Config, shape: Shape, kinds: set[str]) -> RelativeVectors | None:
    """position_buckets on each side, the farther ones logarithmic; without them one for each distance."""
    farthest = config.count("max_relative_positions", -1, MAX_BUCKETS // 2, least=-1)
    buckets = config.count("position_buckets", -1, MAX_BUCKETS // 2, least=-1)
    if not config.flag("relative_attention", False) or not kinds:
        return None
    key = "max_relative_positions" if farthest > 0 else "max_position_embeddings"
    farthest = farthest if farthest > 0 else min(shape.context, MAX_BUCKETS // 2)
    if buckets < 1:
        return RelativeVectors(farthest, 0, "c2p" in kinds, "p2c" in kinds)
    if buckets % 2 or farthest < buckets // 2 + 2:
        raise config.bad("position_buckets", f"{buckets} buckets do not fit {key} ({farthest})")
    return RelativeVectors(buckets, farthest, "c2p" in kinds, "p2c" in kinds)


def weights(config: Config, norm: Norm) -> dict[str, Rule]:
    shared = config.flag("share_att_key", False)
    normed = "layer_norm" in config.words("norm_rel_ebd", "layer_norm", "none")
    table = Projection("encoder.rel_embeddings", "", "encoder.LayerNorm" if normed else "", norm.eps)
    found: dict[str, Rule] = {"encoder.{i}.0.v": OWN + "value_proj"}
    for x, name in (("q", "query_proj"), ("k", "key_proj")):
        found[f"encoder.{{i}}.0.{x}"] = OWN + name
        found[f"encoder.{{i}}.0.relative_{x}"] = replace(table, module=OWN + ("" if shared else "pos_") + name)
    return found


def heads(config: Config, shape: Shape, activation: Activation, norm: Norm) -> Heads:
    head = "lm_predictions.lm_head"
    masked = post_norm.heads(config, shape, activation, norm)["MaskedLM"]
    if not config.flag("legacy", True):
        masked = partial(words, shape.hidden, activation, norm, head + ".dense", head + ".LayerNorm", head)
    return {
        "SequenceClassification": lambda: pooled_labels(
            config, shape.hidden, config.activation("pooler_hidden_act", "gelu"), "pooler.dense", "classifier"
        ),
        "TokenClassification": lambda: labels(config),
        "QuestionAnswering": answers,
        "MaskedLM": masked,
    }
