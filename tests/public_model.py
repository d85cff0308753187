"""The packaged model as a checkpoint folder: a trained model that every clone has, in float32."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from models import save_checkpoint
from quantized_formats import I4, decode

from fastlm import _core, loading
from fastlm.arch import registry
from fastlm.weights import container

PARAMETERS = 3_442_944
VOCAB = 3072
END = 0  # begins and ends every text
BEGINNING = "Once upon a time, there was a little girl named Lily. She loved to play outside in the sunshine. "


def _module(stem: str, weights: dict[str, str]) -> str:
    """The checkpoint's name of a slot, without `.weight`."""
    parts = stem.removesuffix(".weight").split(".")
    layer = ""
    if len(parts) > 2 and parts[1].isdigit():
        layer, parts[1] = parts[1], "{i}"
    return "model." + weights[".".join(parts)].format(i=layer)


def save_public_model(folder: Path) -> Path:
    """Write the packaged model's weights, as its int4 codes stand for them, with its config and its tokenizer.

    Generation is greedy unless a call says otherwise.
    """
    files = container.read(loading.PACKAGED).files
    config = {**json.loads(files["config.json"]), "dtype": "float32"}
    names = registry.read(config, folder / "config.json").weights
    context = _core.Context(1)
    model = _core.Model.open(context, str(loading.PACKAGED).encode())
    weights = {}
    for index, tensor in enumerate(model.tensors()):
        data = np.frombuffer(model.tensor_data(index), np.uint8)
        if tensor.is_matrix:
            assert tensor.format == "int4"
            values = decode(I4, data, tensor.rows, tensor.cols).dense
        else:
            values = data.view(np.float32)
        weights[_module(tensor.name, names) + ".weight"] = values
    save_checkpoint(folder, config, weights)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).write_bytes(files[name])
    (folder / "generation_config.json").write_text(json.dumps({"bos_token_id": END, "eos_token_id": END}))
    return folder
