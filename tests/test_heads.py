"""Heads, pools, narrow embeddings, repeated layers and two-sided windows: as the reference says, and always the same
bits, whatever the threads, the batch and the other rows of a text."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from core_structs import ISAS
from numpy.typing import NDArray
from random_models import RMS, build, create, fill, plain_spec, usable, weights

from fastlm import _core, reference
from fastlm.arch.spec import (
    Activate,
    Activation,
    Attention,
    Dense,
    Embed,
    FeedForward,
    HeadStep,
    Layer,
    Logits,
    ModelSpec,
    Norm,
    NormKind,
    Pool,
    Stack,
    Sublayer,
)
from fastlm.errors import ModelFormatError, ParameterError, UnsupportedError

LAYER_NORM = Norm(NormKind.LAYER, 1e-5, bias=True)
HEADS: list[tuple[HeadStep, ...]] = [
    (),
    (Logits(tied=True, bias=True),),
    (Logits(tied=False, outputs=3, bias=True),),
    (Dense(96, bias=True), Activate(Activation.TANH), Logits(tied=False, outputs=2)),
    (Dense(48, bias=True), Activate(Activation.GELU), LAYER_NORM, Logits(tied=True, bias=True)),
    (LAYER_NORM, Dense(200), Dense(31, bias=True), Activate(Activation.RELU)),
]
LENGTHS = (1, 5, 64, 70, 300)
ROWS = ("first", "last", "mean", "all", "listed")
LISTED = (0, 3, 4)


def encoder_spec(head: tuple[HeadStep, ...] = (), *, narrow: bool = True) -> ModelSpec:
    """A window on one side of each token and the other, layers that repeat, an embedding that is projected."""
    near = Attention(4, 2, 16, 0.25, causal=False, window=9, qkv_bias=True)
    layer = Layer((Sublayer(near, residual_norm=LAYER_NORM), Sublayer(FeedForward(80, Activation.GELU))))
    wide = Layer((Sublayer(replace(near, window=0), pre_norm=RMS), Sublayer(FeedForward(72, Activation.SILU))))
    embed = Embed(positions=512, types=2, norm=LAYER_NORM, narrow=narrow)
    stack = Stack((layer, wide, Layer(repeats=1), Layer(repeats=2)), RMS, embed=embed)
    return ModelSpec(67, 64, 512, width=48 if narrow else 0, encoder=stack, head=head)


def tokens(length: int) -> NDArray[np.int32]:
    return np.random.default_rng(length).integers(0, 67, length).astype(np.int32)


def item(model: _core.Model, spec: ModelSpec, ids: NDArray[np.int32], rows: str) -> _core.Item:
    listed = np.array([i for i in LISTED if i < len(ids)], np.int32) if rows == "listed" else None
    n = {"all": len(ids), "listed": 0 if listed is None else len(listed)}.get(rows, 1)
    logits = np.empty((n, spec.outputs), np.float32)
    return _core.Item(model.session(), ids, rows=rows, logits=logits, listed=listed)


def together(model: _core.Model, spec: ModelSpec, work: list[tuple[int, str]]) -> list[NDArray[np.float32]]:
    items = [item(model, spec, tokens(length), rows) for length, rows in work]
    _core.forward(model, items)
    return [i.logits for i in items if i.logits is not None]


@pytest.mark.parametrize("head", HEADS, ids=lambda head: "-".join(type(step).__name__ for step in head) or "none")
@pytest.mark.parametrize("narrow", [False, True])
def test_every_row_is_the_references(head: tuple[HeadStep, ...], narrow: bool) -> None:
    spec = encoder_spec(head, narrow=narrow)
    width = next((step.width for step in head if isinstance(step, Dense)), spec.hidden)
    if any(isinstance(step, Logits) and step.tied for step in head) and width != (spec.width or spec.hidden):
        pytest.skip("only what is as wide as the token table can be tied to it")
    w = weights(spec)
    _, model = build(spec, threads=2)
    pools = {"first": Pool.FIRST, "last": Pool.LAST, "mean": Pool.MEAN}
    for length in LENGTHS:
        everything = reference.read_out(reference.forward(spec, w, tokens(length).tolist()).hidden, spec, w)
        for rows in ROWS:
            (found,) = together(model, spec, [(length, rows)])
            if rows in pools:
                pooled = replace(spec, pool=pools[rows])
                wanted = reference.read_out(reference.forward(spec, w, tokens(length).tolist()).hidden, pooled, w)
            else:
                wanted = everything if rows == "all" else everything[[i for i in LISTED if i < length]]
            assert found.shape == wanted.shape
            assert np.abs(found - wanted).max() < 2e-5 * max(1.0, np.abs(everything).max())


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("format", ["float32", "bfloat16", "int8", "int4"])
def test_bits_do_not_depend_on_the_company(isa: str, format: str) -> None:
    if not usable(isa):
        pytest.skip(f"this processor has no {isa}")
    spec = encoder_spec(HEADS[4])
    work = [(length, rows) for length in LENGTHS for rows in ROWS]
    _, alone = build(spec, threads=1, format=format, isa=isa)
    expected = [together(alone, spec, [one])[0] for one in work]
    rng = np.random.default_rng(5)
    for threads in (1, 2, 3):
        _, model = build(spec, threads=threads, format=format, isa=isa)
        for _ in range(3):
            order = rng.permutation(len(work))
            found = together(model, spec, [work[i] for i in order])
            for i, logits in zip(order, found, strict=True):
                assert np.array_equal(logits, expected[i]), work[i]


@pytest.mark.parametrize(
    "head", [HEADS[0], *HEADS[2:]], ids=lambda head: "-".join(type(step).__name__ for step in head) or "none"
)
def test_a_decoder_with_such_a_head(head: tuple[HeadStep, ...]) -> None:
    """It scores a text by its last token, and writes nothing."""
    spec = replace(plain_spec(64), head=head, pool=Pool.LAST)
    if any(isinstance(step, Logits) and step.tied for step in head):
        spec = replace(spec, head=(Dense(64, bias=True), *head[1:]))
    w = weights(spec)
    _, model = build(spec, threads=2)
    ids = tokens(70)
    one = _core.Item(model.session(), ids, rows="last", logits=np.empty((1, spec.outputs), np.float32))
    _core.forward(model, [one])
    result = reference.forward(spec, w, ids.tolist())
    wanted = result.hidden[-1:] if result.logits is None else result.logits
    assert one.logits is not None and one.logits.shape == wanted.shape
    assert np.abs(one.logits - wanted).max() < 2e-5 * max(1.0, np.abs(wanted).max())
    writes = spec.logits is not None and spec.logits.outputs == 0
    if not writes:
        with pytest.raises(UnsupportedError, match="writes no text"):
            _core.Request(model.session(), ids, {"max_tokens": 1})


@pytest.mark.parametrize("rows", ["first", "mean", "listed"])
def test_a_decoder_gives_the_last_row_or_all(rows: str) -> None:
    spec = plain_spec(64)
    _, model = build(spec, threads=1)
    session, ids = model.session(), tokens(5)
    listed = np.array([1], np.int32) if rows == "listed" else None
    logits = np.empty((1, spec.outputs), np.float32)
    with pytest.raises(UnsupportedError, match="a decoder gives logits for the last token, or for all"):
        _core.forward(model, [_core.Item(session, ids, rows=rows, logits=logits, listed=listed)])
    assert session.length == 0


@pytest.mark.parametrize(
    ("head", "words"),
    [
        ((Activate(Activation.TANH), Logits(tied=True)), "activation follows no dense step"),
        ((LAYER_NORM, LAYER_NORM, Logits(tied=True)), "norm has no product behind it"),
        ((Dense(64), LAYER_NORM), "norm has no product behind it"),
        ((Logits(tied=True), Dense(3)), "logits must be last"),
    ],
)
def test_heads_that_no_operation_computes(head: tuple[HeadStep, ...], words: str) -> None:
    with pytest.raises(ModelFormatError, match=words):
        create(_core.Context(1), replace(plain_spec(64), head=head), "float32")


@pytest.mark.parametrize(
    ("layers", "words"),
    [
        ((Layer(repeats=1),), "repeats is not an earlier layer"),
        ((plain_spec().main.layers[0], Layer(repeats=3)), "repeats is not an earlier layer"),
        ((plain_spec().main.layers[0], Layer(repeats=1), Layer(repeats=2)), "repeats is not an earlier layer"),
        ((plain_spec().main.layers[0], replace(plain_spec().main.layers[0], repeats=1)), "stands beside sublayers"),
    ],
)
def test_layers_that_repeat_nothing(layers: tuple[Layer, ...], words: str) -> None:
    spec = plain_spec()
    with pytest.raises(ModelFormatError, match=words):
        create(_core.Context(1), replace(spec, decoder=Stack(layers, RMS)), "float32")


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("format", ["float32", "int8"])
def test_tokens_that_nothing_looks_at(isa: str, format: str) -> None:
    """The first tokens are as without the others, and each of the others as in any company of such."""
    if not usable(isa):
        pytest.skip(f"this processor has no {isa}")
    spec = encoder_spec()

    def states(model: _core.Model, ids: NDArray[np.int32], seen: int) -> NDArray[np.float32]:
        found = np.empty((len(ids), 64), np.float32)
        _core.forward(model, [_core.Item(model.session(), ids, rows="none", hidden=found, seen=seen)])
        return found

    for threads in (1, 3):
        _, model = build(spec, threads=threads, format=format, isa=isa)
        for n, more in ((1, 1), (7, 5), (70, 3), (250, 30)):
            ids, others = tokens(n + more), tokens(n + more)
            others[n:-1] = (others[n:-1] + 1) % 67
            found = states(model, ids, n)
            assert np.array_equal(found[:n], states(model, ids[:n], 0))
            assert np.array_equal(found[-1], states(model, others, n)[-1])
            assert not np.array_equal(found, states(model, ids, 0))
        with pytest.raises(ParameterError, match="n_seen"):
            states(model, tokens(4), 5)


def test_a_layer_without_sublayers_hands_on() -> None:
    """A table of vectors, as static embeddings are: the mean of rows, of any number of tokens."""
    spec = ModelSpec(67, 64, 1 << 20, encoder=Stack((Layer(), Layer(repeats=1))))
    w = weights(spec)
    for threads in (1, 3):
        _, model = build(spec, threads=threads)
        for length in (1, 70, 20_000):
            all_rows, mean = together(model, spec, [(length, "all"), (length, "mean")])
            wanted = w["embed.tokens"][tokens(length)]
            assert np.array_equal(all_rows, wanted.astype(np.float32))
            rounding = 2.0**-24 * (length + 1) * np.abs(wanted).mean(axis=0)  # of a sum in the order of the tokens
            assert (np.abs(mean - wanted.mean(axis=0)) <= rounding).all()
    assert np.array_equal(reference.forward(spec, w, [3, 5]).hidden, w["embed.tokens"][[3, 5]])


def test_a_narrow_embedding_needs_a_projection() -> None:
    spec = encoder_spec()
    with pytest.raises(ModelFormatError, match="narrow has no projection behind it"):
        create(_core.Context(1), replace(spec, width=0), "float32")


def test_not_a_number_in_a_head_is_found() -> None:
    spec = encoder_spec((Dense(31, bias=True),))
    model = create(_core.Context(2), spec, "float32")
    fill(model)
    for i, t in enumerate(model.tensors()):
        if t.name == "head.0.bias":
            model.load_rows(i, 0, np.full((1, 31), 3e38, np.float32))
        if t.name == "head.0":
            model.load_rows(i, 0, np.full((31, 64), 3e38, np.float32))
    model.finish()
    from fastlm.errors import NumericError

    with pytest.raises(NumericError):
        together(model, spec, [(5, "all")])
