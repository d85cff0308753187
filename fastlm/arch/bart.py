"""BART: norms behind each sum, learned positions behind two unused rows, a norm on the embedding of each stack."""

from fastlm.arch.config import Config
from fastlm.arch.family import Family
from fastlm.arch.seq2seq import Form, read_family
from fastlm.arch.skeleton import Shape

DEFAULT = Shape(vocab=50265, hidden=1024, width=4096, layers=12, heads=16, context=1024)


def read(config: Config) -> Family:
    return read_family(config, "bart", DEFAULT, Form(first=False, positions=2, normed=True))
