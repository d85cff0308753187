"""Configs as published, and the parameter counts that their makers publish: an oracle for specs and slots.

published.json holds, per model, the count, the classic config, and what changes when transformers v5 writes it.
"""

import json
from pathlib import Path
from typing import Any

import pytest

from fastlm.arch import registry
from fastlm.arch.slots import slots

MODELS: dict[str, dict[str, Any]] = json.loads(Path(__file__).with_name("published.json").read_text())


@pytest.mark.parametrize("name", MODELS)
def test_parameter_count(name: str) -> None:
    model = MODELS[name]
    family = registry.read(model["config"], f"{name}/config.json")
    count = sum(slot.rows * slot.cols for slot in slots(family.spec))
    assert count == model.get("ours", model["parameters"]), model.get("because", "")


@pytest.mark.parametrize("name", MODELS)
def test_both_dialects_say_the_same(name: str) -> None:
    classic, v5 = MODELS[name]["config"], MODELS[name]["v5"]
    other = {key: value for key, value in classic.items() if key not in v5["without"]} | v5["with"]
    assert other != classic
    assert registry.read(other).spec == registry.read(classic).spec


def test_every_family_is_published() -> None:
    assert {model["config"]["model_type"] for model in MODELS.values()} == set(registry.FAMILIES)
