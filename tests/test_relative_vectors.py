"""Vectors of relative positions: as the reference says, and the same bits whatever the threads, chunks and company."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from core_structs import ISAS
from random_models import RMS, build, create, usable

from fastlm import _core, reference
from fastlm.arch.slots import slots
from fastlm.arch.spec import (
    Activation,
    Attention,
    FeedForward,
    Layer,
    Logits,
    ModelSpec,
    RelativeBias,
    RelativeVectors,
    Stack,
    Sublayer,
)
from fastlm.errors import ModelFormatError, UnsupportedError

LENGTHS = (1, 5, 64, 70, 300, 512)
LOGARITHMIC, EXACT = RelativeVectors(16, 100), RelativeVectors(24, 0, queries=False)
PUBLISHED = RelativeVectors(256, 512)  # DeBERTa v3's


def spec_of(vectors: RelativeVectors, *, causal: bool = False, **more: object) -> ModelSpec:
    attention = Attention(4, 4, 20, 0.2, causal=causal, vectors=vectors, **more)  # type: ignore[arg-type]
    ffn = FeedForward(72, Activation.GELU)
    stack = Stack((Layer((Sublayer(attention, pre_norm=RMS), Sublayer(ffn, pre_norm=RMS))),) * 2, RMS)
    if causal:
        return ModelSpec(67, 64, 512, decoder=stack, head=(Logits(tied=True),))
    return ModelSpec(67, 64, 512, encoder=stack)


def tokens(n: int) -> np.ndarray:
    return np.random.default_rng(n).integers(0, 67, n).astype(np.int32)


def weights(spec: ModelSpec) -> dict[str, np.ndarray]:
    """Those that random_models.fill gives."""
    rng, found = np.random.default_rng(0), {}
    for slot in slots(spec):
        values = rng.standard_normal((slot.rows, slot.cols), dtype=np.float32)
        size = slot.cols**-0.5 if slot.is_matrix else 0.2
        values = values * np.float32(size) + np.float32("norm.weight" in slot.name)
        found[slot.name] = (values[0] if slot.is_vector else values).astype(np.float64)
    return found


def rows(model: _core.Model, spec: ModelSpec, lengths: list[int]) -> list[np.ndarray]:
    items = [
        _core.Item(model.session(), tokens(n), rows="all", logits=np.empty((n, spec.outputs), np.float32))
        for n in lengths
    ]
    _core.forward(model, items)
    return [item.logits for item in items]


@pytest.mark.parametrize("vectors", [LOGARITHMIC, PUBLISHED, EXACT], ids=["logarithmic", "published", "exact"])
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("kv_dtype", ["float32", "bfloat16"])
def test_every_row_is_the_references(vectors: RelativeVectors, causal: bool, kv_dtype: str) -> None:
    spec = spec_of(vectors, causal=causal)
    _, model = build(spec, threads=2, kv=kv_dtype)
    w = weights(spec)
    for length, found in zip(LENGTHS, rows(model, spec, list(LENGTHS)), strict=True):
        result = reference.forward(spec, w, tokens(length).tolist())
        wanted = result.hidden if result.logits is None else result.logits
        close = 2e-5 if kv_dtype == "float32" else 2e-2
        assert np.abs(found - wanted).max() < close * max(1.0, np.abs(wanted).max())
        without = spec_of(replace(vectors, keys=False, queries=False), causal=causal)
        if length > 1:  # they matter
            assert np.abs(result.hidden - reference.forward(without, w, tokens(length).tolist()).hidden).max() > 0.1


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("kv_dtype", ["float32", "bfloat16"])
def test_bits_do_not_depend_on_the_company(isa: str, kv_dtype: str) -> None:
    if not usable(isa):
        pytest.skip(f"this processor has no {isa}")
    for spec in (spec_of(LOGARITHMIC), spec_of(EXACT, causal=True)):
        _, alone = build(spec, threads=1, isa=isa, kv=kv_dtype)
        expected = {n: rows(alone, spec, [n])[0] for n in LENGTHS}
        for threads in (1, 2, 3):
            _, model = build(spec, threads=threads, isa=isa, kv=kv_dtype)
            order = np.random.default_rng(threads).permutation(LENGTHS).tolist()
            for n, found in zip(order, rows(model, spec, order), strict=True):
                assert np.array_equal(found, expected[n]), (n, threads)


@pytest.mark.parametrize("cut", [1, 63, 64, 65, 250])
def test_bits_do_not_depend_on_chunks(cut: int) -> None:
    spec = spec_of(LOGARITHMIC, causal=True)
    _, model = build(spec, threads=2)
    (whole,) = rows(model, spec, [300])
    session, found = model.session(), []
    for part in (tokens(300)[:cut], tokens(300)[cut:]):
        item = _core.Item(session, part, rows="all", logits=np.empty((len(part), spec.outputs), np.float32))
        _core.forward(model, [item])
        found.append(item.logits)
    assert np.array_equal(np.concatenate(found), whole)


@pytest.mark.parametrize(
    ("spec", "options", "words"),
    [
        (spec_of(LOGARITHMIC), {"kv": "int8"}, "layer 0: kv_dtype int8 beside vectors .* another kv_dtype"),
        (
            replace(
                spec_of(LOGARITHMIC),
                encoder=Stack(spec_of(LOGARITHMIC).encoder.layers + spec_of(EXACT).encoder.layers),  # type: ignore[union-attr]
            ),
            {},
            "layer 2: two kinds of relative positions in a stack",
        ),
        (
            replace(
                spec_of(LOGARITHMIC, relative_bias=True),
                encoder=replace(
                    spec_of(LOGARITHMIC, relative_bias=True).encoder,  # type: ignore[type-var]
                    relative=RelativeBias(4, 8, 16, bidirectional=True),
                ),
            ),
            {},
            "layer 0: two kinds of relative positions in a stack",
        ),
    ],
    ids=["int8", "two", "t5"],
)
def test_what_cannot_be_computed(spec: ModelSpec, options: dict[str, str], words: str) -> None:
    with pytest.raises(UnsupportedError, match=words):
        build(spec, threads=1, **options)


@pytest.mark.parametrize(
    ("vectors", "kv_heads", "words"),
    [
        (RelativeVectors(15, 100), 4, "relative max_distance does not fit the span"),
        (RelativeVectors(16, 9), 4, "relative max_distance does not fit the span"),
        (RelativeVectors(1 << 16, 0), 4, "relative span"),
        (RelativeVectors(16, 10), 2, "relative vectors need self-attention whose heads do not share keys"),
    ],
)
def test_vectors_that_do_not_fit(vectors: RelativeVectors, kv_heads: int, words: str) -> None:
    spec = spec_of(vectors)
    attention, ffn = spec.encoder.layers[0].sublayers  # type: ignore[union-attr]
    other = replace(attention, mixer=replace(attention.mixer, kv_heads=kv_heads))  # type: ignore[call-arg]
    spec = replace(spec, encoder=Stack((Layer((other, ffn)),), RMS))
    with pytest.raises(ModelFormatError, match=words):
        create(_core.Context(1), spec, "float32")
