"""T5, T5 v1.1, Flan-T5 and ByT5."""

from fastlm.arch.config import Config
from fastlm.arch.family import Family
from fastlm.arch.skeleton import Shape
from fastlm.arch.t5_like import read_t5

DEFAULT = Shape(vocab=32128, hidden=512, width=2048, layers=6, heads=8, head_dim=64, context=512, tied=True)


def read(config: Config) -> Family:
    return read_t5(config, "t5", DEFAULT)
