"""Blenderbot 90M: BART whose decoder neither scales its tokens nor norms its positions with them."""

from dataclasses import replace

from fastlm.arch.config import Config
from fastlm.arch.family import Family
from fastlm.arch.seq2seq import Form, read_family
from fastlm.arch.skeleton import Shape

DEFAULT = Shape(vocab=50265, hidden=512, width=2048, layers=8, heads=16, context=512)


def read(config: Config) -> Family:
    family = read_family(config, "blenderbot-small", DEFAULT, Form(first=False, positions=0, normed=True))
    decoder = family.spec.decoder
    assert decoder is not None
    own = replace(decoder, embed=replace(decoder.embed, scale=1.0, norm_first=True))
    return replace(family, spec=replace(family.spec, decoder=own))
