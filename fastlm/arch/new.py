"""GTE v1.5 and gte-multilingual as Alibaba's own code has them: GTE, whose longer context is a stretched rope."""

from fastlm.arch import gte
from fastlm.arch.config import Config
from fastlm.arch.family import Family
from fastlm.arch.rope import read_rope
from fastlm.arch.skeleton import Shape, read_shape

DEFAULT = Shape(vocab=30528, hidden=768, width=3072, layers=12, heads=12, context=2048)


def read(config: Config) -> Family:
    config.only("layer_norm_type", "layer_norm")
    config.only("position_embedding_type", "rope")
    config.only("logn_attention_scale", False)
    config.ignore("logn_attention_clip1")  # of that scale
    config.ignore("pack_qkv", "unpad_inputs", "use_memory_efficient_attention")
    shape = read_shape(config, DEFAULT)
    rope = read_rope(config, shape.head_dim, shape.context, ntk=True)
    return gte.build("new", config, shape, rope, config.activation("hidden_act", "gelu"))
