"""Static embeddings: a vector for each token and no layers, as sentence-transformers and model2vec save them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastlm.arch.family import Family
from fastlm.arch.spec import Layer, ModelSpec, Stack
from fastlm.errors import ModelFormatError
from fastlm.weights.bind import bind
from fastlm.weights.folder import CheckpointFolder, no_weights
from fastlm.weights.modules import STATIC, WEIGHTS, read_modules
from fastlm.weights.safetensors import Checkpoint
from fastlm.weights.source import Builder, Built, ModelSource
from fastlm.weights.tensors import DTYPES, to_float32

CONTEXT = 1 << 20  # tokens of a text
_TABLES = ("embedding.weight", "embeddings")  # sentence-transformers', model2vec's
_MAPPING, _WEIGHTS = "mapping", "weights"  # of model2vec: each token's row, and by what it is multiplied
_SLOT = "table"


@dataclass(frozen=True, slots=True)
class StaticFolder(ModelSource):
    """A folder whose model is a table; `part` of it, a name with a slash, may hold table and tokenizer."""

    path: Path
    folder: CheckpointFolder
    part: str

    def describe(self, name: str) -> str:
        return self.folder.describe(name)

    def read(self, name: str) -> bytes | None:
        """As of any folder; the model that config.json speaks of is made up where there is none."""
        found = self.folder.read(name)
        if found is None and self.part and not name.startswith(self.part):
            found = self.folder.read(self.part + name)
        return json.dumps({"model_type": STATIC}).encode() if found is None and name == "config.json" else found

    def names(self, folder: str) -> tuple[str, ...]:
        return self.folder.names(folder)

    def build(self, config: Mapping[str, object], builder: Builder[Built]) -> Built:
        with Checkpoint(self.path / self.part / WEIGHTS) as checkpoint:
            table = Table(checkpoint, self.describe(self.part + WEIGHTS))
            vocab, hidden = table.info(table.names()[0])[1]
            spec = ModelSpec(vocab, hidden, CONTEXT, encoder=Stack((Layer(),)))
            return builder.pack(bind(Family(STATIC, spec, {"embed.tokens": _SLOT}), table))


class Table:
    """A checkpoint of one tensor, which has a row for each token: what binding asks of a checkpoint.

    Raises
    ------
    ModelFormatError
        The checkpoint holds no table, or parts that do not fit each other.
    """

    def __init__(self, checkpoint: Checkpoint, where: str) -> None:
        names = checkpoint.names()
        self._checkpoint, self._where = checkpoint, where
        self._name = next((name for name in _TABLES if name in names), "")
        if not self._name:
            raise ModelFormatError(f"{where}: holds neither {_TABLES[0]} nor {_TABLES[1]}")
        more = {_MAPPING, _WEIGHTS} if self._name == _TABLES[1] else set[str]()
        if left := sorted(set(names) - more - {self._name}):
            raise ModelFormatError(f"{where}: tensors that have no place in a table of tokens: {', '.join(left[:5])}")
        if len(checkpoint.info(self._name)[1]) != 2:
            raise ModelFormatError(f"{where}: {self._name}: expected a matrix, found {checkpoint.info(self._name)[1]}")

    def names(self) -> list[str]:
        return [_SLOT + ".weight"]

    def where(self, name: str) -> str:
        return self._checkpoint.where(self._name)

    def info(self, name: str) -> tuple[str, tuple[int, ...]]:
        dtype, (rows, columns) = self._checkpoint.info(self._name)
        if self._rows is not None:
            rows = len(self._rows)
        return dtype if self._factors is None and dtype in DTYPES else "float32", (rows, columns)

    def read(self, name: str, start_row: int = 0, stop_row: int | None = None) -> NDArray[Any]:
        rows = self.info(name)[1][0]
        stop = rows if stop_row is None else stop_row
        if self._rows is None:
            found = self._checkpoint.read(self._name, start_row, stop)
        else:
            found = self._distinct[self._rows[start_row:stop]]
        stored = self._checkpoint.info(self._name)[0]
        if self._factors is not None:
            return to_float32(found, stored) * self._factors[start_row:stop, None]
        return found if stored in DTYPES else to_float32(found, stored)

    @cached_property
    def _distinct(self) -> NDArray[Any]:
        """The rows that tokens share, all of them."""
        return self._checkpoint.read(self._name)

    @cached_property
    def _rows(self) -> NDArray[np.int64] | None:
        """The row of each token; None: its own."""
        if _MAPPING not in self._checkpoint.names():
            return None
        found = self._checkpoint.read(_MAPPING)
        rows = self._checkpoint.info(self._name)[1][0]
        if found.ndim != 1 or found.dtype.kind != "i" or not len(found) or not 0 <= found.min() <= found.max() < rows:
            raise ModelFormatError(f"{self._where}: {_MAPPING}: expected a row of {self._name} for each token")
        return found.astype(np.int64)

    @cached_property
    def _factors(self) -> NDArray[np.float32] | None:
        """By what each token's row is multiplied; None: by 1."""
        if _WEIGHTS not in self._checkpoint.names():
            return None
        found = to_float32(self._checkpoint.read(_WEIGHTS), self._checkpoint.info(_WEIGHTS)[0])
        rows = self._checkpoint.info(self._name)[1][0] if self._rows is None else len(self._rows)
        if found.shape != (rows,) or not np.isfinite(found).all():
            raise ModelFormatError(f"{self._where}: {_WEIGHTS}: expected a number for each of {rows} tokens")
        return found


def open_static(path: Path) -> StaticFolder | None:
    """The static embedding in a folder; None: the folder holds something else, or nothing.

    Raises
    ------
    ModelFormatError, UnsupportedError
        It lacks its table, or has it in a form that is not read.
    """
    folder = CheckpointFolder(path)
    modules = read_modules(folder)
    if modules and modules[0].kind != STATIC:
        return None
    if not modules and b'"model2vec"' not in (folder.read("config.json") or b""):
        return None
    part = modules[0].path if modules else ""
    if not (path / part / WEIGHTS).exists():
        names = {entry.name for entry in (path / part).iterdir()} if (path / part).is_dir() else set[str]()
        raise no_weights(path / part, names)
    return StaticFolder(path, folder, part)
