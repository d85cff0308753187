"""ColBERT checkpoints as Stanford's code writes them, read as the folders of late interaction that they are."""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fastlm.arch import registry
from fastlm.arch.config import MAX_CONTEXT, Config
from fastlm.errors import ModelFormatError
from fastlm.weights.bind import bind
from fastlm.weights.folder import CheckpointFolder
from fastlm.weights.modules import CONFIG, WEIGHTS
from fastlm.weights.safetensors import Checkpoint
from fastlm.weights.sentences import SETTINGS
from fastlm.weights.source import MODULES, Builder, Built, ModelSource
from fastlm.weights.tensors import to_float32

ARCHITECTURE = "HF_ColBERT"
METADATA = "artifact.metadata"
_PROJECTION = "linear.weight"  # beside the encoder's tensors
_DENSE = "1_Dense"
_KINDS = (("", "sentence_transformers.models.Transformer"), (_DENSE, "pylate.models.Dense.Dense"))


@dataclass(frozen=True, slots=True)
class ColbertFolder(ModelSource):
    """A checkpoint folder that shows files which it does not have: those of PyLate, which say the same."""

    path: Path
    folder: CheckpointFolder

    def describe(self, name: str) -> str:
        return self.folder.describe(name)

    def names(self, folder: str) -> tuple[str, ...]:
        return self.folder.names(folder)

    def read(self, name: str) -> bytes | None:
        if name == MODULES:
            return json.dumps([{"path": path, "type": kind} for path, kind in _KINDS]).encode()
        if name == SETTINGS:
            return json.dumps(self._settings()).encode()
        if name in (f"{_DENSE}/{CONFIG}", f"{_DENSE}/{WEIGHTS}"):
            weight = self._projection()
            return _config(weight) if name.endswith(CONFIG) else _stored(weight)
        return self.folder.read(name)

    def build(self, config: Mapping[str, object], builder: Builder[Built]) -> Built:
        family = registry.read(config, self.path / "config.json")
        with Checkpoint(self.folder.weights) as checkpoint:
            return builder.pack(bind(family, _Encoder(checkpoint)))

    def _settings(self) -> dict[str, object]:
        """What artifact.metadata says, with Stanford's defaults."""
        data = Config(self.folder.read_json(METADATA) or {}, self.describe(METADATA))
        lengths = {
            "query_length": data.count_or_none("query_maxlen", None, MAX_CONTEXT),
            "document_length": data.count_or_none("doc_maxlen", None, MAX_CONTEXT),
        }
        attend = data.has("attend_to_mask_tokens") and data.flag("attend_to_mask_tokens", False)
        return {
            "model_type": "ColBERT",
            "query_prefix": (data.text_or_none("query_token_id") or "[unused0]") + " ",
            "document_prefix": (data.text_or_none("doc_token_id") or "[unused1]") + " ",
            "attend_to_expansion_tokens": attend,
            **{name: length for name, length in lengths.items() if length},
            **({} if data.flag("mask_punctuation", True) else {"skiplist_words": []}),
        }

    def _projection(self) -> NDArray[np.float32]:
        with Checkpoint(self.folder.weights) as checkpoint:
            if _PROJECTION not in checkpoint.names() or len(checkpoint.info(_PROJECTION)[1]) != 2:
                raise ModelFormatError(f"{self.folder.weights}: {ARCHITECTURE} needs a matrix {_PROJECTION}")
            return to_float32(checkpoint.read(_PROJECTION), checkpoint.info(_PROJECTION)[0])


def _config(weight: NDArray[np.float32]) -> bytes:
    outputs, inputs = weight.shape
    identity = "torch.nn.modules.linear.Identity"
    values = {"in_features": inputs, "out_features": outputs, "bias": False, "activation_function": identity}
    return json.dumps(values).encode()


def _stored(weight: NDArray[np.float32]) -> bytes:
    """A safetensors file of one tensor."""
    entry = {"dtype": "F32", "shape": list(weight.shape), "data_offsets": [0, weight.nbytes]}
    header = json.dumps({_PROJECTION: entry}).encode()
    return struct.pack("<Q", len(header)) + header + weight.astype("<f4").tobytes()


class _Encoder:
    """The checkpoint without its projection."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        self.info, self.read, self.where = checkpoint.info, checkpoint.read, checkpoint.where
        self._names = [name for name in checkpoint.names() if name != _PROJECTION]

    def names(self) -> list[str]:
        return self._names


def open_colbert(folder: CheckpointFolder) -> ColbertFolder | None:
    """The ColBERT in a checkpoint folder; None: it holds something else, or says in modules.json what it is."""
    looked_at = CheckpointFolder(folder.path)  # what is read here may change until the model is loaded
    if f'"{ARCHITECTURE}"'.encode() not in (looked_at.read("config.json") or b""):
        return None
    return None if looked_at.read(MODULES) else ColbertFolder(folder.path, folder)
