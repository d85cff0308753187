"""Forms of a model: what loading asks of each is `ModelSource`, and a further form needs nothing but that."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from models import TINY, random_weights, save_llama

import fastlm
from fastlm import loading
from fastlm.arch import registry
from fastlm.saving import save
from fastlm.weights.bind import bind
from fastlm.weights.folder import CheckpointFolder
from fastlm.weights.locate import locate
from fastlm.weights.packed import PackedFile
from fastlm.weights.source import Builder, Built, ModelSource

PROMPT = [5, 6, 7]


class Arrays:
    """Weights of a program's own, as binding reads a checkpoint."""

    def __init__(self, weights: Mapping[str, Any]) -> None:
        self.weights = weights

    def names(self) -> list[str]:
        return list(self.weights)

    def info(self, name: str) -> tuple[str, tuple[int, ...]]:
        return "float32", self.weights[name].shape

    def read(self, name: str, start_row: int = 0, stop_row: int | None = None) -> Any:
        return self.weights[name][start_row:stop_row]

    def where(self, name: str) -> str:
        return "memory"


class InMemory(ModelSource):
    """A form of model that fastlm does not have."""

    path = Path("memory")

    def describe(self, name: str) -> str:
        return f"{self.path}: {name}"

    def read(self, name: str) -> bytes | None:
        return json.dumps(TINY.config()).encode() if name == "config.json" else None

    def build(self, config: Mapping[str, object], builder: Builder[Built]) -> Built:
        return builder.pack(bind(registry.read(config, self.describe("config.json")), Arrays(random_weights(TINY))))


def logits(model: fastlm.Model) -> bytes:
    found = model.forward(PROMPT).logits
    assert found is not None
    return found.tobytes()


def test_forms_of_one_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, packed = save_llama(tmp_path / "folder"), tmp_path / "model.flm"
    with fastlm.load(folder) as model:
        expected = logits(model)
        save(model, packed)
    assert isinstance(locate(folder), CheckpointFolder) and isinstance(locate(packed), PackedFile)
    with fastlm.load(packed) as model:
        assert logits(model) == expected
    monkeypatch.setattr(loading, "locate", lambda path: InMemory())
    with fastlm.load("anything") as model:
        assert logits(model) == expected


def test_small_files_of_each_form(tmp_path: Path) -> None:
    folder, packed = save_llama(tmp_path / "folder"), tmp_path / "model.flm"
    (folder / "generation_config.json").write_text("[]")
    with pytest.raises(fastlm.ModelFormatError, match=r"folder/generation_config\.json: expected a JSON object"):
        fastlm.load(folder)
    (folder / "generation_config.json").write_text('{"temperature": 0.5}')
    with fastlm.load(folder) as model:
        save(model, packed)
    for source in (locate(folder), locate(packed)):
        assert source.config() == TINY.config()
        assert source.read_json("generation_config.json") == {"temperature": 0.5}
        assert source.read("tokenizer.json") is None
