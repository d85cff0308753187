"""Pegasus: BART with norms before blocks and sinusoidal positions."""

from fastlm.arch.config import Config
from fastlm.arch.family import Family
from fastlm.arch.marian import sinusoids
from fastlm.arch.seq2seq import Form, read_family
from fastlm.arch.skeleton import Shape

DEFAULT = Shape(vocab=50265, hidden=1024, width=4096, layers=12, heads=16, context=1024)


def read(config: Config) -> Family:
    return read_family(config, "pegasus", DEFAULT, Form(first=True, positions=sinusoids(config, DEFAULT)))
