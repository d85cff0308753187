"""The tensors of a checkpoint in bfloat16 where they lie in its file."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray


def tensors(path: Path) -> Iterator[tuple[str, NDArray[np.uint16]]]:
    """Names and values: writing changes the file."""
    data = np.memmap(path, np.uint8, "r+")
    length = int.from_bytes(data[:8].tobytes(), "little")
    for name, entry in json.loads(data[8 : 8 + length].tobytes()).items():
        begin, end = (8 + length + at for at in entry["data_offsets"])
        yield name, data[begin:end].view(np.uint16).reshape(entry["shape"])


def float32(values: NDArray[np.uint16]) -> NDArray[np.float32]:
    return (values.astype(np.uint32) << 16).view(np.float32)


def bfloat16(values: NDArray[np.float32]) -> NDArray[np.uint16]:
    """Cut off."""
    return (np.ascontiguousarray(values).view(np.uint32) >> 16).astype(np.uint16)
