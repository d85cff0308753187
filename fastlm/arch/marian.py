"""Marian and OPUS-MT: BART with sinusoidal positions, no norm on the embedding, and at times a table for each stack."""

from dataclasses import replace

from fastlm.arch.config import MAX_VOCAB, MAX_WIDTH, Config
from fastlm.arch.family import Family, Sinusoids
from fastlm.arch.seq2seq import Form, read_family, with_own_tables
from fastlm.arch.skeleton import Shape

DEFAULT = Shape(vocab=58101, hidden=1024, width=4096, layers=12, heads=16, context=1024)


def read(config: Config) -> Family:
    family = read_family(config, "marian", DEFAULT, Form(first=False, positions=sinusoids(config, DEFAULT)))
    vocab = family.spec.vocab
    written = config.count_or_none("decoder_vocab_size", None, MAX_VOCAB) or vocab
    if config.flag("share_encoder_decoder_embeddings", True):
        config.only("decoder_vocab_size", vocab)
        return family
    return with_own_tables(replace(family, spec=replace(family.spec, vocab=written)), vocab)


def sinusoids(config: Config, default: Shape) -> Sinusoids:
    """Half of the model's width are sines."""
    config.alias(d_model="hidden_size")
    return Sinusoids(max(1, config.count("hidden_size", default.hidden, MAX_WIDTH) // 2))
