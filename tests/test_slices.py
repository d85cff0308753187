"""Long steps, whose tokens are dealt to the threads: all that a step can be asked for, against one thread."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from core_structs import ISAS
from random_models import RMS, build, exotic_spec, llama_spec, plain_spec, run, usable

from fastlm import _core
from fastlm.arch.spec import Activation, Attention, FeedForward, Layer, ModelSpec, NormSpan, Source, Sublayer
from fastlm.tasks.forward import heads

LENGTHS = (1, 300, 7, 129, 64)  # of the texts of a step: 501 tokens


def dense_spec() -> ModelSpec:
    """The exotic model without its experts, which are shared by all threads: windows, ALiBi, parallel layers."""
    spec = exotic_spec()
    assert spec.decoder is not None
    ffn = FeedForward(77, Activation.GELU)
    layers = tuple(
        replace(layer, sublayers=(layer.sublayers[0], replace(layer.sublayers[1], mixer=ffn)))
        for layer in spec.decoder.layers
    )
    whole = Attention(4, 2, 24, 0.2, q_norm=RMS, k_norm=RMS, norm_span=NormSpan.PROJECTION)
    last = Layer((Sublayer(whole, RMS), Sublayer(ffn, RMS)))
    return replace(spec, decoder=replace(spec.decoder, layers=(*layers, last)))


SPECS = {
    "plain": plain_spec(320),
    "dense": dense_spec(),
    "whole blocks": llama_spec(192, 2, 3, 1, 1536, 300, tied=True),  # of inner states, for every thread
}


def captures(spec: ModelSpec, tokens: np.ndarray, first: int) -> dict[str, np.ndarray]:
    assert spec.decoder is not None
    layers, n, width = len(spec.decoder.layers), len(tokens), spec.hidden
    return {
        "logits": np.empty((n, spec.vocab), np.float32),
        "hidden": np.empty((n, width), np.float32),
        "hidden_states": np.empty((layers + 1, n, width), np.float32),
        "attentions": np.zeros((sum(heads(spec.decoder)), n, first + n), np.float32),
    }


def everything(spec: ModelSpec, threads: int, format: str, isa: str, first: int) -> list[dict[str, np.ndarray]]:
    """What one step gives for each of several texts, of which `first` tokens were read before."""
    _, model = build(spec, threads=threads, format=format, isa=isa, prefix=False)
    rng = np.random.default_rng(0)
    items, wanted = [], []
    for n in LENGTHS:
        ids = rng.integers(0, spec.vocab, first + n).astype(np.int32)
        session = model.session()
        if first:
            run(model, [(session, ids[:first], 0)], spec.vocab)
        wanted.append(captures(spec, ids[first:], first))
        items.append(_core.Item(session, ids[first:], rows="all", **wanted[-1]))
    _core.forward(model, items)
    return wanted


@pytest.mark.parametrize("threads", [2, 3])
@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)
@pytest.mark.parametrize("format", ["float32", "bfloat16", "int8", "int4"])
@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("first", [0, 70])
def test_slices_give_what_one_thread_gives(spec: ModelSpec, threads: int, format: str, isa: str, first: int) -> None:
    if not usable(isa):
        pytest.skip(f"this processor has no {isa}")
    alone, sliced = (everything(spec, n, format, isa, first) for n in (1, threads))
    for one, other in zip(alone, sliced, strict=True):
        for name, values in one.items():
            assert np.array_equal(values, other[name]), name
            assert np.isfinite(values).all()


@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)
@pytest.mark.parametrize("format", ["bfloat16", "int8", "int4"])
@pytest.mark.parametrize("lengths", [(500,), (300,), (290, 211)])
def test_slices_of_which_the_last_token_is_wanted(spec: ModelSpec, format: str, lengths: tuple[int, ...]) -> None:
    """The logits of each text's last token, or nothing at all; and those of a token after them."""
    rng = np.random.default_rng(9)
    texts = [rng.integers(0, spec.vocab, n).astype(np.int32) for n in lengths]
    for rows in (1, 0):
        found = []
        for threads in (1, 2, 3):
            _, model = build(spec, threads=threads, format=format, prefix=False)
            sessions = [model.session() for _ in texts]
            work = [(session, ids, rows) for session, ids in zip(sessions, texts, strict=True)]
            found.append(run(model, work, spec.vocab))
            found[-1] += run(model, [(session, ids[:1], 1) for session, ids, _ in work], spec.vocab)
        for others in found[1:]:
            assert all(np.array_equal(one, other) for one, other in zip(found[0], others, strict=True))


@pytest.mark.parametrize("format", ["bfloat16", "int8", "int4"])
def test_whole_blocks_of_few_tokens(format: str) -> None:
    """Inner states of which threads share the blocks, or one has too few to share."""
    spec = SPECS["whole blocks"]
    rng = np.random.default_rng(8)
    texts = [rng.integers(0, spec.vocab, n).astype(np.int32) for n in (1, 2, 15, 33)]
    found = []
    for threads in (1, 2, 3, 4):
        _, model = build(spec, threads=threads, format=format, prefix=False)
        found.append([run(model, [(model.session(), ids, 2)], spec.vocab)[0] for ids in texts])
        found[-1] += run(model, [(model.session(), ids, 2) for ids in texts], spec.vocab)
    for others in found[1:]:
        assert all(np.array_equal(one, other) for one, other in zip(found[0], others, strict=True))


def test_a_decoder_with_a_memory() -> None:
    own, memory = (Attention(2, 2, 16, 0.25, source=source) for source in (Source.SELF, Source.ENCODER))
    ffn = Sublayer(FeedForward(50, Activation.RELU), RMS)
    decoder = (Layer((Sublayer(own, RMS), Sublayer(memory, RMS), ffn)),) * 2
    encoder = (Layer((Sublayer(replace(own, causal=False), RMS), ffn)),)
    plain = plain_spec(96)
    assert plain.decoder is not None
    spec = replace(
        plain,
        vocab=101,
        hidden=96,
        encoder=replace(plain.decoder, layers=encoder),
        decoder=replace(plain.decoder, layers=decoder),
    )
    found = []
    for threads in (1, 2):
        _, model = build(spec, threads=threads)
        rng = np.random.default_rng(4)
        work: list[Any] = []
        for n in (250, 40, 200):
            session = model.session()
            session.encode(rng.integers(0, 101, 33 + n).astype(np.int32))
            work.append((session, rng.integers(0, 101, n).astype(np.int32), 2))
        found.append(run(model, work, 101))
    for alone, sliced in zip(*found, strict=True):
        assert np.array_equal(alone, sliced)
