"""What BERT and its kin share: encoders of post-norm layers, and the heads of BERT's classes."""

from dataclasses import replace
from functools import partial

from fastlm.arch.config import Config
from fastlm.arch.heads import Heads, answers, labels, pooled_labels, words
from fastlm.arch.skeleton import Shape, grouped
from fastlm.arch.spec import Activation, Attention, Embed, FeedForward, Layer, ModelSpec, Norm, Stack, Sublayer

RENAMES = ((r"LayerNorm\.gamma$", "LayerNorm.weight"), (r"LayerNorm\.beta$", "LayerNorm.bias"))
UNUSED = (r"pooler\..*", r"embeddings\.position_ids")
NEXT_SENTENCE = r"cls\.seq_relationship\..*"


def check(config: Config) -> None:
    """What all of BERT's kin can be configured to, and is not read here."""
    config.only("position_embedding_type", "absolute")
    config.only("is_decoder", False)
    config.ignore("tie_word_embeddings")


def feed_forward(config: Config, shape: Shape) -> FeedForward:
    return FeedForward(shape.width, config.activation("hidden_act", "gelu"), bias=True, out_bias=True)


def encoder(shape: Shape, norm: Norm, attention: Attention, ffn: FeedForward, embed: Embed) -> ModelSpec:
    """An encoder of post-norm layers, with the same norm behind its embedding."""
    attention = replace(attention, causal=False)
    layer = Layer((Sublayer(attention, residual_norm=norm), Sublayer(ffn, residual_norm=norm)))
    stack = Stack((layer,) * shape.layers, embed=replace(embed, norm=norm))
    return ModelSpec(shape.vocab, shape.hidden, shape.context, encoder=stack)


def narrow_encoder(shape: Shape, norm: Norm, ffn: FeedForward, types: int, width: int) -> ModelSpec:
    """One whose embedding is `width` wide, and projected behind its norm."""
    narrow = width != shape.hidden
    embed = Embed(positions=shape.context, types=types, narrow=narrow)
    return replace(encoder(shape, norm, grouped(shape, bias=True), ffn, embed), width=width if narrow else 0)


def heads(config: Config, shape: Shape, activation: Activation, norm: Norm) -> Heads:
    dense, normed, table = (f"cls.predictions.{name}" for name in ("transform.dense", "transform.LayerNorm", "decoder"))
    masked = partial(words, shape.hidden, activation, norm, dense, normed, table, "cls.predictions")
    return {
        "SequenceClassification": lambda: pooled_labels(
            config, shape.hidden, Activation.TANH, "pooler.dense", "classifier"
        ),
        "TokenClassification": lambda: labels(config),
        "QuestionAnswering": answers,
        "MaskedLM": masked,
        "PreTraining": lambda: replace(masked(), ignored=(NEXT_SENTENCE,)),
    }
