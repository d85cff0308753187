"""Every family against what transformers computes: the reference first, then the C engine."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from greedy import write_greedily

import fastlm

EXACT = 1e-6  # of the outputs' standard deviation: the reference against the float64 model
CLOSE = 1e-4  # any float32 computation
NEAR = 1e-5  # of probabilities of attention
ROUNDED = 0.02  # matrices and activations in bfloat16 or float16


@pytest.mark.parametrize("dialect", ["classic", "v5"])
def test_reference_equals_transformers(golden: Any, dialect: str) -> None:
    spec, weights = golden.bound(dialect)
    for prompt in golden.prompts:
        result = golden.run(spec, weights, prompt)
        assert golden.error(result, prompt) < EXACT
        single = golden.expected[golden.output + prompt]
        assert np.abs(getattr(result, golden.output) - single).max() < CLOSE * single.std()


def test_dialects_give_one_spec(golden: Any) -> None:
    assert golden.bound("classic")[0] == golden.bound("v5")[0]


def test_reference_writes_what_transformers_writes(golden: Any) -> None:
    spec, weights = golden.classic
    if "greedy" not in golden.expected:
        pytest.skip("it writes nothing")
    for prompt in golden.prompts:
        greedy = golden.expected["greedy" + prompt].tolist()
        ids = golden.inputs(prompt)["ids"]
        start = golden.inputs(prompt).get("decoder_ids", [])[:1]
        long = prompt == "_long"
        assert write_greedily(spec, weights, ids, len(greedy), decoder_ids=start, long_rope=long) == greedy
        assert len(set(greedy)) >= 6


def test_reference_states_equal_transformers(golden: Any) -> None:
    if "attentions" not in golden.expected:
        pytest.skip("this golden holds no states")
    result = golden.run(*golden.classic, states=True)
    check_states(golden, result.attentions, result.hidden_states)


def check_states(golden: Any, attentions: Any, hidden_states: Any) -> None:
    """Attention probabilities and hidden states by transformers' conventions, in float32."""
    assert np.shape(attentions) == golden.expected["attentions"].shape
    assert np.abs(np.array(attentions) - golden.expected["attentions"]).max() < NEAR
    assert np.shape(hidden_states) == golden.expected["hidden_states"].shape
    for found, expected in zip(hidden_states, golden.expected["hidden_states"], strict=True):
        assert np.abs(found - expected).max() < CLOSE * expected.std()


@pytest.fixture(params=["classic", "v5"])
def folder(golden: Any, request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """The golden's folder with its config.json in either dialect."""
    if request.param == "classic":
        return Path(golden.folder)
    (tmp_path / "model.safetensors").symlink_to(golden.folder / "model.safetensors")
    (tmp_path / "config.json").write_bytes((golden.folder / "config.v5.json").read_bytes())
    return tmp_path


def load(folder: Path, dtype: str) -> Any:
    import fastlm

    return fastlm.load(folder, dtype=dtype, threads=2)


@pytest.fixture
def model(folder: Path) -> Iterator[Any]:
    with load(folder, "float32") as loaded:
        yield loaded


def run(model: Any, golden: Any, prompt: str = "", **wanted: bool) -> Any:
    inputs = golden.inputs(prompt)
    if "token_types" in inputs:
        inputs["token_type_ids"] = inputs.pop("token_types")
    return model.forward(inputs.pop("ids"), **inputs, **wanted)


def test_engine_equals_transformers(golden: Any, model: Any) -> None:
    assert model.kind == golden.classic[0].kind
    for prompt in golden.prompts:
        found = getattr(run(model, golden, prompt), golden.output)
        assert found.dtype == np.float32
        expected = golden.expected[golden.output + prompt]
        assert found.shape == expected.shape
        assert np.abs(found - expected).max() < CLOSE * expected.std()


def test_engine_writes_what_transformers_writes(golden: Any, model: Any) -> None:
    if "greedy" not in golden.expected:
        pytest.skip("an encoder writes nothing")
    plain = fastlm.Model(replace(model.engine, defaults={}))  # beams and bans of the config are tests of their own
    for prompt in golden.prompts:
        greedy = golden.expected["greedy" + prompt].tolist()
        written = plain.generate(golden.inputs(prompt)["ids"], temperature=0, max_tokens=len(greedy), ignore_eos=True)
        assert list(written.token_ids) == greedy
        assert written.finish_reason == "length"


def test_engine_states_equal_transformers(golden: Any) -> None:
    if "attentions" not in golden.expected:
        pytest.skip("this golden holds no states")
    with load(golden.folder, "float32") as model:
        outputs = run(model, golden, attentions=True, hidden_states=True)
    check_states(golden, outputs.attentions, outputs.hidden_states)
    for name in ("encoder_attentions", "cross_attentions"):
        found, expected = getattr(outputs, name), golden.expected.get(name)
        assert (found is None) == (expected is None) == (model.kind != "encoder-decoder")
        assert found is None or np.abs(np.array(found) - expected).max() < NEAR


@pytest.mark.parametrize("dtype", ["auto", "bfloat16", "float16"])
def test_engine_in_other_types_is_near(golden: Any, dtype: str) -> None:
    with load(golden.folder, dtype) as model:
        for prompt in golden.prompts:
            assert 0 < golden.error(run(model, golden, prompt), prompt) < ROUNDED


def test_long_factors_hold_as_soon_as_a_text_needs_them(named_golden: Any) -> None:
    """As in transformers' generate, which computes all keys again when the text outgrows the original context."""
    golden = named_golden("phi3_longrope")
    spec, weights = golden.classic
    ids, crossing = list(golden.inputs()["ids"]), 20
    original = golden.config["original_max_position_embeddings"]
    assert len(ids) < original < len(ids) + crossing
    text = list(ids)
    for _ in range(crossing):
        text += write_greedily(spec, weights, np.array(text), 1, long_rope=len(text) > original)
    greedy = text[len(ids) :]
    assert greedy not in [write_greedily(spec, weights, ids, crossing, long_rope=long) for long in (False, True)]
    with load(golden.folder, "float32") as model:
        assert list(model.generate(ids, temperature=0, max_tokens=crossing, ignore_eos=True).token_ids) == greedy
