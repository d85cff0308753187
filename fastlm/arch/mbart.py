"""mBART and mBART-50: BART with norms before blocks, and one behind each stack."""

from fastlm.arch.bart import DEFAULT
from fastlm.arch.config import Config
from fastlm.arch.family import Family
from fastlm.arch.seq2seq import Form, read_family


def read(config: Config) -> Family:
    return read_family(config, "mbart", DEFAULT, Form(first=True, positions=2, normed=True))
