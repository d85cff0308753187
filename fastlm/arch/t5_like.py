"""T5 and its kin: encoder-decoder, or encoder alone, with relative position biases and unscaled products."""

from dataclasses import replace

from fastlm.arch.config import ACTIVATIONS, MAX_BUCKETS, MAX_LAYERS, Config
from fastlm.arch.family import Family, Rule, Take
from fastlm.arch.skeleton import Shape, grouped, pre_norm_layer, read_shape
from fastlm.arch.spec import FeedForward, Logits, ModelSpec, Norm, NormKind, RelativeBias, Source, Stack

IGNORED = (r"decoder\.block\.0\.layer\.1\.EncDecAttention\.relative_attention_bias\.weight",)


def read_t5(
    config: Config,
    name: str,
    default: Shape,
    *,
    feed_forward_proj: str = "relu",
    scales: bool = True,
    by_layer: bool = False,
) -> Family:
    """A family of T5's kind; scales: a tied head is scaled; by_layer: each has its own relative-position bias."""
    config.alias(d_model="hidden_size", d_ff="intermediate_size", num_layers="num_hidden_layers")
    config.alias(num_heads="num_attention_heads", d_kv="head_dim", n_positions="max_position_embeddings")
    config.ignore("is_encoder_decoder")
    shape = read_shape(config, default)
    norm = Norm(NormKind.RMS, config.number("layer_norm_epsilon", 1e-6, most=1.0))
    buckets = config.count("relative_attention_num_buckets", 32, MAX_BUCKETS, least=4)
    distance = config.count("relative_attention_max_distance", 128, MAX_BUCKETS)
    if buckets % 2 or distance <= buckets // 2:
        why = f"{buckets} buckets do not fit relative_attention_max_distance {distance}"
        raise config.bad("relative_attention_num_buckets", why)
    ffn = feed_forward(config, shape, feed_forward_proj)
    attend = replace(grouped(shape), scale=1.0, relative_bias=True)
    cross = replace(attend, causal=False, relative_bias=False, source=Source.ENCODER)
    n_decoder = config.count_or_none("num_decoder_layers", None, MAX_LAYERS) or shape.layers
    encoder = (pre_norm_layer(norm, replace(attend, causal=False), ffn),) * shape.layers
    decoder = (pre_norm_layer(norm, attend, cross, ffn),) * n_decoder
    # v1.0 ties the head and scales it, v1.1 does neither. transformers v5 writes the scaling as its own key and leaves
    # tying to the checkpoint: an lm_head that is there and differs from the embeddings is used.
    scaled = scales and config.flag("scale_decoder_outputs", shape.tied)
    relative = RelativeBias(shape.heads, buckets, distance, bidirectional=True, by_layer=by_layer)
    spec = ModelSpec(
        shape.vocab,
        shape.hidden,
        shape.context,
        encoder=Stack(encoder, norm, relative),
        decoder=Stack(decoder, norm, replace(relative, bidirectional=False)),
        head=(Logits(scaled, scale=shape.hidden**-0.5 if scaled else 1.0),),
    )
    rules = weights(ffn.gated, "{i}" if by_layer else "")
    if config.architecture.endswith("EncoderModel"):  # sentence-t5, gtr-t5
        spec = replace(spec, decoder=None, head=())
        return Family(name, spec, rules, ignored=(r"decoder\..*",))
    return Family(name, spec, rules, ignored=IGNORED, tie_when_missing=True)


def feed_forward(config: Config, shape: Shape, default: str) -> FeedForward:
    """From feed_forward_proj (an activation, or "gated-" and one) unless the keys derived from it say otherwise."""
    name = config.text("feed_forward_proj", default)
    plain = name.removeprefix("gated-")
    if plain not in ACTIVATIONS:
        raise config.unsupported("feed_forward_proj", name, "known: " + ", ".join(ACTIVATIONS))
    act = config.activation("dense_act_fn", "gelu_new" if name == "gated-gelu" else plain)
    return FeedForward(shape.width, act, gated=config.flag("is_gated_act", name != plain))


def weights(gated: bool, layer: str) -> dict[str, Rule]:
    """layer: {i}, if each layer has a relative-position bias; else that of the first is the stack's."""
    rules: dict[str, Rule] = {
        "embed.tokens": ("shared", "encoder.embed_tokens", "decoder.embed_tokens"),
        "head": "lm_head",
    }
    for stack, parts in (("encoder", ("SelfAttention",)), ("decoder", ("SelfAttention", "EncDecAttention"))):
        block = stack + ".block.{i}.layer."
        for j, part in enumerate(parts):
            rules |= {f"{stack}.{{i}}.{j}.{x}": f"{block}{j}.{part}.{x}" for x in "qkvo"}
        for j in range(len(parts) + 1):
            rules[f"{stack}.{{i}}.{j}.pre_norm"] = f"{block}{j}.layer_norm"
        dense = f"{block}{len(parts)}.DenseReluDense."
        names = {"gate": "wi_0", "up": "wi_1" if gated else "wi", "down": "wo"}
        rules |= {f"{stack}.{{i}}.{len(parts)}.{slot}": dense + name for slot, name in names.items()}
        rules[stack + ".norm"] = stack + ".final_layer_norm"
        table = f"{stack}.block.{layer or 0}.layer.0.SelfAttention.relative_attention_bias"
        rules[f"{stack}.{layer}.0.relative_bias" if layer else f"{stack}.relative_bias"] = Take(table, transposed=True)
    return rules
