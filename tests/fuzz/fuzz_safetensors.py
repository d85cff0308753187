"""Safetensors files: tensors of the shapes that they say, or ModelFormatError. How to run it: harness.py."""

from __future__ import annotations

import json
import struct
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from harness import main

from fastlm.errors import ModelFormatError
from fastlm.weights.safetensors import Checkpoint

FOLDER = tempfile.TemporaryDirectory(prefix="fuzz")
MOST_HEADER = 1 << 16


def pack(header: object, n_bytes: int) -> bytes:
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + bytes(n_bytes)


def entry(dtype: str, shape: list[int], begin: int, end: int) -> dict[str, object]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


INPUTS = [
    pack({"a": entry("F32", [2, 3], 0, 24), "b": entry("BF16", [4], 24, 32), "c": entry("I64", [], 32, 40)}, 40),
    pack({"__metadata__": {"format": "pt"}, "a": entry("F16", [1, 0, 5], 0, 0), "\u00e9": entry("U8", [3], 0, 3)}, 3),
    pack({}, 0),
]


def fitted(data: bytes) -> bytes:
    """The same with the header's length put right where it is absurd: most mutations would end there."""
    (n,) = struct.unpack("<Q", data[:8].ljust(8, b"\0"))
    end = data.rfind(b"}") + 1
    return data if n <= MOST_HEADER or end < 8 else struct.pack("<Q", end - 8) + data[8:]


def one_input(data: bytes) -> None:
    path = Path(FOLDER.name, "model.safetensors")
    path.write_bytes(fitted(data))
    try:
        with Checkpoint(path) as checkpoint:
            for name in checkpoint.names():
                dtype, shape = checkpoint.info(name)
                if dtype in ("float32", "float16", "bfloat16"):
                    assert checkpoint.read(name).shape == tuple(shape)
    except ModelFormatError as error:
        assert "model.safetensors" in str(error)


if __name__ == "__main__":
    main(one_input, INPUTS)
