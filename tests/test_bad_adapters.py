"""Folders that are no adapters, damaged ones, and such of other models: typed errors that name the culprit."""

from __future__ import annotations

import gc
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from adapter_folders import PREFIX, low_rank, save_adapter
from models import save_llama

import fastlm
from fastlm.errors import FastlmError, ModelFileError, ModelFormatError, ParameterError, UnsupportedError

Q = PREFIX + "model.layers.0.self_attn.q_proj"  # 48 x 48


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Iterator[fastlm.Model]:
    with fastlm.load(save_llama(tmp_path_factory.mktemp("model")), threads=1) as loaded:
        yield loaded


def pair(rows: int = 48, cols: int = 48, rank: int = 2) -> dict[str, np.ndarray]:
    return {Q + ".lora_A.weight": np.ones((rank, cols)), Q + ".lora_B.weight": np.ones((rows, rank))}


OPTIONS: list[tuple[dict[str, Any], type[FastlmError], str]] = [
    ({"peft_type": "LOHA"}, UnsupportedError, "peft_type = 'LOHA'"),
    ({"peft_type": "IA3"}, UnsupportedError, "peft_type = 'IA3'"),
    ({"peft_type": None}, ModelFormatError, "peft_type: expected a string"),
    ({"use_qalora": True}, UnsupportedError, "use_qalora = True"),
    ({"use_bdlora": {"nblocks": 2}}, UnsupportedError, "use_bdlora"),
    ({"arrow_config": {"top_k": 3}}, UnsupportedError, "arrow_config"),
    ({"kasa_config": {}}, UnsupportedError, "kasa_config"),
    ({"monteclora_config": {"num_samples": 8}}, UnsupportedError, "monteclora_config"),
    ({"velora_config": {"scale": 1}}, UnsupportedError, "velora_config"),
    ({"alora_invocation_tokens": [3]}, UnsupportedError, "alora_invocation_tokens"),
    ({"layer_replication": [[0, 2]]}, UnsupportedError, "layer_replication"),
    ({"target_parameters": ["mlp.experts.gate_up_proj"]}, UnsupportedError, "target_parameters"),
    ({"ensure_weight_tying": True}, UnsupportedError, "ensure_weight_tying"),
    ({"init_lora_weights": "pissa"}, UnsupportedError, "init_lora_weights = 'pissa'.*plain LoRA"),
    ({"init_lora_weights": "olora"}, UnsupportedError, "init_lora_weights"),
    ({"use_whatever": 1}, UnsupportedError, "unknown key 'use_whatever'"),
    ({"bias": "some"}, UnsupportedError, "bias = 'some'"),
    ({"r": 0}, ModelFormatError, "r: expected an integer from 1 to 4096"),
    ({"r": 10**6}, ModelFormatError, "r: expected an integer from 1 to 4096"),
    ({"r": True}, ModelFormatError, "r: expected an integer"),
    ({"r": 3}, ModelFormatError, "has rank 2, but adapter_config.json says 3"),
    ({"lora_alpha": "8"}, ModelFormatError, "lora_alpha: expected a number"),
    ({"lora_alpha": 0}, ModelFormatError, "lora_alpha: expected a number above 0"),
    ({"use_dora": True}, ModelFormatError, "lora_magnitude_vector and use_dora contradict"),
    ({"rank_pattern": {"(": 2}}, ModelFormatError, "is no regular expression"),
    ({"rank_pattern": {"(a+)+$": 2}}, UnsupportedError, "simpler pattern"),
    ({"rank_pattern": {"q_proj": 2.5}}, ModelFormatError, "q_proj: expected an integer"),
    ({"rank_pattern": {"q_proj": 4}}, ModelFormatError, "adapter_config.json says 4"),
    ({"alpha_pattern": [1]}, ModelFormatError, "alpha_pattern: expected an object"),
    ({"trainable_token_indices": ["x"]}, UnsupportedError, "trainable_token_indices"),
]


@pytest.mark.parametrize(("options", "error", "text"), OPTIONS, ids=lambda value: str(value)[:40])
def test_options(model: fastlm.Model, tmp_path: Path, options: Any, error: Any, text: str) -> None:
    save_adapter(tmp_path / "a", pair(), **options)
    with pytest.raises(error, match=text) as caught:
        model.load_adapter("a", tmp_path / "a")
    assert "adapter_" in str(caught.value)


