"""Absurd values in the place of every key of every family's config: a typed error that names the key, or a model."""

import copy
import json
import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from fastlm.arch import registry
from fastlm.arch.config import MAX_LAYERS
from fastlm.arch.slots import slots
from fastlm.arch.spec import encode
from fastlm.errors import FastlmError, ModelFormatError

Json = dict[str, Any]
PUBLISHED = json.loads(Path(__file__).with_name("published.json").read_text())
ABSURD: list[Any] = [-1, 0, 1, 2**31, 2**63, 10**5000, "x", "", None, [], {}, [[]], 1.5, -0.0, 1e308]
ABSURD += [math.nan, math.inf, -math.inf, True, False, ["x"], {"x": {}}]
# Keys whose change shows in another one: the error may name that one instead.
ELSEWHERE = ("head_dim", "short_factor", "relative_attention", "num_key_value_heads", "rope", "layer_types")


def places(config: Json, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    for key, value in config.items():
        yield (*path, key)
        if isinstance(value, dict) and key.startswith("rope"):
            yield from places(value, (*path, key))


@pytest.mark.parametrize("name", PUBLISHED)
@pytest.mark.parametrize("dialect", ["classic", "v5"])
def test_absurd_values(name: str, dialect: str) -> None:
    config: Json = PUBLISHED[name]["config"]
    v5 = PUBLISHED[name]["v5"]
    if dialect == "v5":
        config = {key: value for key, value in config.items() if key not in v5["without"]} | v5["with"]
    refused = 0
    for *parents, key in places(config):
        for value in ABSURD:
            changed = copy.deepcopy(config)
            inner = changed
            for parent in parents:
                inner = inner[parent]
            inner[key] = value
            try:
                spec = registry.read(changed).spec
            except FastlmError as error:
                refused += 1
                assert key in str(error) or any(word in str(error) for word in ELSEWHERE), (key, value)
                assert len(str(error)) < 1000
                continue
            assert spec.context >= 1 and encode(spec)
    assert refused > 100


def test_the_largest_numbers_are_quick() -> None:
    spec = registry.read({"model_type": "llama", "num_hidden_layers": MAX_LAYERS}).spec
    assert sum(1 for _ in slots(replace(spec, head=()))) == 9 * MAX_LAYERS + 2
    experts = {"model_type": "mixtral", "num_hidden_layers": MAX_LAYERS, "num_local_experts": 4096}
    with pytest.raises(ModelFormatError, match="tensors"):
        list(slots(registry.read(experts).spec))
