"""What binding asks of the tensors of a checkpoint."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from fastlm.errors import ModelFormatError, UnsupportedError

Array = NDArray[Any]  # float32, float16, or uint16 that holds bfloat16
DTYPES = ("float32", "float16", "bfloat16")


class Checkpoint(Protocol):
    """What binding asks of a reader of checkpoints (`fastlm.weights.safetensors`)."""

    def names(self) -> list[str]: ...
    def info(self, name: str) -> tuple[str, tuple[int, ...]]: ...  # dtype, shape
    def read(self, name: str, start_row: int = 0, stop_row: int | None = None) -> Array: ...  # bfloat16 as uint16
    def where(self, name: str) -> str: ...  # its file


def to_float32(values: Array, dtype: str) -> NDArray[np.float32]:
    if dtype == "bfloat16":
        values = (values.astype(np.uint32) << np.uint32(16)).view(np.float32)
    return np.asarray(values, np.float32)


def check_tensor(checkpoint: Checkpoint, name: str, expected: tuple[int, ...]) -> None:
    """Refuse a tensor of another shape, or of a type that is not read."""
    dtype, shape = checkpoint.info(name)
    where = f"{checkpoint.where(name)}: {name}"
    if tuple(shape) != expected:
        raise ModelFormatError(f"{where}: expected shape {list(expected)} by the config, found {list(shape)}")
    if dtype not in DTYPES:
        raise UnsupportedError(f"{where}: values of type {dtype} are not supported (known: {', '.join(DTYPES)})")
