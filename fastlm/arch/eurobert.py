"""EuroBERT: Llama whose tokens see each other (Boizard et al. 2025)."""

from dataclasses import replace

from fastlm.arch.config import Config
from fastlm.arch.family import Family
from fastlm.arch.head_tasks import CLASSIFY, FILL
from fastlm.arch.heads import Head, Heads, labels, with_head
from fastlm.arch.rope import read_rope
from fastlm.arch.skeleton import (
    LLAMA,
    NO_MODEL_PREFIX,
    ROTARY_BUFFERS,
    Shape,
    gated,
    grouped,
    of_encoder,
    pre_norm_layer,
    read_shape,
    rms_norm,
)
from fastlm.arch.spec import Activate, Activation, Dense, Logits, ModelSpec, Pool, Stack

DEFAULT = Shape(vocab=128256, hidden=768, width=3072, layers=12, heads=12, context=8192)
WEIGHTS = of_encoder(LLAMA)
POOLS = {"late": Pool.LATE, "bos": Pool.FIRST, "mean": Pool.MEAN}


def read(config: Config) -> Family:
    config.ignore("mask_token_id")
    shape = read_shape(config, DEFAULT)
    norm = rms_norm(config, 1e-5)
    rope = read_rope(config, shape.head_dim, shape.context)
    attention = replace(grouped(shape, rope, bias=config.flag("attention_bias", False)), causal=False)
    bias = config.flag("mlp_bias", False)
    layer = pre_norm_layer(norm, attention, gated(config, shape, bias=bias))
    spec = ModelSpec(shape.vocab, shape.hidden, shape.context, encoder=Stack((layer,) * shape.layers, norm))
    family = Family("eurobert", spec, WEIGHTS, NO_MODEL_PREFIX, ROTARY_BUFFERS)
    return with_head(family, config, heads(config, shape, bias))


def heads(config: Config, shape: Shape, bias: bool) -> Heads:
    def sequence() -> Head:
        pooling = config.text("classifier_pooling", "late")
        if pooling not in POOLS:
            raise config.unsupported("classifier_pooling", pooling, "known: " + ", ".join(POOLS))
        logits = Logits(tied=False, outputs=config.n_labels(), bias=True)
        steps = (Dense(shape.hidden, bias=True), Activate(Activation.GELU), logits)
        return Head(CLASSIFY, steps, {"head.0": "dense", "head": "classifier"}, POOLS[pooling])

    config.ignore("classifier_pooling")
    return {
        "SequenceClassification": sequence,
        "TokenClassification": lambda: labels(config),
        "MaskedLM": lambda: Head(FILL, (Logits(shape.tied, bias=bias),), {"head": "lm_head"}),
    }
