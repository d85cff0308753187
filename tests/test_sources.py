"""Forms of a model: what loading asks of each is `ModelSource`, and a further form needs nothing but that."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import pytest
from models import TINY, add_byte_tokenizer, byte_shape, random_weights, save_llama

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


def gone(path: Path) -> None:
    path.unlink()


def another(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b" ")


def replaced(path: Path) -> None:
    """By one of the same bytes: that they are the same is not looked into."""
    copy = path.with_name("copy")
    copy.write_bytes(path.read_bytes())
    copy.replace(path)


@pytest.mark.parametrize("change", [gone, another, replaced])
@pytest.mark.parametrize(
    "name", ["config.json", "tokenizer.json", "generation_config.json", "additional_chat_templates/a.jinja"]
)
def test_small_files_that_change_after_loading(tmp_path: Path, name: str, change: Callable[[Path], None]) -> None:
    """What is saved is what was loaded: never the weights of one model with the words of another."""
    folder, packed = save_llama(tmp_path / "folder", byte_shape(end=True)), tmp_path / "m.flm"
    add_byte_tokenizer(folder, end=True)
    (folder / "additional_chat_templates").mkdir()
    (folder / "additional_chat_templates/a.jinja").write_text("{{ messages }}")
    with fastlm.load(folder) as model:
        save(model, packed)
        before = packed.read_bytes()
        change(folder / name)
        with pytest.raises(fastlm.ModelFileError, match=f"{name.partition('/')[0]}.* was changed .* load it again"):
            save(model, packed)
    assert packed.read_bytes() == before


def test_small_files_that_come_after_loading(tmp_path: Path) -> None:
    folder, packed = save_llama(tmp_path / "folder", byte_shape()), tmp_path / "m.flm"
    with fastlm.load(folder) as model:
        add_byte_tokenizer(folder)
        with pytest.raises(fastlm.ModelFileError, match=r"tokenizer\.json: was changed"):
            save(model, packed)
    assert not packed.exists()


def with_templates(folder: Path, names: Iterable[bytes]) -> Path:
    save_llama(folder)
    (folder / "additional_chat_templates").mkdir()
    try:
        for name in names:
            (folder / "additional_chat_templates" / os.fsdecode(name + b".jinja")).write_text("x")
    except OSError:
        pytest.skip("this file system has names in UTF-8 only")
    return folder


@pytest.mark.parametrize(
    ("names", "words"),
    [([b"\xff"], r"out\.flm: .*\\udcff\.jinja' is not UTF-8"), ([b"%d" % i for i in range(60)], r"out\.flm: .* 60 ")],
    ids=["not UTF-8", "too many"],
)
def test_templates_that_cannot_be_saved(tmp_path: Path, names: list[bytes], words: str) -> None:
    folder = with_templates(tmp_path / "folder", names)
    with fastlm.load(folder) as model, pytest.raises(fastlm.ModelFormatError, match=words):
        save(model, tmp_path / "out.flm")
    assert not (tmp_path / "out.flm").exists()
