"""GTE and Snowflake Arctic Embed v2: post-norm layers with rotary positions and gated feed-forwards."""

from dataclasses import replace

from fastlm.arch import post_norm
from fastlm.arch.config import MAX_VOCAB, Config
from fastlm.arch.family import Family, Rule, Take
from fastlm.arch.heads import Heads, labels, pooled_labels, with_head, words
from fastlm.arch.jina_embeddings_v3 import COMMON, UNUSED, layers
from fastlm.arch.rope import read_rope
from fastlm.arch.skeleton import Shape, grouped, layer_norm, read_shape
from fastlm.arch.spec import Activation, Embed, Norm, Rope

DEFAULT = Shape(vocab=250048, hidden=768, width=3072, layers=12, heads=12, context=8192)
RENAMES = (
    (r"^(gte|new)\.", ""),
    *COMMON,
    (r"\.attention\.o_proj\.", ".self_attn.o_proj."),
    (r"\.attn_ln\.", ".post_attention_layernorm."),
    (r"\.mlp_ln\.", ".post_mlp_layernorm."),
    (r"^lm_head\.norm\.", "lm_head.layer_norm."),
)


def read(config: Config) -> Family:
    shape = read_shape(config, DEFAULT)
    rope = read_rope(config, shape.head_dim, shape.context, theta=160_000.0)
    return build("gte", config, shape, rope, Activation.GELU)


def build(name: str, config: Config, shape: Shape, rope: Rope, masked: Activation) -> Family:
    """The family under either of its names; masked: the activation of its masked-language head."""
    config.ignore("tie_word_embeddings")
    norm = layer_norm(config, "layer_norm_eps", 1e-12)
    embed = Embed(types=config.count("type_vocab_size", 1, MAX_VOCAB, least=0))
    ffn = replace(post_norm.feed_forward(config, shape), gated=True, bias=False)
    spec = post_norm.encoder(shape, norm, grouped(shape, rope, bias=True), ffn, embed)
    rules: dict[str, Rule] = {**layers(shape, "attention.qkv_proj"), "encoder.{i}.1.down": "layers.{i}.mlp.down_proj"}
    for n, part in enumerate(("up", "gate")):
        fused = Take("layers.{i}.mlp.up_gate_proj", n * shape.width, 2 * shape.width)
        rules[f"encoder.{{i}}.1.{part}"] = (f"layers.{{i}}.mlp.{part}_proj", fused)
    return with_head(Family(name, spec, rules, RENAMES, UNUSED), config, heads(config, shape, norm, masked))


def heads(config: Config, shape: Shape, norm: Norm, masked: Activation) -> Heads:
    modules = "lm_head.dense", "lm_head.layer_norm", "lm_head.decoder"
    return {
        "SequenceClassification": lambda: pooled_labels(
            config, shape.hidden, Activation.TANH, "pooler.dense", "classifier"
        ),
        "TokenClassification": lambda: labels(config),
        "MaskedLM": lambda: words(shape.hidden, masked, norm, *modules),
    }
