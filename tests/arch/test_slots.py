"""Python and C list the same weight slots in the same order."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from fastlm.arch import registry
from fastlm.arch.slots import slots
from fastlm.arch.spec import Activate, Activation, Dense, Embed, Logits, ModelSpec, Norm, NormKind, encode

core = pytest.importorskip("fastlm._core")
MODELS: dict[str, dict[str, Any]] = json.loads(Path(__file__).with_name("published.json").read_text())
VARIANTS: dict[str, dict[str, Any]] = {  # what the published ones do not have
    "llama with biases": {"model_type": "llama", "attention_bias": True, "mlp_bias": True},
    "phi with q and k norms": {"model_type": "phi", "qk_layernorm": True},
    "sequential gpt_neox": {"model_type": "gpt_neox", "use_parallel_residual": False, "attention_bias": False},
    "opt without affine norms": {"model_type": "opt", "layer_norm_elementwise_affine": False, "enable_bias": False},
    "t5 v1.0": {"model_type": "t5", "is_encoder_decoder": True},
}
CONFIGS = {name: model["config"] for name, model in MODELS.items()} | VARIANTS


def bart_like() -> ModelSpec:
    """One token table, positions and a norm for each stack, and every kind of step in the head."""
    spec = registry.read({"model_type": "t5", "d_model": 32, "num_heads": 4, "d_kv": 8, "vocab_size": 99}).spec
    assert spec.encoder and spec.decoder
    norm = Norm(NormKind.LAYER, 1e-5, bias=True)
    own = Embed(positions=512, norm=norm)
    head = (Dense(48, bias=True), Activate(Activation.GELU), norm, Dense(24), Logits(tied=False, outputs=3, bias=True))
    both = (replace(spec.encoder, embed=replace(own, types=2)), replace(spec.decoder, embed=own))
    return replace(spec, width=24, encoder=both[0], decoder=both[1], head=head)


SPECS = {name: registry.read(config).spec for name, config in CONFIGS.items()} | {"like bart": bart_like()}


@pytest.mark.parametrize("name", SPECS)
def test_c_lists_the_same_slots(name: str) -> None:
    spec = SPECS[name]
    model = core.Model.create(core.Context(threads=1), encode(spec), format="float32")
    listed = [(t.name, t.rows, t.cols, t.is_matrix) for t in model.tensors()]
    assert listed == [(slot.name, slot.rows, slot.cols, slot.is_matrix) for slot in slots(spec)]
    model.close()
