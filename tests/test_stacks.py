"""What each stack of an encoder-decoder may have for itself: tokens, positions, and relative biases in each layer."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from core_structs import ISAS
from numpy.typing import NDArray
from random_models import RMS, build, create, run, usable, weights

from fastlm import _core, reference
from fastlm.arch.spec import (
    Activation,
    Attention,
    Embed,
    FeedForward,
    Layer,
    Logits,
    ModelSpec,
    Norm,
    NormKind,
    Pool,
    RelativeBias,
    Source,
    Stack,
    Sublayer,
)
from fastlm.errors import ContextLengthError, ModelFormatError, ParameterError

SOURCES, WORDS = 83, 67  # tokens that are read, and that are written
LAYER_NORM = Norm(NormKind.LAYER, 1e-5, bias=True)
WORDS_HEAD = Logits(tied=True, bias=True)
LENGTHS = ((1, 1), (13, 5), (70, 64), (150, 100))


def spec_of(head: Logits = WORDS_HEAD) -> ModelSpec:
    """Post-norm layers, a token table for each stack, a norm before the decoder's positions."""
    attention = Attention(4, 4, 16, 0.25, qkv_bias=True, out_bias=True, relative_bias=True)
    cross = replace(attention, causal=False, relative_bias=False, source=Source.ENCODER)
    ffn = FeedForward(80, Activation.GELU, bias=True, out_bias=True)

    def layer(*mixers: Attention | FeedForward) -> Layer:
        return Layer(tuple(Sublayer(mixer, residual_norm=LAYER_NORM) for mixer in mixers))

    relative = RelativeBias(4, 12, 30, bidirectional=True, by_layer=True)
    embed = Embed(2.0, positions=256, norm=LAYER_NORM, tokens=SOURCES)
    encoder = Stack((layer(replace(attention, causal=False), ffn),) * 2, relative=relative, embed=embed)
    own = replace(embed, scale=1.0, tokens=0, norm_first=True)
    causal = replace(relative, bidirectional=False)
    decoder = Stack((layer(attention, cross, ffn),) * 2, RMS, relative=causal, embed=own)
    return ModelSpec(WORDS, 64, 256, encoder=encoder, decoder=decoder, head=(head,))


def ids(n: int, vocab: int) -> NDArray[np.int32]:
    return np.random.default_rng(n).integers(0, vocab, n).astype(np.int32)


def encoded(model: _core.Model, n: int) -> _core.Session:
    session = model.session()
    session.encode(ids(n, SOURCES))
    return session


def test_every_row_is_the_references() -> None:
    spec = spec_of()
    _, model = build(spec, threads=2)
    w = weights(spec)
    for source, target in LENGTHS:
        (found,) = run(model, [(encoded(model, source), ids(target, WORDS), 2)], WORDS)
        wanted = reference.forward(spec, w, ids(source, SOURCES).tolist(), decoder_ids=ids(target, WORDS).tolist())
        assert wanted.logits is not None
        assert np.abs(found - wanted.logits).max() < 2e-5 * max(1.0, np.abs(wanted.logits).max())


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("format", ["float32", "bfloat16", "int8", "int4"])
def test_bits_do_not_depend_on_the_company(isa: str, format: str) -> None:
    if not usable(isa):
        pytest.skip(f"this processor has no {isa}")
    spec = spec_of()
    _, alone = build(spec, threads=1, format=format, isa=isa)
    expected = {pair: run(alone, [(encoded(alone, pair[0]), ids(pair[1], WORDS), 2)], WORDS)[0] for pair in LENGTHS}
    for threads in (1, 2, 3):
        _, model = build(spec, threads=threads, format=format, isa=isa)
        order = [LENGTHS[i] for i in np.random.default_rng(threads).permutation(len(LENGTHS))]
        work = [(encoded(model, source), ids(target, WORDS), 2) for source, target in order]
        for pair, logits in zip(order, run(model, work, WORDS), strict=True):
            assert np.array_equal(logits, expected[pair]), (pair, threads)
        session = encoded(model, 150)
        parts = [run(model, [(session, part, 2)], WORDS)[0] for part in np.split(ids(100, WORDS), [1, 63, 66])]
        assert np.array_equal(np.concatenate(parts), expected[150, 100])


def test_tokens_are_those_of_the_stack_that_reads_them() -> None:
    _, model = build(spec_of(), threads=1)
    session = model.session()
    session.encode(np.array([SOURCES - 1], np.int32))
    with pytest.raises(ParameterError, match=rf"tokens\[1\] is {SOURCES}, but .* tokens are 0 to {SOURCES - 1}"):
        session.encode(np.array([0, SOURCES], np.int32))
    with pytest.raises(ParameterError, match=rf"tokens\[0\] is {WORDS}, but .* tokens are 0 to {WORDS - 1}"):
        run(model, [(session, np.array([WORDS], np.int32), 2)], WORDS)
    with pytest.raises(ContextLengthError, match="257 tokens are more than the context of 256"):
        session.encode(np.zeros(257, np.int32))
    assert session.length == 0 and session.source == 1


def test_a_head_for_labels_reads_the_last_token() -> None:
    spec = replace(spec_of(Logits(tied=False, outputs=3, bias=True)), pool=Pool.LAST)
    _, model = build(spec, threads=2)
    found = np.empty((1, 3), np.float32)
    _core.forward(model, [_core.Item(encoded(model, 13), ids(5, WORDS), rows="last", logits=found)])
    w = weights(spec)
    wanted = reference.forward(spec, w, ids(13, SOURCES).tolist(), decoder_ids=ids(5, WORDS).tolist()).logits
    assert wanted is not None and np.abs(found - wanted).max() < 2e-5 * max(1.0, np.abs(wanted).max())


def test_the_plan_tells() -> None:
    _, model = build(spec_of(), threads=1)
    embeds = [line for line in model.plan().splitlines() if " embed " in line]
    assert (
        "layer_norm(token row of [83 x 64 float32] * 2 + position row of [256 x 64 float32]) -> residual" in embeds[0]
    )
    assert "layer_norm(token row of [67 x 64 float32]) + position row of [256 x 64 float32] -> residual" in embeds[1]


def alone(spec: ModelSpec) -> ModelSpec:
    return replace(spec, decoder=None, head=())


@pytest.mark.parametrize("part", ["encoder alone", "decoder"])
def test_a_table_beside_the_models_must_be_read_by_another_stack(part: str) -> None:
    spec = spec_of()
    assert spec.decoder is not None
    embed = replace(spec.decoder.embed, tokens=5)
    spec = alone(spec) if part == "encoder alone" else replace(spec, decoder=replace(spec.decoder, embed=embed))
    with pytest.raises(ModelFormatError, match="tokens are a table beside the model's, which no other stack reads"):
        create(_core.Context(1), spec, "float32")
