"""A Hugging Face checkpoint folder: safetensors beside small files."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from fastlm.arch import registry
from fastlm.errors import ModelFileError, ModelFormatError, UnsupportedError, file_error
from fastlm.weights.bind import bind
from fastlm.weights.jsonfile import MAX_FILE_BYTES, check_lfs, file_bytes, read_bytes
from fastlm.weights.paths import identity_of
from fastlm.weights.safetensors import Checkpoint
from fastlm.weights.source import MODULES, Builder, Built, ModelSource

_WEIGHTS = ("model.safetensors", "model.safetensors.index.json")
_PICKLED = re.compile(r"(pytorch_model|model|consolidated)[\w.-]*\.(bin|pt|pth)(\.index\.json)?", re.ASCII)
_LFS_PROBE_BYTES = 64


@dataclass(frozen=True, slots=True)
class CheckpointFolder(ModelSource):
    """A folder as transformers writes it. One that holds a tokenizer alone will do for all but `build`."""

    path: Path
    weights_name: str = _WEIGHTS[0]  # of the safetensors file, or of the index of its shards
    _seen: dict[str, object] = field(default_factory=dict, init=False, repr=False, compare=False)

    @property
    def weights(self) -> Path:
        return self.path / self.weights_name

    def describe(self, name: str) -> str:
        return str(self.path / name)

    def read(self, name: str) -> bytes | None:
        path = self.path / name
        found = _found(path)
        self._same(name, None if found is None else identity_of(found))
        return None if found is None else read_bytes(path, MAX_FILE_BYTES)

    def names(self, folder: str) -> tuple[str, ...]:
        path = self.path / folder
        is_there = _found(path) is not None
        try:
            found = tuple(sorted(entry.name for entry in path.iterdir())) if is_there else ()
        except OSError as error:
            raise ModelFileError(f"{path}: cannot be read: {error.strerror}") from error
        self._same(folder, found)
        return found

    def _same(self, name: str, found: object) -> None:
        """Refuse what is not as it was when it was first read: parts of two models do not make one."""
        if self._seen.setdefault(name, found) != found:
            raise ModelFileError(f"{self.path / name}: was changed since the model was loaded: load it again")

    def build(self, config: Mapping[str, object], builder: Builder[Built]) -> Built:
        family = registry.read(config, self.path / "config.json")
        if _found(self.path / MODULES) is not None:  # it needs hidden states alone, whatever its class is called
            family = replace(family, bare_when_missing=True)
        with Checkpoint(self.weights) as checkpoint:
            return builder.pack(bind(family, checkpoint))


def open_folder(path: Path) -> CheckpointFolder:
    """The model in a folder, which must hold config.json and weights in safetensors.

    Raises
    ------
    ModelFileError
        The folder, or one of these files, cannot be read.
    ModelFormatError
        It is not a model; the text says what is missing.
    UnsupportedError
        The weights are in a form that fastlm does not read; the text says how to convert them.
    """
    try:
        names = {entry.name for entry in path.iterdir()}
    except OSError as error:
        raise file_error(path, "read", error) from error
    weights = next((name for name in _WEIGHTS if name in names), None)
    if weights is None:
        raise no_weights(path, names)
    if "config.json" not in names:
        raise ModelFormatError(f"{path}: not a model folder: it holds {weights} but no config.json")
    for name in (weights, "config.json"):
        _check_start(path / name)
    return CheckpointFolder(path, weights)


def _found(path: Path) -> os.stat_result | None:
    """What the system says of a file, which must be readable; None: there is none.

    One of the hub cache is a link to a blob, which an unfinished download lacks.
    """
    try:
        return path.stat()
    except (FileNotFoundError, NotADirectoryError):
        if path.is_symlink():
            raise ModelFileError(f"{path}: points to a file that does not exist; download the model again") from None
        return None
    except OSError as error:
        raise file_error(path, "read", error) from error


def _check_start(path: Path) -> None:
    """A file that `path.iterdir` has named can be read, and is itself."""
    _found(path)
    file_bytes(path)
    try:
        with path.open("rb") as file:
            check_lfs(file.read(_LFS_PROBE_BYTES), str(path))
    except OSError as error:
        raise file_error(path, "read", error) from error


def no_weights(path: Path, names: set[str]) -> ModelFormatError | UnsupportedError:
    """What to say of a folder without model.safetensors or its index."""
    others = sorted(name for name in names if name.endswith(".safetensors"))
    pickled = sorted(name for name in names if _PICKLED.fullmatch(name))
    gguf = sorted(name for name in names if name.lower().endswith(".gguf"))
    if others == ["adapter_model.safetensors"]:
        return ModelFormatError(
            f"{path}: holds an adapter, not a model; load the model that it was trained on, then load_adapter it"
        )
    if others:
        return ModelFormatError(f"{path}: holds {others[0]}, but neither {_WEIGHTS[0]} nor {_WEIGHTS[1]}")
    if pickled:
        return UnsupportedError(
            f"{path}: holds only {pickled[0]}, a pickle, which can run code when it is loaded; convert it once with "
            f"transformers: AutoModelForCausalLM (or the class that config.json names)"
            f".from_pretrained({str(path)!r}).save_pretrained({str(path)!r})"
        )
    if gguf:
        return no_gguf(path / gguf[0])
    missing = "model.safetensors" if "config.json" in names else "config.json and model.safetensors"
    return ModelFormatError(f"{path}: not a model folder: it lacks {missing}")


def no_gguf(path: Path) -> UnsupportedError:
    """What to say of a GGUF file."""
    return UnsupportedError(f"{path}: GGUF is not read; use the safetensors checkpoint that it was made from")
