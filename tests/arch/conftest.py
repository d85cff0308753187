"""The golden models (tests/golden) as the tests of this folder see them."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from fastlm import reference
from fastlm.arch import registry
from fastlm.arch.spec import ModelSpec
from fastlm.weights.bind import bind
from fastlm.weights.safetensors import Checkpoint

FOLDER = Path(__file__).parents[1] / "golden"
NAMES = sorted(file.parent.name for file in FOLDER.glob("*/config.json"))
DIALECTS = {"classic": "config.json", "v5": "config.v5.json"}


@dataclass
class Golden:
    """One golden folder: what transformers computed, and the same model as spec and float64 weights."""

    name: str

    @property
    def folder(self) -> Path:
        return FOLDER / self.name

    @cached_property
    def config(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self.folder / "config.json").read_text())
        return found

    @cached_property
    def expected(self) -> dict[str, NDArray[np.float32] | NDArray[np.int32]]:
        with np.load(self.folder / "expected.npz") as file:
            return dict(file)

    @cached_property
    def classic(self) -> tuple[ModelSpec, dict[str, NDArray[np.float64]]]:
        return self.bound("classic")

    def bound(self, dialect: str) -> tuple[ModelSpec, dict[str, NDArray[np.float64]]]:
        file = self.folder / DIALECTS[dialect]
        family = registry.read(json.loads(file.read_text()), file)
        with Checkpoint(self.folder / "model.safetensors") as checkpoint:
            binding = bind(family, checkpoint)
            return binding.spec, {slot: source.array64() for slot, source in binding.items()}

    @property
    def output(self) -> str:
        return "hidden" if "hidden" in self.expected else "logits"

    @property
    def prompts(self) -> list[str]:
        """Suffixes of the stored prompts' names."""
        return ["", "_long"] if "ids_long" in self.expected else [""]

    def exact(self, prompt: str = "") -> NDArray[np.float64]:
        """The output of transformers' float64 model."""
        return self.expected[self.output + prompt].astype(np.float64) + self.expected[f"{self.output}_low{prompt}"]

    def inputs(self, prompt: str = "") -> dict[str, list[int]]:
        """The forward pass's ids, and decoder_ids or token_types where the model has them."""
        names = ("ids", "decoder_ids", "token_types")
        return {name: self.expected[name + prompt].tolist() for name in names if name + prompt in self.expected}

    def run(
        self, spec: ModelSpec, weights: dict[str, NDArray[np.float64]], prompt: str = "", states: bool = False
    ) -> reference.Result:
        """The reference's pass over a prompt."""
        inputs = self.inputs(prompt)
        ids = inputs.pop("ids")
        long = prompt == "_long"
        return reference.forward(spec, weights, ids, long_rope=long, attentions=states, hidden_states=states, **inputs)

    def error(self, result: object, prompt: str = "") -> float:
        """max |difference| of a result's logits (an encoder's hidden state) in standard deviations of the output."""
        exact = self.exact(prompt)
        return float(np.abs(getattr(result, self.output) - exact).max() / exact.std())


@pytest.fixture(scope="module", params=NAMES)
def golden(request: pytest.FixtureRequest) -> Golden:
    return Golden(request.param)


@pytest.fixture(scope="session")
def named_golden() -> type[Golden]:
    """Golden by name, for tests of a single one."""
    return Golden


@pytest.fixture(scope="session")
def golden_specs() -> list[ModelSpec]:
    return [Golden(name).classic[0] for name in NAMES]
