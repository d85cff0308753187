"""What load() refuses of a good checkpoint: heads that it would drop, contexts that the model was not made for."""

from __future__ import annotations

import json
import struct
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from models import TINY, random_weights, save_checkpoint, save_llama
from refusals import refused
from safetensors_files import entry, pack

import fastlm
from fastlm.errors import ModelFileError, ParameterError, UnsupportedError
from fastlm.saving import save

GOLDEN = Path(__file__).with_name("golden")
WEIGHTS = "model.safetensors"

# ---- heads of other tasks -------------------------------------------------------------------------------------------

BERT_HEADS = ["cls.predictions.bias", "cls.seq_relationship.weight", "classifier.weight", "qa_outputs.weight"]


def with_tensor(folder: Path, family: str, name: str, **config: Any) -> Path:
    """A golden's model with one tensor more."""
    stored = {**json.loads((GOLDEN / family / "config.json").read_text()), **config}
    (folder / "config.json").write_text(json.dumps(stored))
    content = (GOLDEN / family / WEIGHTS).read_bytes()
    start = 8 + struct.unpack_from("<Q", content)[0]
    header, data = json.loads(content[8:start]), content[start:]
    header[name] = entry("F32", [2, 2], len(data), len(data) + 16)
    (folder / WEIGHTS).write_bytes(pack(header, data + bytes(16)))
    return folder


@pytest.mark.parametrize("name", BERT_HEADS)
def test_a_head_that_the_config_does_not_speak_of(tmp_path: Path, name: str) -> None:
    """Without it the model would only give hidden states: not what was asked for."""
    folder = with_tensor(tmp_path, "bert", name)
    with refused(UnsupportedError, WEIGHTS, name, "head", "AutoModel"):
        fastlm.load(folder)


@pytest.mark.parametrize("kind", ["BertForNextSentencePrediction", "BertForMultipleChoice"])
def test_an_encoder_with_a_head_of_another_task(tmp_path: Path, kind: str) -> None:
    folder = with_tensor(tmp_path, "bert", "classifier.weight", architectures=[kind])
    with refused(UnsupportedError, "config.json", "architectures", "ForTokenClassification"):
        fastlm.load(folder)


def test_an_encoder_whose_head_was_left_out(tmp_path: Path) -> None:
    """As sentence-transformers saves models: config.json names the class that they were made of."""
    folder = with_tensor(tmp_path, "bert", "pooler.more.weight", architectures=["BertForMaskedLM"])
    with fastlm.load(folder) as model:
        assert model.forward([1, 2]).logits is None and model.tasks == ("embed",)


def test_an_encoder_without_a_head(tmp_path: Path) -> None:
    """As the advice leaves it: a pooler may stay."""
    with fastlm.load(with_tensor(tmp_path, "bert", "pooler.more.weight")) as model:
        assert model.kind == "encoder" and model.forward([1, 2]).hidden.shape == (2, 32)


@pytest.mark.parametrize("family", ["llama", "gpt2", "gpt_neox", "opt", "bloom", "t5", "qwen3", "gemma2"])
@pytest.mark.parametrize("name", ["score.weight", "classifier.bias", "qa_outputs.weight", "v_head.summary.weight"])
def test_a_decoder_with_another_head(tmp_path: Path, family: str, name: str) -> None:
    with refused(UnsupportedError, WEIGHTS, name, "head"):
        fastlm.load(with_tensor(tmp_path, family, name))


def test_another_head_instead_of_logits(tmp_path: Path) -> None:
    """LlamaForSequenceClassification: that it has no lm_head is not what is wrong with it."""
    weights = random_weights(TINY)
    weights["score.weight"] = weights.pop("lm_head.weight")[:3]
    with refused(UnsupportedError, WEIGHTS, "score.weight", "head"):
        fastlm.load(save_checkpoint(tmp_path, TINY.config(), weights))


# ---- contexts -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", ["llama", "phi3_longrope", "gemma3_text", "gpt2", "opt", "bert"])
@pytest.mark.parametrize("packed", [False, True], ids=["folder", "flm"])
def test_a_context_beyond_the_models_own(tmp_path: Path, family: str, packed: bool) -> None:
    path = GOLDEN / family
    with fastlm.load(path) as model:
        own = model.spec.context
        if packed:
            path = tmp_path / "model.flm"
            save(model, path)
    with fastlm.load(path, context=own) as model:
        assert model.context == own
    with refused(ParameterError, "context"):
        fastlm.load(path, context=own + 1)


def test_a_context_that_is_forced(tmp_path: Path) -> None:
    """As the error says: config.json is what a model says of itself."""
    folder = save_llama(tmp_path / "a", replace(TINY, context=32))
    with refused(ParameterError, "context", "32 tokens", "gibberish", "max_position_embeddings", "config.json"):
        fastlm.load(folder, context=40)
    config = {**json.loads((folder / "config.json").read_text()), "max_position_embeddings": 40}
    (folder / "config.json").write_text(json.dumps(config))
    with fastlm.load(folder) as model:
        assert len(model.generate([1], max_tokens=100, ignore_eos=True).token_ids) == 39


@pytest.mark.parametrize("family", ["t5", "bloom"])
def test_models_that_only_know_distances(family: str) -> None:
    with fastlm.load(GOLDEN / family, context=4000) as model:
        assert model.context == 4000 > model.spec.context


# ---- the home folder ------------------------------------------------------------------------------------------------


def test_a_path_from_the_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    save_llama(tmp_path / "models" / "tiny")
    with fastlm.load("~/models/tiny") as model:
        save(model, "~/models/tiny.flm")
        expected = model.generate([1], max_tokens=5).token_ids
    with fastlm.load(Path("~/models/tiny.flm")) as model:
        assert model.generate([1], max_tokens=5).token_ids == expected
    with refused(ModelFileError, "no such folder or file"):
        fastlm.load("~nobody-of-this-name/models/tiny")
