"""BART and its kin: encoder-decoders of plain layers, which differ in where norms stand and in what positions are."""

from __future__ import annotations

from dataclasses import dataclass, replace

from fastlm.arch.config import MAX_CONTEXT, MAX_HEADS, MAX_LAYERS, MAX_VOCAB, MAX_WIDTH, Config
from fastlm.arch.family import Family, Rule, Sinusoids, Take
from fastlm.arch.head_tasks import CLASSIFY
from fastlm.arch.heads import Head, with_head
from fastlm.arch.skeleton import NO_MODEL_PREFIX, Shape, grouped
from fastlm.arch.spec import (
    Activate,
    Activation,
    Dense,
    Embed,
    FeedForward,
    Layer,
    Logits,
    Mixer,
    ModelSpec,
    Norm,
    NormKind,
    Pool,
    Source,
    Stack,
    Sublayer,
)

NORM = Norm(NormKind.LAYER, 1e-5, bias=True)
MIXERS = {"encoder": ("self_attn",), "decoder": ("self_attn", "encoder_attn")}
LABELS = 3  # of the classes where the file does not say
# What the programs of the first checkpoints were told, and transformers never reads.
UNREAD = (
    *("add_bias_logits", "add_final_layer_norm", "do_blenderbot_90_layernorm", "extra_layer_norm", "layernorm_variant"),
    *("extra_pos_embeddings", "normalize_before", "normalize_embedding", "static_position_embeddings", "save_step"),
    *("force_bos_token_to_be_generated", "replacing_rate", "student_decoder_layers", "student_encoder_layers"),
    *(
        "encoder_layerdrop",
        "decoder_layerdrop",
        "is_encoder_decoder",
        "eos_token_ids",
        "variant",
        "forced_eos_token_id",
    ),
)
RENAMES = (*NO_MODEL_PREFIX, (r"^final_logits_bias$", "final_logits.bias"))
IGNORED = (r"(encoder|decoder)\.version", r"(encoder|decoder)\.embed_positions\.weights")


@dataclass(frozen=True, slots=True, kw_only=True)
class Form:
    """How a family computes.

    Attributes
    ----------
    first
        Norms stand before blocks, and one behind each stack; else behind each sum.
    positions
        Computed, where the checkpoint has none; or learned, behind so many rows of the table that are not used.
    normed
        The embedding has a norm.
    activation, scaled
        What is meant where config.json does not say.
    biased
        Logits have a bias, if the checkpoint has one.
    """

    first: bool
    positions: Sinusoids | int
    normed: bool = False
    activation: str = "gelu"
    scaled: bool = False
    biased: bool = True


def read_stack(config: Config, stack: str, default: Shape) -> Shape:
    """The dimensions of one stack."""
    hidden = config.count("hidden_size", default.hidden, MAX_WIDTH)
    heads = config.count(f"{stack}_attention_heads", default.heads, MAX_HEADS)
    if hidden % heads:
        raise config.bad(f"{stack}_attention_heads", f"{heads} does not divide {config.name('hidden_size')} ({hidden})")
    return replace(
        default,
        vocab=config.count("vocab_size", default.vocab, MAX_VOCAB),
        hidden=hidden,
        layers=config.count(f"{stack}_layers", default.layers, MAX_LAYERS),
        heads=heads,
        kv_heads=heads,
        head_dim=hidden // heads,
        context=config.count("max_position_embeddings", default.context, MAX_CONTEXT),
        width=config.count(f"{stack}_ffn_dim", default.width, MAX_WIDTH),
    )


def read_family(config: Config, name: str, default: Shape, form: Form, decoder_layers: int = 0) -> Family:
    """A family of this form; decoder_layers: by default, if they are not as many as the encoder's."""
    config.alias(d_model="hidden_size", encoder_layers="num_hidden_layers")
    config.ignore(*UNREAD)
    encoder = read_stack(config, "encoder", default)
    decoder = read_stack(config, "decoder", replace(default, layers=decoder_layers or default.layers))
    if isinstance(form.positions, Sinusoids) and encoder.hidden % 2:
        raise config.bad("hidden_size", f"{encoder.hidden} is odd, and positions are sines and cosines")
    tied = config.flag("tie_word_embeddings", True)
    scale = encoder.hidden**0.5 if config.flag("scale_embedding", form.scaled) else 1.0
    embed = Embed(scale, encoder.context, norm=NORM if form.normed else None)
    activation = config.activation("activation_function", form.activation)
    spec = ModelSpec(
        encoder.vocab,
        encoder.hidden,
        encoder.context,
        encoder=_stack(form, encoder, activation, embed, cross=False),
        decoder=_stack(form, decoder, activation, embed, cross=True),
        head=(Logits(tied, bias=form.biased),),
    )
    family = Family(name, spec, weights(form, encoder), RENAMES, IGNORED, unbiased_when_missing=True)
    family = family if tied else with_own_tables(family)
    return with_heads(family, config)


