"""umT5: mT5 with a table of relative-position biases in each layer."""

from fastlm.arch.config import Config
from fastlm.arch.family import Family
from fastlm.arch.mt5 import DEFAULT
from fastlm.arch.t5_like import read_t5


def read(config: Config) -> Family:
    config.ignore("scalable_attention")
    return read_t5(config, "umt5", DEFAULT, feed_forward_proj="gated-gelu", by_layer=True)
