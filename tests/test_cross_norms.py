"""Norms of whole projections in cross-attention: keys are normalised where the encoder stores them, queries are not."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from random_models import RMS, build, plain_spec, run

from fastlm import reference
from fastlm.arch.slots import slots
from fastlm.arch.spec import Activation, Attention, FeedForward, Layer, NormSpan, Source, Stack, Sublayer

PLAIN = Attention(4, 2, 16, 0.25, causal=False)
NORMED = replace(PLAIN, source=Source.ENCODER, q_norm=RMS, k_norm=RMS)


@pytest.mark.parametrize("span", NormSpan)
@pytest.mark.parametrize("threads", [1, 2])
def test_norms_of_cross_attention(span: NormSpan, threads: int) -> None:
    """Failed before for projections: keys were not normalised, and the encoder wrote behind its queries' rows."""
    narrow = replace(PLAIN, heads=2)  # the encoder's buffer of queries is narrower than the decoder's queries
    ffn = Sublayer(FeedForward(50, Activation.RELU), RMS)
    encoder = Stack((Layer((Sublayer(narrow, RMS), ffn)),), RMS)
    cross = Sublayer(replace(NORMED, norm_span=span), RMS)
    layer = Layer((Sublayer(replace(PLAIN, causal=True), RMS), cross, ffn))
    plain = plain_spec(64, vocab=101)
    spec = replace(plain, encoder=encoder, decoder=Stack((layer, layer), RMS))
    _, model = build(spec, threads=threads)
    rng = np.random.default_rng(0)  # as build draws them
    weights = {}
    for slot, tensor in zip(slots(spec), model.tensors(), strict=True):
        values = rng.standard_normal((tensor.rows, tensor.cols), dtype=np.float32)
        if tensor.is_matrix:
            values *= np.float32(tensor.cols**-0.5)
        else:
            values = values * np.float32(0.2) + np.float32("norm.weight" in tensor.name)
        assert slot.name == tensor.name
        weights[slot.name] = values[0].astype(float) if slot.is_vector else values.astype(float)
    source, target = (rng.integers(0, 101, n).astype(np.int32) for n in (13, 5))
    session = model.session()
    session.encode(source)
    (found,) = run(model, [(session, target, 2)], 101)
    expected = reference.forward(spec, weights, source.tolist(), decoder_ids=target.tolist()).logits
    assert expected is not None
    assert np.abs(found - expected).max() < 1e-4 * expected.std()