NAN = np.ones((2, 48))
NAN[1, 7] = np.nan
LAYER = PREFIX + "model.layers.0."
TENSORS: list[tuple[dict[str, np.ndarray], type[FastlmError], str]] = [
    ({Q + ".lora_A.weight": np.ones((2, 48))}, ModelFormatError, "q_proj: has lora_a but no lora_b"),
    ({Q + ".lora_B.weight": np.ones((48, 2))}, ModelFormatError, "q_proj: has lora_b but no lora_a"),
    ({**pair(), Q + ".lora_A.weight": NAN}, ModelFormatError, r"lora_A\.weight: has a value that is NaN"),
    (pair(cols=40), ModelFormatError, r"q_proj: a has the shape \[2, 40\], but this model needs \[2, 48\]"),
    (pair(rows=47), ModelFormatError, r"q_proj: b has the shape \[47, 2\], but this model needs \[48, 2\]"),
    ({**pair(), Q + ".lora_B.weight": np.ones((48, 3))}, ModelFormatError, r"b has the shape \[48, 3\]"),
    ({**pair(), Q + ".lora_A.weight": np.ones(96)}, ModelFormatError, "has rank 96"),
    ({**pair(), "model.layers.0.x": np.ones(3)}, ModelFormatError, "model.layers.0.x: is no tensor of a LoRA"),
    ({**pair(), Q + ".hada_w1_a": np.ones((2, 2))}, ModelFormatError, "hada_w1_a: is no tensor of a LoRA"),
    (
        {name.replace("layers.0", "layers.7"): values for name, values in pair().items()},
        ModelFormatError,
        r"layers\.7\.self_attn\.q_proj: this model has no such module",
    ),
    (
        {**pair(), LAYER + "input_layernorm.weight": np.ones(47)},
        ModelFormatError,
        r"input_layernorm: weight has the shape \[47\], but this model needs \[48\]",
    ),
    ({**pair(), Q + ".lora_magnitude_vector": np.ones(48)}, ModelFormatError, "use_dora contradict"),
    ({}, ModelFormatError, "holds no tensors"),
    ({PREFIX + "model.embed_tokens.lora_A.weight": np.ones((2, 48)),
      PREFIX + "model.embed_tokens.lora_B.weight": np.ones((99, 2))}, UnsupportedError, "embed_tokens"),
    ({PREFIX + "model.embed_tokens.base_layer.weight": np.ones((99, 48))}, ModelFormatError, "another table"),
]  # fmt: skip


@pytest.mark.parametrize(("tensors", "error", "text"), TENSORS, ids=lambda value: str(value)[:40])
def test_tensors(model: fastlm.Model, tmp_path: Path, tensors: Any, error: Any, text: str) -> None:
    folder = save_adapter(tmp_path / "a", tensors, r=2)
    with pytest.raises(error, match=text) as caught:
        model.load_adapter("a", folder)
    assert "adapter_model.safetensors" in str(caught.value)
    with pytest.raises(ParameterError, match="none called 'a'"):
        model.generate([1], adapter="a")


def test_damaged_files(model: fastlm.Model, tmp_path: Path) -> None:
    """Cut anywhere, with any byte changed: an error of its own kind, or another adapter, but nothing else."""
    folder = save_adapter(tmp_path / "a", pair())
    file = folder / "adapter_model.safetensors"
    whole, rng = file.read_bytes(), np.random.default_rng(0)
    for cut in (0, 1, 8, 9, 100, len(whole) // 2, len(whole) - 1):
        file.write_bytes(whole[:cut])
        with pytest.raises(ModelFormatError, match=r"adapter_model\.safetensors"):
            model.load_adapter("a", folder)
    for _ in range(60):
        damaged = bytearray(whole)
        damaged[int(rng.integers(300))] ^= 1 << int(rng.integers(8))
        file.write_bytes(bytes(damaged))
        try:
            model.load_adapter("a", folder)
            model.unload_adapter("a")
        except FastlmError as error:
            assert "a" in str(error)
    file.write_bytes(whole)
    (folder / "adapter_config.json").write_text("{")
    with pytest.raises(ModelFormatError, match=r"adapter_config\.json"):
        model.load_adapter("a", folder)


def test_folders(model: fastlm.Model, tmp_path: Path) -> None:
    with pytest.raises(ModelFileError, match="not an adapter's folder"):
        model.load_adapter("a", tmp_path)
    with pytest.raises(ModelFileError, match="not an adapter's folder"):
        model.load_adapter("a", tmp_path / "missing")
    folder = save_adapter(tmp_path / "a", pair())
    (folder / "adapter_model.safetensors").rename(folder / "adapter_model.bin")
    with pytest.raises(UnsupportedError, match="pickle"):
        model.load_adapter("a", folder)
    (folder / "adapter_model.bin").unlink()
    with pytest.raises(ModelFileError, match=r"adapter_model\.safetensors"):
        model.load_adapter("a", folder)
    with pytest.raises(ParameterError, match="path"):
        model.load_adapter("a", "")
    with pytest.raises(ParameterError, match="scale"):
        model.load_adapter("a", folder, scale=float("nan"))


def test_nothing_is_left_behind(model: fastlm.Model, tmp_path: Path) -> None:
    """A hundred adapters that were refused, and a hundred that were unloaded, leave no memory and no open file."""
    good, bad = save_adapter(tmp_path / "good", low_rank(rank=64)), tmp_path / "bad"
    save_adapter(bad, {**low_rank(rank=64), Q + ".lora_B.weight": np.ones((47, 64))})

    def pages() -> int:
        gc.collect()
        return int(Path("/proc/self/statm").read_text().split()[1])

    def work(n: int) -> None:
        for _ in range(n):
            with pytest.raises(ModelFormatError):
                model.load_adapter("bad", bad)
            model.load_adapter("good", good)
            model.forward([1, 2, 3], adapter="good")
            model.unload_adapter("good")

    work(10)
    files, before = len(list(Path("/proc/self/fd").iterdir())), pages()
    work(100)
    assert len(list(Path("/proc/self/fd").iterdir())) == files
    assert (pages() - before) * 4096 < 100 * json.loads((good / "adapter_config.json").read_text())["r"] * 48 * 4 * 14
