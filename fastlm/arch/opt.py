"""OPT: learned positions whose table starts with two unused rows; the 350m size is post-norm and projected."""

from fastlm.arch.config import MAX_WIDTH, Config
from fastlm.arch.family import Family, Rule, Take
from fastlm.arch.skeleton import ATTENTION, NO_MODEL_PREFIX, Shape, grouped, read_shape
from fastlm.arch.spec import Dense, Embed, FeedForward, Layer, Logits, ModelSpec, Norm, NormKind, Stack, Sublayer

DEFAULT = Shape(vocab=50272, hidden=768, width=3072, layers=12, heads=12, context=2048, tied=True)
RESERVED = 2  # rows of the position table before position 0


def read(config: Config) -> Family:
    config.alias(ffn_dim="intermediate_size")
    config.ignore("activation_dropout")
    shape = read_shape(config, DEFAULT)
    affine, bias = config.flag("layer_norm_elementwise_affine", True), config.flag("enable_bias", True)
    norm = Norm(NormKind.LAYER, 1e-5, weight=affine, bias=affine)
    first = config.flag("do_layer_norm_before", True)
    width = config.count_or_none("word_embed_proj_dim", None, MAX_WIDTH) or shape.hidden
    width = 0 if width == shape.hidden else width
    ffn = FeedForward(shape.width, config.activation("activation_function", "relu"), bias=bias, out_bias=bias)
    where = "pre_norm" if first else "residual_norm"
    mixers = (grouped(shape, bias=bias), ffn)
    layer = Layer(tuple(Sublayer(m, norm) if first else Sublayer(m, residual_norm=norm) for m in mixers))
    last = norm if first and not config.flag("_remove_final_layer_norm", False) else None
    config.ignore("_remove_final_layer_norm")
    weights: dict[str, Rule] = {
        **{slot: f"decoder.{module}" for slot, module in ATTENTION.items()},
        "embed.tokens": "decoder.embed_tokens",
        "decoder.embed.project": "decoder.project_in",
        "decoder.embed.positions": Take("decoder.embed_positions", start=RESERVED, of=shape.context + RESERVED),
        "decoder.{i}.0." + where: "decoder.layers.{i}.self_attn_layer_norm",
        "decoder.{i}.0.o": "decoder.layers.{i}.self_attn.out_proj",
        "decoder.{i}.1." + where: "decoder.layers.{i}.final_layer_norm",
        "decoder.{i}.1.up": "decoder.layers.{i}.fc1",
        "decoder.{i}.1.down": "decoder.layers.{i}.fc2",
        "decoder.norm": "decoder.final_layer_norm",
        "head.0": "decoder.project_out",
        "head": "lm_head",
    }
    stack = Stack((layer,) * shape.layers, last, embed=Embed(positions=shape.context))
    head = (Dense(width), Logits(shape.tied)) if width else (Logits(shape.tied),)
    spec = ModelSpec(shape.vocab, shape.hidden, shape.context, width, decoder=stack, head=head)
    return Family("opt", spec, weights, NO_MODEL_PREFIX)
