"""Safetensors files made by hand, and read whole."""

import json
import struct
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from fastlm.weights.safetensors import Checkpoint


def pack(header: object, data: bytes = b"") -> bytes:
    """A file's bytes; the header may be given as text."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def entry(dtype: str, shape: object, begin: object, end: object) -> dict[str, object]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


def save(folder: Path, content: bytes) -> Path:
    path = folder / "model.safetensors"
    path.write_bytes(content)
    return path


def save_shards(folder: Path) -> tuple[Path, dict[str, np.ndarray], dict[str, str]]:
    """Four tensors in two shards: the index, the tensors, and the index's weight map."""
    arrays = {f"t{i}": np.full((4, 3), i, np.float32) for i in range(4)}
    files = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
    save_file({n: arrays[n] for n in ("t0", "t1")}, folder / files[0])
    save_file({n: arrays[n] for n in ("t2", "t3")}, folder / files[1])
    weight_map = {name: files[int(name[1]) // 2] for name in arrays}
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {"total_size": 192}, "weight_map": weight_map}))
    return index, arrays, weight_map


def read_all(path: Path) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Type and shape of every tensor; those of readable types are read."""
    with Checkpoint(path) as checkpoint:
        result = {}
        for name in checkpoint.names():
            dtype, shape = checkpoint.info(name)
            if dtype in ("float32", "float16", "bfloat16"):
                assert checkpoint.read(name).shape == shape
            result[name] = (dtype, shape)
        return result
