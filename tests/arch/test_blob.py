"""The blob of a spec: read back it is the same spec, and no other bytes are taken for one."""

from __future__ import annotations

import json
import random
import struct
import tracemalloc
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastlm.arch import blob, registry, spec
from fastlm.arch.blob import Record
from fastlm.arch.spec import (
    Activate,
    Activation,
    Attention,
    Dense,
    Embed,
    FeedForward,
    Layer,
    Logits,
    MixtureOfExperts,
    ModelSpec,
    Norm,
    NormKind,
    NormSpan,
    RelativeBias,
    Rope,
    Source,
    Stack,
    Sublayer,
    decode,
    encode,
)
from fastlm.errors import FastlmError, ModelFormatError, UnsupportedError

PUBLISHED = json.loads(Path(__file__).with_name("published.json").read_text())

words = st.integers(0, 2**32 - 1)
numbers = st.floats(allow_nan=False, width=32)
singles = st.lists(numbers, max_size=5).map(tuple)
norms = st.none() | st.builds(Norm, st.sampled_from(NormKind), numbers, st.booleans(), st.booleans())
ropes = st.none() | st.builds(Rope, singles, numbers, words, singles, numbers)
activations = st.sampled_from(Activation)
mixers = st.one_of(
    st.builds(
        Attention,
        *(words, words, words, numbers, ropes, st.booleans(), words, numbers, st.booleans(), st.booleans()),
        *(norms, norms, st.sampled_from(NormSpan), singles, st.booleans(), st.sampled_from(Source)),
    ),
    st.builds(FeedForward, words, activations, st.booleans(), st.booleans(), st.booleans()),
    st.builds(MixtureOfExperts, words, words, words, activations, st.booleans()),
)
layers = st.builds(Layer, st.lists(st.builds(Sublayer, mixers, norms, norms, norms, numbers), max_size=3).map(tuple))
stacks = st.none() | st.builds(
    Stack,
    st.lists(layers, max_size=3).map(tuple),
    norms,
    st.none() | st.builds(RelativeBias, words, words, words, st.booleans()),
    st.builds(Embed, numbers, words, words, norms),
)
steps = st.one_of(
    st.builds(Dense, words, st.booleans()),
    st.builds(Activate, activations),
    norms.filter(bool),
    st.builds(Logits, st.booleans(), words, st.booleans(), numbers, numbers),
)
specs = st.builds(ModelSpec, words, words, words, words, stacks, stacks, st.lists(steps, max_size=4).map(tuple))


@settings(max_examples=300, deadline=None)
@given(specs)
def test_a_spec_is_what_its_blob_says(value: ModelSpec) -> None:
    data = encode(value)
    assert decode(data) == value and encode(decode(data)) == data


def test_families_are_what_their_blobs_say(golden_specs: list[ModelSpec]) -> None:
    published = [registry.read(model["config"]).spec for model in PUBLISHED.values()]
    for value in (*golden_specs, *published):
        assert decode(encode(value)) == value


def test_numbers_are_those_of_the_blob() -> None:
    """A spec holds what C computes with: 0.1 as a float32."""
    single = struct.unpack("<f", struct.pack("<f", 0.1))[0]
    assert Embed(scale=0.1).scale == single != 0.1
    assert Rope((0.1, 1)).frequencies == (single, 1.0)


def small() -> bytes:
    attention = Attention(2, 1, 4, 0.5, Rope((1.0, 0.5)), alibi=(0.5, 0.25), q_norm=Norm(NormKind.RMS, 1e-5))
    layer = Layer((Sublayer(attention), Sublayer(FeedForward(8, Activation.SILU))))
    return encode(ModelSpec(9, 8, 16, decoder=Stack((layer,)), head=(Dense(4), Logits(tied=False))))


def test_other_bytes_are_refused() -> None:
    data = small()
    for other in (b"", data[:4], data[:-1], data[:-4], data + bytes(4), data + b"x", b"x" * 64):
        with pytest.raises(ModelFormatError, match="spec: "):
            decode(other)


def test_another_version_is_refused() -> None:
    with pytest.raises(UnsupportedError, match=r"spec: version 1; this fastlm reads version 2: convert again"):
        decode(struct.pack("<3I", spec.SPEC_MAGIC, 1, 64) + bytes(52))


def test_any_word_changed_gives_a_spec_or_an_error() -> None:
    data, rng, outcomes = small(), random.Random(1), {"read": 0, "refused": 0}
    for at in range(8, len(data), 4):
        for word in (0, 1, 2, 7, 2**31, 2**32 - 1, rng.randrange(2**32)):
            other = data[:at] + struct.pack("<I", word) + data[at + 4 :]
            try:
                found = encode(decode(other))
                assert encode(decode(found)) == found
                outcomes["read"] += 1
            except (ModelFormatError, UnsupportedError) as error:
                assert str(error).startswith("spec: ")
                outcomes["refused"] += 1
    assert min(outcomes.values()) > 50


@pytest.mark.parametrize("count", [2**32 - 1, 2**20, 16384])
def test_counts_make_no_memory(count: int) -> None:
    """A list has at most as many elements as words are left."""
    data = small()
    tracemalloc.start()
    for at in range(8, len(data), 4):
        with suppress(FastlmError):
            decode(data[:at] + struct.pack("<I", count) + data[at + 4 :])
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1 << 20


# ---- records of other versions ----


@dataclass(frozen=True, slots=True)
class Old(Record):
    a: int
    b: float


@dataclass(frozen=True, slots=True)
class New(Record):
    a: int
    b: float
    c: tuple[float, ...] = ()
    d: Norm | None = None
    e: bool = False


def recoded(value: Any, kind: type) -> Any:
    return blob.decode(blob.encode(value, type(value)), kind)


def test_a_further_field_keeps_files_of_both_ages_readable() -> None:
    assert recoded(Old(1, 0.5), New) == New(1, 0.5)
    assert recoded(New(1, 0.5), Old) == Old(1, 0.5)


@pytest.mark.parametrize("used", [{"c": (1.0,)}, {"d": Norm(NormKind.RMS, 0.0)}, {"e": True}])
def test_a_further_field_that_says_something_is_not_passed_over(used: dict[str, Any]) -> None:
    with pytest.raises(UnsupportedError, match="Old has a field that this fastlm does not know: update it"):
        recoded(replace(New(1, 0.5), **used), Old)


def test_what_a_later_version_added_is_named() -> None:
    data = blob.encode(Activate(Activation.TANH), Activate)
    with pytest.raises(UnsupportedError, match="Activation has a member 99"):
        blob.decode(data[:-4] + struct.pack("<I", 99), Activate)
    data = blob.encode(Dense(3), spec.HeadStep)
    with pytest.raises(UnsupportedError, match="Dense has an alternative 9"):
        blob.decode(data[:4] + struct.pack("<I", 9) + data[8:], spec.HeadStep)
