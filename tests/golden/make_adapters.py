"""Make the adapters of adapters/ for the models of this folder, and record what PEFT computes with them.

Needs torch, transformers and peft; the test suite does not run it: `python tests/golden/make_adapters.py [name ...]`

Each case is a LoraConfig. PEFT makes the adapter, random numbers take the place of its tensors (a product changes by
about half of its own size, so that every option shows), PEFT saves it, and loads it again on a fresh model:

- adapter_config.json, adapter_model.safetensors: as PEFT wrote them;
- expected.npz: ids (decoder_ids, token_types); logits, or a bare encoder's hidden states, of the float32 model, and
  `..._low`, to be added to them for those of the float64 model.
"""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import peft
import torch
import transformers
from exact import exact
from make_golden import HERE, inputs, output

FOLDER = HERE / "adapters"
TOKENS = 12
ATTENTION = ["q_proj", "k_proj", "v_proj", "o_proj"]

# name: (model, options of LoraConfig); fractions of r and alpha show whether patterns count
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama_linear_layers": ("llama", {"r": 4, "lora_alpha": 6, "target_modules": "all-linear"}),
    "llama_patterns": (
        "llama",
        {
            "r": 4, "lora_alpha": 6, "target_modules": [*ATTENTION, "down_proj"], "use_rslora": True,
            "rank_pattern": {"q_proj": 2, "layers.1.self_attn.v_proj": 7},
            "alpha_pattern": {r"layers\.\d+\.mlp\.down_proj": 3, "o_proj": 11},
        },
    ),
    "llama_regex": ("llama", {"r": 3, "target_modules": r".*\.(q|up)_proj", "exclude_modules": r".*layers\.0\.mlp.*"}),
    "llama_one_layer": ("llama", {"r": 3, "target_modules": ["v_proj", "gate_proj"], "layers_to_transform": [1]}),
    "llama_lora_bias": ("llama", {"r": 3, "target_modules": ["q_proj", "down_proj"], "lora_bias": True}),
    "llama_dora": ("llama", {"r": 3, "lora_alpha": 5, "target_modules": "all-linear", "use_dora": True}),
    "llama_head": ("llama", {"r": 3, "target_modules": ["lm_head", "o_proj"]}),
    "llama_embedding": ("llama", {"r": 3, "lora_alpha": 4, "target_modules": ["embed_tokens", "k_proj"]}),
    "llama_tokens": ("llama", {"r": 2, "target_modules": ["q_proj"], "trainable_token_indices": [3, 50, 7]}),
    "llama_saved": ("llama", {"r": 2, "target_modules": ["v_proj"], "modules_to_save": ["lm_head", "embed_tokens"]}),
    "llama_norms": ("llama", {"r": 2, "target_modules": ["v_proj"], "modules_to_save": ["norm", "input_layernorm"]}),
    "llama_score": ("llama_classes", {"r": 2, "target_modules": ["v_proj"], "task_type": "SEQ_CLS"}),
    "qwen3_dora": ("qwen3", {"r": 17, "lora_alpha": 6, "target_modules": [*ATTENTION, "up_proj"], "use_dora": True,
                             "use_rslora": True}),
    "qwen2_biases": ("qwen2", {"r": 2, "target_modules": ATTENTION, "bias": "lora_only"}),
    "gpt2_conv1d": ("gpt2", {"r": 4, "target_modules": ["c_attn", "c_proj", "c_fc"], "fan_in_fan_out": True}),
    "gpt2_dora": ("gpt2", {"r": 2, "target_modules": ["c_attn", "c_fc"], "fan_in_fan_out": True, "use_dora": True}),
    "gpt2_head": ("gpt2", {"r": 2, "target_modules": ["wte", "c_attn"], "fan_in_fan_out": True,
                           "modules_to_save": ["lm_head"]}),
    "gpt_neox_interleaved": ("gpt_neox", {"r": 4, "target_modules": ["query_key_value", "dense_h_to_4h"],
                                          "use_dora": True}),
    "gpt2_biases": ("gpt2", {"r": 2, "target_modules": ["c_attn"], "fan_in_fan_out": True, "bias": "all"}),
    "qwen3_norms": ("qwen3", {"r": 2, "target_modules": ["q_proj"],
                              "modules_to_save": ["q_norm", "k_norm", "up_proj"]}),
    "phi3_fused": ("phi3", {"r": 4, "target_modules": "all-linear"}),
    "phi3_dora": ("phi3", {"r": 2, "target_modules": ["qkv_proj", "gate_up_proj"], "use_dora": True}),
    "opt_linear_layers": ("opt", {"r": 4, "target_modules": "all-linear", "lora_bias": True}),
    "gemma2_linear_layers": ("gemma2", {"r": 4, "target_modules": "all-linear", "use_dora": True}),
    "gemma2_tokens": ("gemma2", {"r": 2, "target_modules": ["q_proj", "lm_head"]}),
    "gemma2_tied": ("gemma2", {"r": 2, "target_modules": ["embed_tokens", "o_proj"], "trainable_token_indices": None}),
    "gemma2_norms": ("gemma2", {"r": 2, "target_modules": ["q_proj"],
                                "modules_to_save": ["norm", "post_attention_layernorm", "pre_feedforward_layernorm"]}),
    "gemma_tokens": ("gemma", {"r": 2, "target_modules": ["q_proj"], "trainable_token_indices": [9, 4]}),
    "bert_linear_layers": ("bert", {"r": 4, "target_modules": ["query", "key", "value", "dense"]}),
    "bert_biases": ("bert", {"r": 2, "target_modules": ["query"], "bias": "all"}),
    "bert_classifier": ("bert_classes", {"r": 2, "target_modules": ["query", "value"], "task_type": "SEQ_CLS",
                                         "bias": "lora_only"}),
    "t5_linear_layers": ("t5", {"r": 4, "target_modules": ["q", "k", "v", "o", "wi", "wo"]}),
    "t5_norms": ("t5", {"r": 2, "target_modules": ["q"], "modules_to_save": ["final_layer_norm", "layer_norm"]}),
    "t5_gated_dora": ("t5_gated", {"r": 3, "target_modules": ["q", "v", "wi_1", "wo"], "use_dora": True}),
}  # fmt: skip


