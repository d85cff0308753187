"""Reader of safetensors checkpoints, single files and shards.

A file is an 8-byte little-endian length, a JSON header of that length, and the tensors' bytes. The header is checked
completely before any of those bytes is read: the tensors must cover them exactly, without gap or overlap. Files are
read, not mapped, so one that is cut short later is an error and not a signal.
"""

from __future__ import annotations

import math
import threading
from contextlib import suppress
from dataclasses import dataclass
from io import BytesIO, FileIO
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastlm.errors import (
    ModelFileError,
    ModelFormatError,
    ParameterError,
    StateError,
    UnsupportedError,
    file_error,
)
from fastlm.weights.jsonfile import check_lfs, file_bytes, parse_object
from fastlm.weights.shards import read_index

MAX_HEADER_BYTES = 100_000_000  # as in the safetensors library
BLOCK_BYTES = 16 << 20  # read at once, so that Ctrl-C is answered between two blocks
INDEX_SUFFIX = ".index.json"

_MAX_DIMENSIONS = 32  # what every NumPy has room for
_MAX_SIZE = 2**63 - 1
_MAX_ELEMENTS = 2**58  # so that NumPy can hold the shape even if another dimension is 0

# safetensors name: our name, bits per element
_DTYPES = {
    "BOOL": ("bool", 8),
    "U8": ("uint8", 8),
    "I8": ("int8", 8),
    "U16": ("uint16", 16),
    "I16": ("int16", 16),
    "U32": ("uint32", 32),
    "I32": ("int32", 32),
    "U64": ("uint64", 64),
    "I64": ("int64", 64),
    "F4": ("float4", 4),
    "F6_E2M3": ("float6_e2m3", 6),
    "F6_E3M2": ("float6_e3m2", 6),
    "F8_E4M3": ("float8_e4m3", 8),
    "F8_E4M3FNUZ": ("float8_e4m3fnuz", 8),
    "F8_E5M2": ("float8_e5m2", 8),
    "F8_E5M2FNUZ": ("float8_e5m2fnuz", 8),
    "F8_E8M0": ("float8_e8m0", 8),
    "F16": ("float16", 16),
    "BF16": ("bfloat16", 16),
    "F32": ("float32", 32),
    "F64": ("float64", 64),
    "C64": ("complex64", 64),
}
_READABLE: dict[str, np.dtype[Any]] = {
    "float32": np.dtype("<f4"),
    "float16": np.dtype("<f2"),
    "bfloat16": np.dtype("<u2"),
    "float64": np.dtype("<f8"),
    "int8": np.dtype("i1"),
    "int32": np.dtype("<i4"),
    "int64": np.dtype("<i8"),
}


@dataclass(frozen=True, slots=True)
class _Tensor:
    dtype: str
    shape: tuple[int, ...]
    begin: int  # bytes from the start of the data
    end: int


def _is_size(value: object) -> bool:
    return type(value) is int and 0 <= value <= _MAX_SIZE


def _read_tensor(where: str, entry: object) -> _Tensor:
    """One entry of the header; `where` names file and tensor."""
    if not isinstance(entry, dict) or entry.keys() != {"dtype", "shape", "data_offsets"}:
        raise ModelFormatError(f"{where}: its header entry must have exactly dtype, shape and data_offsets")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in _DTYPES:
        raise ModelFormatError(f"{where}: dtype {str(dtype)[:32]!r} is not one of safetensors")
    if not isinstance(shape, list) or len(shape) > _MAX_DIMENSIONS or not all(map(_is_size, shape)):
        raise ModelFormatError(f"{where}: shape must be a list of at most {_MAX_DIMENSIONS} sizes")
    if not isinstance(offsets, list) or len(offsets) != 2 or not all(map(_is_size, offsets)):
        raise ModelFormatError(f"{where}: data_offsets must be two byte positions")
    name, bits = _DTYPES[dtype]
    if math.prod(size for size in shape if size) > _MAX_ELEMENTS:
        raise ModelFormatError(f"{where}: shape {shape} is too large to address")
    size_bits = math.prod(shape) * bits
    if size_bits != 8 * (offsets[1] - offsets[0]):
        raise ModelFormatError(
            f"{where}: {dtype} of shape {shape} does not have the {offsets[1] - offsets[0]} bytes that data_offsets say"
        )
    return _Tensor(name, tuple(shape), offsets[0], offsets[1])