def _stack(form: Form, shape: Shape, activation: Activation, embed: Embed, cross: bool) -> Stack:
    attention = replace(grouped(shape, bias=True), causal=cross)
    source = (replace(attention, causal=False, source=Source.ENCODER),) if cross else ()
    mixers: tuple[Mixer, ...] = (
        attention,
        *source,
        FeedForward(shape.width, activation, bias=True, out_bias=True),
    )
    blocks = (Sublayer(mixer, NORM) if form.first else Sublayer(mixer, residual_norm=NORM) for mixer in mixers)
    return Stack((Layer(tuple(blocks)),) * shape.layers, NORM if form.first else None, embed=embed)


def with_own_tables(family: Family, vocab: int = 0) -> Family:
    """The family with a token table for each stack; vocab: rows of the encoder's, if they are not as many."""
    spec = family.spec
    assert spec.encoder is not None
    own = replace(spec.encoder, embed=replace(spec.encoder.embed, tokens=vocab or spec.vocab))
    tables: dict[str, Rule] = {"embed.tokens": "decoder.embed_tokens", "encoder.embed.tokens": "encoder.embed_tokens"}
    ignored = (*family.ignored, r"shared\.weight")
    return replace(family, spec=replace(spec, encoder=own), weights={**family.weights, **tables}, ignored=ignored)


def weights(form: Form, shape: Shape) -> dict[str, Rule]:
    rules: dict[str, Rule] = {
        "embed.tokens": ("shared", "encoder.embed_tokens", "decoder.embed_tokens"),
        "head": ("lm_head", Take("final_logits", flat=True)),
    }
    where = "pre_norm" if form.first else "residual_norm"
    for stack, attentions in MIXERS.items():
        layer = stack + ".layers.{i}."
        for j, part in enumerate(attentions):
            rules |= {f"{stack}.{{i}}.{j}.{x}": f"{layer}{part}.{x}_proj" for x in "qkv"}
            rules[f"{stack}.{{i}}.{j}.o"] = f"{layer}{part}.out_proj"
            rules[f"{stack}.{{i}}.{j}.{where}"] = f"{layer}{part}_layer_norm"
        ffn = f"{stack}.{{i}}.{len(attentions)}."
        rules |= {ffn + "up": layer + "fc1", ffn + "down": layer + "fc2", ffn + where: layer + "final_layer_norm"}
        rules |= {stack + ".norm": stack + ".layer_norm", stack + ".embed.norm": stack + ".layernorm_embedding"}
        table = stack + ".embed_positions"
        if isinstance(form.positions, Sinusoids):
            rules[stack + ".embed.positions"] = (table, form.positions)
        else:
            unused = form.positions
            rules[stack + ".embed.positions"] = Take(table, start=unused, of=shape.context + unused)
    return rules


def with_heads(family: Family, config: Config) -> Family:
    """The family with the head of the checkpoint's class: words, or labels by the decoder's last token."""
    name = config.architecture
    if not name.endswith(("ForSequenceClassification", "ForQuestionAnswering", "ForCausalLM")):
        return family
    return with_head(family, config, {"SequenceClassification": lambda: _labels(config, family.spec.hidden)})


def _labels(config: Config, width: int) -> Head:
    steps = (
        Dense(width, bias=True),
        Activate(Activation.TANH),
        Logits(tied=False, outputs=config.n_labels(LABELS), bias=True),
    )
    rules = {"head.0": "classification_head.dense", "head": "classification_head.out_proj"}
    return Head(CLASSIFY, steps, rules, Pool.LAST)
