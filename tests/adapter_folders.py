"""Folders as PEFT writes them, for the models of models.py."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from models import TINY, Shape
from safetensors_files import entry, pack

PREFIX = "base_model.model."
Tensors = dict[str, np.ndarray]


def low_rank(shape: Shape = TINY, rank: int = 4, seed: int = 0, layers: int | None = None) -> Tensors:
    """A and B of every linear layer."""
    rng = np.random.default_rng(seed)
    made: Tensors = {}
    for name, size in shape.tensors().items():
        if len(size) == 2 and ".layers." in name:
            module = PREFIX + name.removesuffix(".weight")
            made[module + ".lora_A.weight"] = rng.standard_normal((rank, size[1]), dtype=np.float32)
            b = rng.standard_normal((size[0], rank), dtype=np.float32) * np.float32(0.3 / (rank * size[1]) ** 0.5)
            made[module + ".lora_B.weight"] = b
    return made


def save_adapter(folder: Path, tensors: Mapping[str, np.ndarray], **config: Any) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    rank = next((len(values) for name, values in tensors.items() if "lora_A" in name), 8)
    settings = {"peft_type": "LORA", "r": rank, "lora_alpha": rank, "target_modules": "all-linear", **config}
    (folder / "adapter_config.json").write_text(json.dumps(settings))
    header, data = {}, bytearray()
    for name, values in tensors.items():
        begin = len(data)
        data += np.ascontiguousarray(values, np.float32).tobytes()
        header[name] = entry("F32", list(values.shape), begin, len(data))
    (folder / "adapter_model.safetensors").write_bytes(pack(header, bytes(data)))
    return folder
