"""M2M100 and NLLB: BART with norms before blocks, scaled embeddings and tensor2tensor's sinusoidal positions."""

from fastlm.arch.config import MAX_VOCAB, Config
from fastlm.arch.family import Family, Sinusoids
from fastlm.arch.marian import sinusoids
from fastlm.arch.seq2seq import Form, read_family
from fastlm.arch.skeleton import Shape

DEFAULT = Shape(vocab=128112, hidden=1024, width=4096, layers=12, heads=16, context=1024)
PADDING = 1


def read(config: Config) -> Family:
    padding = config.count("pad_token_id", PADDING, MAX_VOCAB, least=0)  # positions begin behind its row
    steps = max(1, sinusoids(config, DEFAULT).steps - 1)
    positions = Sinusoids(steps, first=padding + 1, single=True)
    form = Form(first=True, positions=positions, activation="relu", scaled=True, biased=False)
    return read_family(config, "m2m_100", DEFAULT, form)
