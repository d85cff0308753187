"""Adapters that PEFT wrote (tests/golden/adapters) against what PEFT computes with them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import fastlm
from fastlm.errors import UnsupportedError

FOLDER = Path(__file__).parents[1] / "golden"
NAMES = sorted(file.parent.name for file in FOLDER.glob("adapters/*/adapter_config.json"))
CLOSE = 1e-4  # of the outputs' standard deviation
WITHOUT_BASE_BIAS = ("llama_lora_bias",)  # cannot be merged, in PEFT neither


class Case:
    def __init__(self, name: str) -> None:
        self.folder = FOLDER / "adapters" / name
        config = json.loads((self.folder / "adapter_config.json").read_text())
        self.base = FOLDER / config["base_model_name_or_path"]
        with np.load(self.folder / "expected.npz") as file:
            self.expected = dict(file)
        self.output = "hidden" if "hidden" in self.expected else "logits"
        self.exact = self.expected[self.output].astype(np.float64) + self.expected[self.output + "_low"]

    def run(self, model: fastlm.Model, adapter: str | None = None) -> NDArray[np.float32]:
        names = {"ids": "ids", "decoder_ids": "decoder_ids", "token_types": "token_type_ids"}
        inputs: dict[str, Any] = {names[k]: v.tolist() for k, v in self.expected.items() if k in names}
        return np.asarray(getattr(model.forward(inputs.pop("ids"), adapter=adapter, **inputs), self.output))

    def error(self, found: NDArray[np.float32]) -> float:
        """Root mean square, in standard deviations."""
        return float(np.sqrt(np.mean((found - self.exact) ** 2)) / self.exact.std())


@pytest.fixture(params=NAMES)
def case(request: pytest.FixtureRequest) -> Case:
    return Case(request.param)


def test_equals_peft(case: Case) -> None:
    with fastlm.load(case.base, dtype="float32", threads=2) as model:
        plain = case.run(model)
        model.load_adapter("a", case.folder)
        found = case.run(model, "a")
        assert found.shape == case.exact.shape
        assert np.abs(found - case.exact).max() < CLOSE * case.exact.std()
        assert np.abs(plain - case.exact).max() > 0.1 * case.exact.std()
        assert np.array_equal(case.run(model), plain)


def test_merges_as_peft(case: Case) -> None:
    with fastlm.load(case.base, dtype="float32", threads=2) as model:
        model.load_adapter("a", case.folder)
        if case.folder.name in WITHOUT_BASE_BIAS:
            with pytest.raises(UnsupportedError, match="adds a bias"):
                model.merge_adapter("a")
            return
        model.merge_adapter("a")
        assert np.abs(case.run(model) - case.exact).max() < CLOSE * case.exact.std()


@pytest.mark.parametrize("dtype", ["int8", "int4"])
def test_quantised_bases_are_as_near_as_without(dtype: str) -> None:
    """On average over all cases no farther from PEFT than the model is from its own float32, and nowhere much."""
    ratios = []
    for case in map(Case, NAMES):
        with (
            fastlm.load(case.base, dtype="float32", threads=2) as exact,
            fastlm.load(case.base, dtype=dtype, threads=2) as model,
        ):
            wanted = case.run(exact)
            base = float(np.sqrt(np.mean((case.run(model) - wanted) ** 2)) / wanted.std())
            model.load_adapter("a", case.folder)
            ratios.append(case.error(case.run(model, "a")) / base)
    assert len(ratios) > 20 and np.exp(np.log(ratios).mean()) < 1 and max(ratios) < 1.5
