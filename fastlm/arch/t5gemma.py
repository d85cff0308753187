"""T5Gemma: an encoder and a decoder of Gemma 2's layers, with a token table and a config for each."""

from dataclasses import replace

from fastlm.arch.config import Config
from fastlm.arch.family import Family, Rule
from fastlm.arch.gemma import unit_offset
from fastlm.arch.gemma2 import DEFAULT, four_norm_layer, gemma_attention
from fastlm.arch.rope import read_rope
from fastlm.arch.skeleton import (
    NO_MODEL_PREFIX,
    ROTARY_BUFFERS,
    Shape,
    read_shape,
    read_window,
    rms_norm,
    sliding_layers,
)
from fastlm.arch.spec import Embed, FeedForward, Layer, Logits, ModelSpec, Source, Stack

BLOCKS = {"encoder": ("self_attn", "feedforward"), "decoder": ("self_attn", "cross_attn", "feedforward")}


def read(config: Config) -> Family:
    config.ignore("is_encoder_decoder")
    encoder = config.section("encoder")
    if encoder is None:
        raise config.bad("encoder", "expected the config of the encoder")
    decoder = config.section("decoder") or encoder
    (source, first), (shape, last) = read_stack(encoder, "encoder"), read_stack(decoder, "decoder")
    if source.hidden != shape.hidden:
        raise encoder.unsupported("hidden_size", source.hidden, f"only the decoder's, {shape.hidden}")
    config.only("vocab_size", shape.vocab)
    cap = decoder.number_or_none("final_logit_softcapping", 30.0) or 0.0
    spec = ModelSpec(
        shape.vocab,
        shape.hidden,
        min(source.context, shape.context),
        encoder=replace(first, embed=replace(first.embed, tokens=source.vocab)),
        decoder=last,
        head=(Logits(config.flag("tie_word_embeddings", True), softcap=cap),),
    )
    return Family("t5gemma", spec, weights(), NO_MODEL_PREFIX, ROTARY_BUFFERS)


def read_stack(config: Config, stack: str) -> tuple[Shape, Stack]:
    """The config of one stack."""
    config.ignore("cross_attention_hidden_size", "tie_word_embeddings", "final_logit_softcapping")
    shape, norm = read_shape(config, DEFAULT), rms_norm(config, 1e-6)
    causal, window = stack == "decoder", read_window(config, 4096)
    base = replace(gemma_attention(config, shape, 50.0), causal=causal)
    attention = replace(base, rope=read_rope(config, shape.head_dim, shape.context))
    cross = (replace(base, causal=False, source=Source.ENCODER),) if causal else ()
    ffn = FeedForward(shape.width, config.activation("hidden_activation", "gelu_pytorch_tanh"), gated=True)
    limit = window if causal or not window else window + 1  # in the encoder, tokens on both sides up to that far

    def layer(slides: bool) -> Layer:
        return four_norm_layer(norm, replace(attention, window=limit if slides else 0), *cross, ffn)

    layers = tuple(layer(slides) for slides in sliding_layers(config, shape, lambda i: i % 2 == 0))
    return shape, Stack(layers, norm, embed=Embed(shape.hidden**0.5))


def weights() -> dict[str, Rule]:
    rules: dict[str, Rule] = {"embed.tokens": "decoder.embed_tokens", "head": "lm_head.out_proj"}
    rules["encoder.embed.tokens"] = "encoder.embed_tokens"
    for stack, blocks in BLOCKS.items():
        layer, last = stack + ".layers.{i}.", len(blocks) - 1
        for j, block in enumerate(blocks):
            slot = f"{stack}.{{i}}.{j}."
            rules |= {slot + x: f"{layer}{block}.{x}_proj" for x in ("qkvo" if j < last else ())}
            rules[slot + "pre_norm"] = f"{layer}pre_{block}_layernorm"
            rules[slot + "branch_norm"] = f"{layer}post_{block}_layernorm"
        rules |= {f"{stack}.{{i}}.{last}.{x}": f"{layer}mlp.{x}_proj" for x in ("gate", "up", "down")}
        rules[stack + ".norm"] = stack + ".norm"
    return unit_offset(rules, *(slot for slot in rules if slot.endswith("norm")))
