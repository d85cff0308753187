"""Blenderbot: BART with norms before blocks, none on the embedding, and no unused positions."""

from fastlm.arch.config import Config
from fastlm.arch.family import Family
from fastlm.arch.seq2seq import Form, read_family
from fastlm.arch.skeleton import Shape

DEFAULT = Shape(vocab=8008, hidden=2560, width=10240, layers=2, heads=32, context=128)
DECODER_LAYERS = 24


def read(config: Config) -> Family:
    return read_family(config, "blenderbot", DEFAULT, Form(first=True, positions=0), DECODER_LAYERS)
