"""fastlm finetune: all weights and adapters learn, and load in transformers, peft and fastlm alike."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from train.toy import recipe, write_corpus

import fastlm
from fastlm.errors import ParameterError, UnsupportedError
from fastlm.train.finetune import finetune
from fastlm.train.recipe import Lora, Recipe

GOLDEN = Path(__file__).parents[1] / "golden"


def bits(folder: Path) -> list[float]:
    log = json.loads((folder / "training.json").read_text())["log"]
    return [entry["bits_per_byte"]["all"] for entry in log]


def tuning(**changes: object) -> Recipe:
    return recipe(**{"steps": 60, "optimizer": "adamw", "lr": 3e-3, **changes})


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Stories in which things are lost."""
    return write_corpus(tmp_path_factory.mktemp("other") / "other.txt", verb="lost")


def test_all_weights(trained: Path, other: Path, tmp_path: Path) -> None:
    out = finetune(trained, [other], tmp_path / "out", recipe=tuning())
    before, after = bits(out)
    assert after < before - 0.05
    ids = list(range(5, 40))
    expected = transformers.AutoModelForCausalLM.from_pretrained(out)(torch.tensor([ids])).logits[0].detach().numpy()
    with fastlm.load(out) as model:
        assert np.abs(model.forward(ids).logits - expected).max() < 1e-4 * expected.std()
        assert " lost a " in model.generate("One day Tom", temperature=0, max_tokens=30).text


@pytest.mark.parametrize("settings", [{"do_sample": False}, {"do_sample": True, "temperature": 1.5, "top_k": 7}, {}])
def test_settings_of_generation_stay(trained: Path, other: Path, tmp_path: Path, settings: dict[str, object]) -> None:
    """Those of the model that is tuned on; where it has none, it samples."""
    base = tmp_path / "base"
    shutil.copytree(trained, base)
    (base / "generation_config.json").write_text(json.dumps({"eos_token_id": 0, **settings}))
    out = finetune(base, [other], tmp_path / "out", recipe=tuning(steps=1))
    found = json.loads((out / "generation_config.json").read_text())
    expected = settings or {"do_sample": True, "temperature": 0.7, "top_p": 0.95}
    assert {name: found.get(name) for name in expected} == expected
    assert set(found) & {"temperature", "top_k", "top_p"} == set(expected) - {"do_sample"}


@pytest.mark.parametrize("targets", ["all-linear", "q_proj, v_proj"])
def test_an_adapter(trained: Path, other: Path, tmp_path: Path, targets: str) -> None:
    peft = pytest.importorskip("peft")
    lora = Lora(rank=4, targets=targets, merge=True)
    out = finetune(trained, [other], tmp_path / "out", lora=lora, recipe=tuning(lr=1e-2))
    before, after = bits(out)
    assert after < before - 0.02
    config = json.loads((out / "adapter_config.json").read_text())
    assert config["r"] == 4 and (out / "adapter_model.safetensors").is_file() and not (out / "config.json").exists()
    assert "with an adapter of rank 4" in (out / "README.md").read_text()

    base = transformers.AutoModelForCausalLM.from_pretrained(trained)
    ids = list(range(5, 40))
    with torch.no_grad():
        plain = base(torch.tensor([ids])).logits[0].numpy()
        expected = peft.PeftModel.from_pretrained(base, out)(input_ids=torch.tensor([ids])).logits[0].numpy()
    assert np.abs(expected - plain).max() > 0.1 * expected.std()
    with fastlm.load(out / "merged") as model:
        assert np.abs(model.forward(ids).logits - expected).max() < 1e-4 * expected.std()
    with fastlm.load(trained) as model:
        model.load_adapter("tuned", out)
        assert np.abs(model.forward(ids, adapter="tuned").logits - expected).max() < 1e-4 * expected.std()
        model.merge_adapter("tuned")
        assert np.abs(model.forward(ids).logits - expected).max() < 1e-4 * expected.std()


def test_only_the_adapter_learns(trained: Path, other: Path, tmp_path: Path) -> None:
    pytest.importorskip("peft")
    before = (trained / "model.safetensors").read_bytes()
    out = finetune(trained, [other], tmp_path / "out", lora=Lora(rank=2), recipe=tuning(steps=2))
    assert (trained / "model.safetensors").read_bytes() == before
    assert (out / "adapter_model.safetensors").stat().st_size < len(before)


def test_a_model_with_two_special_tokens(stories260k: Path, other: Path, tmp_path: Path) -> None:
    pytest.importorskip("peft")
    for name, lora in (("full", None), ("lora", Lora(merge=True))):
        out = finetune(stories260k, [other], tmp_path / name, lora=lora, recipe=tuning(length=128, lr=2e-3))
        before, after = bits(out)
        assert after < before / 2
        with fastlm.load(out if lora is None else out / "merged") as model:
            done = model.generate("One day Tom", temperature=0, max_tokens=100)
            assert " lost a " in done.text and done.finish_reason == "stop"


def test_what_cannot_be_tuned(trained: Path, other: Path, tmp_path: Path) -> None:
    with pytest.raises(UnsupportedError, match="the model must be a decoder"):
        finetune(GOLDEN / "bert", [other], tmp_path / "out")
    pytest.importorskip("peft")
    with pytest.raises(ParameterError, match="targets"):
        finetune(trained, [other], tmp_path / "out", lora=Lora(targets="nothing_proj"), recipe=tuning())
    with pytest.raises(ParameterError, match="rank"):
        Lora(rank=0)
    assert not (tmp_path / "out").exists()
