"""mT5: T5 v1.1 on many languages."""

from fastlm.arch.config import Config
from fastlm.arch.family import Family
from fastlm.arch.skeleton import Shape
from fastlm.arch.t5_like import read_t5

DEFAULT = Shape(vocab=250112, hidden=512, width=1024, layers=8, heads=6, head_dim=64, context=512, tied=True)


def read(config: Config) -> Family:
    return read_t5(config, "mt5", DEFAULT, feed_forward_proj="gated-gelu", scales=False)