def base(name: str) -> tuple[Any, dict[str, Any]]:
    """The float32 model of a folder, and its config."""
    config = json.loads((HERE / name / "config.json").read_text())
    kind = getattr(transformers, config["architectures"][0])
    settings = transformers.AutoConfig.for_model(**config)
    model = kind.from_pretrained(HERE / name, config=settings, dtype=torch.float32, attn_implementation="eager")
    return model.eval(), config


def disturb(model: Any, rng: np.random.Generator) -> None:
    """Random numbers in the place of what was trained."""
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        draw = torch.from_numpy(rng.standard_normal(parameter.shape)).float()
        if "lora_embedding_A" in name or "lora_A" in name:
            parameter.data = draw / parameter.shape[1] ** 0.5
        elif "lora_B" in name and name.endswith("bias"):
            parameter.data = 0.2 * draw
        elif "lora_B" in name or "lora_embedding_B" in name:
            module = model.get_submodule(name.split(".lora_")[0])
            size = module.get_base_layer().weight.std() * module.in_features**0.5
            parameter.data = 0.5 * draw * size / (module.scaling["default"] * parameter.shape[1] ** 0.5)
        elif "magnitude" in name:
            parameter.data = parameter.data * (1 + 0.3 * draw)
        else:
            parameter.data = parameter.data + 0.5 * parameter.data.std() * draw + 0.01 * draw


def run(model: Any, config: dict[str, Any], rng: np.random.Generator) -> dict[str, np.ndarray]:
    draw = {"ids": rng.integers(3, config["vocab_size"], TOKENS)}
    draw["ids"][:4] = [3, 9, 4, 50]  # trained tokens among them
    if config.get("type_vocab_size", 0) > 1:
        draw["token_types"] = np.sort(rng.integers(0, config["type_vocab_size"], TOKENS))
    if config["architectures"][0].endswith("ForConditionalGeneration"):
        draw["decoder_ids"] = np.concatenate([[0], rng.integers(3, config["vocab_size"], TOKENS - 4)])
    name, values, _ = output(model, **inputs(draw))
    with exact(model) as fine:
        draw |= {name: values, name + "_low": (output(fine, **inputs(draw))[1] - values).astype(np.float32)}
    return {k: v.astype(np.int32) if v.dtype.kind == "i" else v for k, v in draw.items()}


def make(name: str) -> None:
    chosen, options = CASES[name]
    rng = np.random.default_rng([*name.encode()])
    model, config = base(chosen)
    plain = run(model, config, np.random.default_rng(1))
    adapted = peft.get_peft_model(model, peft.LoraConfig(**options))
    with torch.no_grad():
        disturb(adapted, rng)
    folder = FOLDER / name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    with tempfile.TemporaryDirectory() as scratch:
        adapted.save_pretrained(scratch)
        settings = json.loads((Path(scratch) / "adapter_config.json").read_text())
        settings["base_model_name_or_path"] = chosen
        (folder / "adapter_config.json").write_text(json.dumps(settings, indent=2, sort_keys=True) + "\n")
        shutil.copy(f"{scratch}/adapter_model.safetensors", folder)
    fresh = peft.PeftModel.from_pretrained(base(chosen)[0], folder).eval()
    draw = run(fresh.base_model.model, config, np.random.default_rng(1))
    np.savez_compressed(folder / "expected.npz", **draw)
    output_name = "logits" if "logits" in draw else "hidden"
    std = draw[output_name].std()
    change = np.abs(draw[output_name] - plain[output_name]).max() / std
    error = np.abs(draw[output_name + "_low"]).max() / std
    size = sum(f.stat().st_size for f in folder.iterdir())
    print(f"{name}: changes {change:.2f}, float32 off by {error:.1e}, {size // 1024} KiB")


if __name__ == "__main__":
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    torch.set_num_threads(1)
    torch.set_grad_enabled(False)
    for case in sys.argv[1:] or CASES:
        make(case)