class _File:
    """One open safetensors file with its checked header."""

    def __init__(self, path: Path, data: bytes | None = None) -> None:
        self.path = path
        size = file_bytes(path) if data is None else len(data)
        try:
            self._file: FileIO | BytesIO = FileIO(path) if data is None else BytesIO(data)
        except OSError as error:
            raise file_error(path, "opened", error) from error
        self._lock = threading.Lock()
        try:
            self.tensors = self._read_header(size)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        with self._lock, suppress(OSError):
            self._file.close()

    def _read_header(self, size: int) -> dict[str, _Tensor]:
        start = bytearray(min(size, 64))
        self.read_into(memoryview(start), 0)
        check_lfs(bytes(start), str(self.path))
        length = int.from_bytes(start[:8], "little")
        if size < 8 or length > min(MAX_HEADER_BYTES, size - 8):
            raise ModelFormatError(f"{self.path}: not a safetensors file, or cut short (its header has no room in it)")
        header = bytearray(length)
        self.read_into(memoryview(header), 8)
        if header[:1] != b"{":
            raise ModelFormatError(f"{self.path}: not a safetensors file (its header is not a JSON object)")
        entries = parse_object(bytes(header), f"{self.path}: header", unique=True)
        metadata = entries.pop("__metadata__", None)
        if metadata is not None and not (
            isinstance(metadata, dict) and all(isinstance(value, str) for value in metadata.values())
        ):
            raise ModelFormatError(f"{self.path}: __metadata__ must map names to strings")
        tensors = {name: _read_tensor(f"{self.path}: tensor {name[:200]!r}", entry) for name, entry in entries.items()}
        self.data_start = 8 + length
        self._check_coverage(tensors, size - self.data_start)
        return tensors

    def _check_coverage(self, tensors: dict[str, _Tensor], n_bytes: int) -> None:
        reached = 0
        for name, tensor in sorted(tensors.items(), key=lambda item: (item[1].begin, item[1].end)):
            where = f"{self.path}: tensor {name[:200]!r}"
            if tensor.begin != reached:
                what = "overlaps the tensor before it" if tensor.begin < reached else "leaves a gap before it"
                raise ModelFormatError(f"{where}: {what} (starts at {tensor.begin}, expected {reached})")
            reached = tensor.end
            if reached > n_bytes:
                raise ModelFormatError(f"{where}: ends at byte {reached} of {n_bytes}: the file was cut short")
        if reached != n_bytes:
            raise ModelFormatError(f"{self.path}: has {n_bytes - reached} bytes after its last tensor")

    def read_into(self, buffer: memoryview, offset: int) -> None:
        """Fill `buffer` (bytes) from `offset` of the file on."""
        done = 0
        while done < len(buffer):
            try:
                with self._lock:
                    self._file.seek(offset + done)
                    n = self._file.readinto(buffer[done : done + BLOCK_BYTES])
            except ValueError:
                raise StateError("the checkpoint is closed") from None
            except OSError as error:
                raise file_error(self.path, "read", error) from error
            if not n:
                raise ModelFormatError(f"{self.path}: was cut short while it was read")
            done += n


class Checkpoint:
    """The tensors of a checkpoint, read row by row on demand. Several threads may read at once.

    Parameters
    ----------
    path
        A `.safetensors` file, or a `.safetensors.index.json` with its shards beside it. Tensors of a shard that the
        index does not list are left out.
    data
        What the `.safetensors` file holds, where that is in memory already; `path` then names it in error texts.

    Raises
    ------
    ModelFormatError
        A header or the index is malformed, or a file is longer or shorter than its header says.
    ModelFileError
        A file is missing or cannot be read.
    """

    def __init__(self, path: Path, data: bytes | None = None) -> None:
        self._files: dict[str, _File] = {}
        try:
            if path.name.endswith(INDEX_SUFFIX):
                self._where = self._open_shards(path)
            else:
                file = self._files[path.name] = _File(path, data)
                self._where = dict.fromkeys(file.tensors, path.name)
        except BaseException:
            self.close()
            raise

    def _open_shards(self, path: Path) -> dict[str, str]:
        where = read_index(path)
        for name, file in where.items():
            if file not in self._files:
                try:
                    self._files[file] = _File(path.parent / file)
                except ModelFileError as error:
                    raise ModelFileError(f"{error} ({path.name} lists it; download the model again)") from error
            if name not in self._files[file].tensors:
                raise ModelFormatError(f"{path}: weight_map: tensor {name[:200]!r} is not in {file}")
        return where

    def __enter__(self) -> Checkpoint:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the files; reading is an error from now on."""
        for file in self._files.values():
            file.close()

    def names(self) -> list[str]:
        """Names of all tensors, in the order of the header or index."""
        return list(self._where)

    def where(self, name: str) -> str:
        """Name of the file that holds a tensor."""
        if name not in self._where:
            raise ParameterError(f"there is no tensor {name!r} in this checkpoint")
        return self._where[name]

    def info(self, name: str) -> tuple[str, tuple[int, ...]]:
        """Data type ("float32", "bfloat16", "int64", ...) and shape of a tensor."""
        tensor = self._files[self.where(name)].tensors[name]
        return tensor.dtype, tensor.shape

    def read(self, name: str, start_row: int = 0, stop_row: int | None = None) -> NDArray[Any]:
        """Rows `start_row` to `stop_row` (default: all) of a tensor's first dimension, in memory of their own.

        bfloat16 comes as uint16 holding its bits. A tensor without dimensions can only be read whole.

        Raises
        ------
        UnsupportedError
            The data type is none of float32, float16, bfloat16, float64, int8, int32 and int64.
        ModelFormatError
            The file was cut short after it was opened.
        ModelFileError
            The file cannot be read.
        """
        file = self._files[self.where(name)]
        tensor = file.tensors[name]
        dtype = _READABLE.get(tensor.dtype)
        if dtype is None:
            readable = ", ".join(_READABLE)
            raise UnsupportedError(
                f"{file.path}: tensor {name[:200]!r} is {tensor.dtype}; this version reads {readable}"
            )
        rows = tensor.shape[0] if tensor.shape else 1
        stop = rows if stop_row is None else stop_row
        if not 0 <= start_row <= stop <= rows or (not tensor.shape and stop - start_row != 1):
            raise ParameterError(f"tensor {name!r}: rows {start_row} to {stop} are not within its {rows}")
        shape = (stop - start_row, *tensor.shape[1:]) if tensor.shape else ()
        values: NDArray[Any] = np.empty(shape, dtype)
        row_bytes = (tensor.end - tensor.begin) // max(rows, 1)
        target = values.reshape(-1).view(np.uint8).data
        file.read_into(target, file.data_start + tensor.begin + start_row * row_bytes)
        return values
