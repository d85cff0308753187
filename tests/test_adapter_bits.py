"""Sequences with adapters: what the reference computes with merged weights, and bit for bit what each gives alone.

Whatever runs beside them, however texts are cut, and with any number of threads; sequences without an adapter give what
they give where there are none.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from core_structs import ISAS
from random_adapters import changes, merged
from random_models import build, exotic_spec, llama_spec, plain_spec, usable, weights

from fastlm import _core, reference
from fastlm.arch.spec import ModelSpec
from fastlm.errors import ParameterError, StateError
from fastlm.weights.lora import Change

ADAPTERS = 16
CASES = [
    pytest.param(lambda: plain_spec(256, layers=1), "int8", id="plain-int8"),
    pytest.param(lambda: plain_spec(256, layers=1), "int4", id="plain-int4"),
    pytest.param(exotic_spec, "float32", id="exotic-float32"),
    pytest.param(exotic_spec, "int8", id="exotic-int8"),
]
CLOSE = 2e-5  # of the logits' standard deviation, in float32


def run(model: _core.Model, work: list[tuple[_core.Session, np.ndarray]], vocab: int) -> list[np.ndarray]:
    """The logits of all tokens, in one call."""
    found = [np.empty((len(ids), vocab), np.float32) for _, ids in work]
    items = [_core.Item(s, ids, rows="all", logits=to) for (s, ids), to in zip(work, found, strict=True)]
    _core.forward(model, items)
    return found


def session(model: _core.Model, adapter: _core.Adapter | None) -> _core.Session:
    made = model.session()
    made.set_adapter(adapter)
    return made


def pieces(rng: np.random.Generator, ids: np.ndarray) -> list[np.ndarray]:
    """A text in a few parts, the last ones single tokens."""
    cut = int(rng.integers(1, len(ids) - 2))
    return [ids[:cut], ids[cut:-2], ids[-2:-1], ids[-1:]]


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("format", ["float32", "int8"])
def test_equals_the_reference(isa: str, format: str) -> None:
    """With float32 weights; in int8 as near to it as the model is without adapters."""
    if not usable(isa):
        pytest.skip(f"this processor has no {isa}")
    spec = llama_spec(96, 2, 4, 2, 137, 211, tied=False)
    ids = np.random.default_rng(0).integers(0, spec.vocab, 21).astype(np.int32)
    _, model = build(spec, threads=2, format=format, isa=isa)
    plain = weights(spec)
    errors = []
    for seed in (None, 1, 2, 3):
        made = [] if seed is None else [c._replace(bias=None) for c in changes(model, seed)]
        exact = reference.forward(spec, merged(plain, made), ids.tolist()).logits
        assert exact is not None
        (found,) = run(model, [(session(model, model.adapter(made) if made else None), ids)], spec.vocab)
        errors.append(float(np.sqrt(np.mean((found - exact) ** 2)) / exact.std()))
        assert format == "int8" or np.abs(found - exact).max() < CLOSE * exact.std()
    assert max(errors[1:]) < 1.5 * errors[0] + CLOSE


@pytest.mark.parametrize(("make_spec", "format"), CASES)
def test_bits_do_not_depend_on_neighbours(make_spec: Any, format: str) -> None:
    spec: ModelSpec = make_spec()
    rng = np.random.default_rng(5)
    texts = [rng.integers(0, spec.vocab, int(rng.integers(6, 90))).astype(np.int32) for _ in range(2 * ADAPTERS)]
    _, plain = build(spec, threads=1, format=format, prefix=False)
    _, alone = build(spec, threads=1, format=format, prefix=False)
    own = [alone.adapter(changes(alone, seed)) for seed in range(ADAPTERS)]
    wanted = []
    for i, ids in enumerate(texts):
        if i % 2:
            (logits,) = run(plain, [(plain.session(), ids)], spec.vocab)
        else:
            (logits,) = run(alone, [(session(alone, own[i // 2]), ids)], spec.vocab)
        wanted.append(logits)
    assert len({logits[0].tobytes() for logits in wanted[::2]}) == ADAPTERS
    for threads in (2, 3):
        _, model = build(spec, threads=threads, format=format)
        adapters = [model.adapter(changes(model, seed)) for seed in range(ADAPTERS)]
        sessions = [session(model, None if i % 2 else adapters[i // 2]) for i in range(len(texts))]
        parts = [pieces(rng, ids) for ids in texts]
        found: list[list[np.ndarray]] = [[] for _ in texts]
        for step in range(4):
            order = [i for i in rng.permutation(len(texts)) if len(parts[i][step])]
            for i, logits in zip(
                order, run(model, [(sessions[i], parts[i][step]) for i in order], spec.vocab), strict=True
            ):
                found[i].append(logits)
        for i, want in enumerate(wanted):
            assert np.array_equal(np.concatenate(found[i]), want), (threads, i)


@pytest.mark.parametrize("format", ["float32", "int8"])
def test_long_texts(format: str) -> None:
    """Chunks, slices and units, with neighbours; also where only the last logits are wanted."""
    spec = plain_spec(256, vocab=211)
    rng = np.random.default_rng(3)
    ids = rng.integers(0, spec.vocab, 700).astype(np.int32)
    wanted: list[np.ndarray] = []
    for threads in (1, 2, 3):
        _, model = build(spec, threads=threads, format=format, prefix=False)
        first, second = (model.adapter(changes(model, seed)) for seed in (1, 2))
        for cuts in ([], [513], [40, 640]):
            sequences = [session(model, a) for a in (first, None, second)]
            for part in np.split(ids, cuts):
                last = [np.empty((1, spec.vocab), np.float32) for _ in sequences]
                _core.forward(model, [_core.Item(s, part, logits=to) for s, to in zip(sequences, last, strict=True)])
            wanted = wanted or last
            assert np.array_equal(last, wanted), (threads, cuts)


@pytest.mark.parametrize("spec", [plain_spec(), exotic_spec()], ids=["plain", "exotic"])
def test_pages_are_found_by_their_own_adapter_alone(spec: ModelSpec) -> None:
    ids = np.random.default_rng(1).integers(0, spec.vocab, 200).astype(np.int32)
    context, model = build(spec, threads=1)
    adapters = [None, model.adapter(changes(model, 1)), model.adapter(changes(model, 2))]

    def logits(adapter: _core.Adapter | None) -> tuple[np.ndarray, int]:
        before = context.counters()["prefix_hit_tokens"]
        last = np.empty((1, spec.vocab), np.float32)
        _core.forward(model, [_core.Item(session(model, adapter), ids, logits=last)])
        return last, context.counters()["prefix_hit_tokens"] - before  # type: ignore[operator]

    cold = [logits(adapter) for adapter in adapters]
    assert [hits for _, hits in cold] == [0, 0, 0]
    for (want, _), adapter in zip(cold, adapters, strict=True):
        found, hits = logits(adapter)
        assert hits == 192 and np.array_equal(found, want)


def test_another_adapter_computes_the_past_anew() -> None:
    spec = plain_spec(layers=1)
    ids = np.random.default_rng(2).integers(0, spec.vocab, 80).astype(np.int32)
    _, model = build(spec, threads=1)
    one = model.adapter(changes(model, 1))
    (want,) = run(model, [(session(model, one), ids)], spec.vocab)
    sequence = model.session()
    run(model, [(sequence, ids[:79])], spec.vocab)
    sequence.set_adapter(one)
    twin = sequence.fork()
    one.close()  # both keep it
    for kept in (sequence, twin):
        (found,) = run(model, [(kept, ids[79:])], spec.vocab)
        assert np.array_equal(found[0], want[79])
    with pytest.raises(StateError, match="unloaded"):
        model.session().set_adapter(one)


def test_changes_that_do_not_fit() -> None:
    spec = exotic_spec()
    _, model = build(spec, threads=1)
    (*_, last) = changes(model, 0)
    a, b = np.ones((2, 150), np.float32), np.ones((120, 2), np.float32)
    good = Change("decoder.0.0.q", 2, 1.0, a, b)
    model.adapter([good])
    for change, text in (
        (good._replace(site="decoder.9.0.q"), "no matrix"),
        (good._replace(site="decoder.1.0.pre_norm.weight", b=np.ones((1, 2), np.float32)), "as a whole"),
        (
            good._replace(site="decoder.0.0.q.bias", a=np.ones((2, 120), np.float32), b=np.ones((1, 2), np.float32)),
            "no matrix",
        ),
        (good._replace(site="decoder.1.1.experts.0.up", b=np.ones((45, 2), np.float32)), "no such matrix"),
        (good._replace(site="decoder.embed.positions", b=np.ones((1024, 2), np.float32)), "no such matrix"),
        (good._replace(b=None), "both matrices"),
        (good._replace(a=np.ones((3, 150), np.float32)), "room for 450 values, not 300"),
        (good._replace(scale=float("nan")), "finite scale"),
        (good._replace(a=a * np.float32("inf")), "NaN or infinite"),
        (good._replace(gain=np.full(120, np.nan, np.float32)), "NaN or infinite"),
        (Change("decoder.0.0.q"), "changes nothing"),
        (Change("embed.tokens", bias=np.ones(150, np.float32)), "neither gain nor bias"),
        (good._replace(rank=5000, a=np.ones((5000, 150), np.float32), b=np.ones((120, 5000), np.float32)), "rank 5000"),
    ):
        with pytest.raises((ParameterError, ValueError), match=text):
            model.adapter([last, change])
    with pytest.raises(ParameterError, match="changed twice"):
        model.adapter([good, good])
    with pytest.raises(ParameterError, match="no changes"):
        model.adapter([])
    _, other = build(plain_spec(layers=1), threads=1)
    with pytest.raises(ParameterError, match="another model"):
        other.session().set_adapter(model.adapter([good]))
