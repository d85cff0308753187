"""Attention that can be looked at: in layers that differ, over a source, in every format, whatever the threads."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from random_models import build, exotic_spec, weights

import fastlm
from fastlm import _core, reference
from fastlm.errors import ParameterError, UnsupportedError
from fastlm.tasks.forward import by_layer, heads

T5 = Path(__file__).with_name("golden") / "t5_gated"
ALBERT = Path(__file__).with_name("golden") / "albert_mlm"
NEAR = 1e-5


def captured(model: _core.Model, ids: np.ndarray, pieces: tuple[int, ...]) -> list[np.ndarray]:
    """Attentions of a text that is read in pieces: of each piece, over all tokens so far."""
    counts, session, found, at = heads(exotic_spec().decoder), model.session(), [], 0
    for n in pieces:
        room = np.full((sum(counts), n, at + n), np.nan, np.float32)
        _core.forward(model, [_core.Item(session, ids[at : at + n], rows="none", attentions=room)])
        found.append(room)
        at += n
    return found


def test_layers_that_differ_in_heads() -> None:
    spec, ids = exotic_spec(), np.arange(1, 120, dtype=np.int32) % 150
    counts = heads(spec.decoder)
    assert counts == [6, 5, 5]
    expected = reference.forward(spec, weights(spec), ids.tolist(), attentions=True).attentions
    _, model = build(spec, threads=2)
    (whole,) = captured(model, ids, (len(ids),))
    layers = by_layer(whole, counts)
    assert layers is not None and [a.shape for a in layers] == [(n, 119, 119) for n in counts]
    assert max(np.abs(a - b).max() for a, b in zip(layers, expected, strict=True)) < NEAR


@pytest.mark.parametrize("format", ["float32", "bfloat16", "int8", "int4"])
def test_bits_do_not_depend_on_threads_or_pieces(format: str) -> None:
    ids = np.arange(1, 120, dtype=np.int32) % 150
    _, model = build(exotic_spec(), threads=1, format=format)
    (whole,) = captured(model, ids, (len(ids),))
    for threads in (1, 2, 3):
        _, model = build(exotic_spec(), threads=threads, format=format)
        at = 0
        for piece in captured(model, ids, (1, 70, 2, 46)):
            n, keys = piece.shape[1:]
            assert np.array_equal(piece, whole[:, at : at + n, :keys])
            at += n


@pytest.fixture(scope="module")
def expected() -> Any:
    with np.load(T5 / "expected.npz") as file:
        return dict(file)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int8", "int4"])
@pytest.mark.parametrize("kv_dtype", ["float32", "int8"])
def test_attention_over_a_source_in_every_format(expected: Any, dtype: str, kv_dtype: str) -> None:
    """As near to float32 as the format is; probabilities add up; bits do not depend on threads."""
    found = []
    for threads in (1, 2, 3):
        with fastlm.load(T5, dtype=dtype, kv_dtype=kv_dtype, threads=threads) as model:
            found.append(model.forward(expected["ids"], decoder_ids=expected["decoder_ids"], attentions=True))
    bound = {"float32": NEAR, "bfloat16": 0.02, "int8": 0.05, "int4": 0.5}[dtype] + (0.02 if kv_dtype == "int8" else 0)
    for name in ("attentions", "encoder_attentions", "cross_attentions"):
        arrays = [np.array(getattr(outputs, name)) for outputs in found]
        assert arrays[0].shape == expected[name].shape and np.abs(arrays[0] - expected[name]).max() < bound
        assert np.allclose(arrays[0].sum(axis=-1), 1, atol=1e-5 if kv_dtype == "float32" else 1e-3)
        assert all(np.array_equal(arrays[0], other) for other in arrays[1:])
        if dtype == "float32" and kv_dtype == "float32":
            assert np.abs(arrays[0] - expected[name]).max() > 0


def test_shapes_of_an_encoder_decoder(expected: Any) -> None:
    ids, decoder_ids = expected["ids"].tolist(), expected["decoder_ids"].tolist()
    with fastlm.load(T5, dtype="float32") as model:
        outputs = model.forward(ids, decoder_ids=decoder_ids[:7], attentions=True)
        plain = model.forward(ids, decoder_ids=decoder_ids[:7])
        assert np.array_equal(outputs.logits, plain.logits)
        assert plain.attentions is plain.encoder_attentions is plain.cross_attentions is None
        assert outputs.attentions and outputs.encoder_attentions and outputs.cross_attentions
        assert [a.shape for a in outputs.attentions] == [(4, 7, 7)] * 3
        assert [a.shape for a in outputs.encoder_attentions] == [(4, 33, 33)] * 2
        assert [a.shape for a in outputs.cross_attentions] == [(4, 7, 33)] * 3


def test_layers_that_share_weights_have_attentions_of_their_own() -> None:
    with fastlm.load(ALBERT, dtype="float32") as model:
        outputs = model.forward([3, 4, 5, 6], attentions=True)
        assert outputs.attentions and len(outputs.attentions) == len(model.spec.main.layers) > 1
        assert not np.array_equal(outputs.attentions[0], outputs.attentions[1])


def test_room_that_does_not_fit() -> None:
    """And a session that has read nothing is as before."""
    with fastlm.load(T5, dtype="float32") as model:
        core, info = model.engine.core, model.engine.info
        session, ids = core.session(), np.arange(3, 8, dtype=np.int32)
        with pytest.raises(ParameterError, match="attentions must have the shape"):
            session.encode(ids, attentions=np.empty((3, 5, 5), np.float32))
        assert session.source == 0
        session.encode(ids)
        assert session.source == session.fork().source == 5
        for shape in ((info["cross_heads"], 2, 4), (info["cross_heads"], 1, 5), (1, 2, 5)):
            room = np.empty(shape, np.float32)
            item = _core.Item(session, ids[:2], rows="none", cross_attentions=room)
            with pytest.raises(ParameterError, match="attentions must have the shape"):
                _core.forward(core, [item])
        assert session.length == 0
    _, decoder = build(exotic_spec(), threads=1)
    item = _core.Item(decoder.session(), ids, rows="none", cross_attentions=np.empty((1, 5, 1), np.float32))
    with pytest.raises((ParameterError, UnsupportedError), match="attentions"):
        _core.forward(decoder, [item])
