"""Finding a model on this machine: a checkpoint folder, a .flm file, or a hub id in the local Hugging Face cache."""

from __future__ import annotations

import errno
import os
import re
from pathlib import Path

from fastlm.errors import FastlmError, ModelFileError, ParameterError, file_error
from fastlm.weights.jsonfile import read_bytes
from fastlm.weights.packed import open_packed
from fastlm.weights.paths import path_of
from fastlm.weights.source import ModelSource

CHECKPOINT_FILES = (".safetensors", ".json", ".bin")  # endings of what lies in a model folder

_HUB_ID = r"[A-Za-z0-9][\w.-]{0,95}(/[A-Za-z0-9][\w.-]{0,95})?"
_REVISION = r"[\w.-]{1,128}"


def locate(path: str | os.PathLike[str]) -> ModelSource:
    """Find a model.

    Parameters
    ----------
    path
        A checkpoint folder, a .flm file, or a hub id ("org/name") that is already in the local Hugging Face cache
        ($HF_HUB_CACHE, $HF_HOME/hub, or ~/.cache/huggingface/hub). Nothing is downloaded. An existing folder or file
        is taken before a hub id.

    Raises
    ------
    ModelFileError
        There is no such folder, file or cached model.
    ModelFormatError
        It is not a model; the text says what is missing.
    UnsupportedError
        The weights are in a form that fastlm does not read; the text says how to convert them.
    ParameterError
        `path` is none.
    """
    found = path_of(path)
    try:
        if found.is_dir():
            return _folder(found)
        return _file(found) if found.exists() else _folder(_snapshot(os.fsdecode(path)))
    except FastlmError:
        raise
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            raise ModelFileError(f"{str(found)[:300]}: no such folder or file") from error
        raise file_error(error.filename or found, "read", error) from error


def _folder(path: Path) -> ModelSource:
    from fastlm.weights.colbert import open_colbert  # here: a .flm file needs none of them
    from fastlm.weights.folder import open_folder
    from fastlm.weights.static import open_static

    if static := open_static(path):
        return static
    folder = open_folder(path)
    return open_colbert(folder) or folder


def _file(path: Path) -> ModelSource:
    suffix = path.suffix.lower()
    if suffix == ".gguf":
        from fastlm.weights.folder import no_gguf

        raise no_gguf(path)
    if suffix in CHECKPOINT_FILES:
        raise ParameterError(f"{path}: give the folder that holds config.json and the weights")
    return open_packed(path)


def _cache() -> Path:
    """The Hugging Face cache's folder of models, found as huggingface_hub finds it."""
    for variable, below in (("HF_HUB_CACHE", ""), ("HUGGINGFACE_HUB_CACHE", ""), ("HF_HOME", "hub")):
        value = os.environ.get(variable)
        if value:
            return path_of(value) / below
    return path_of(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "huggingface" / "hub"


def _snapshot(name: str) -> Path:
    """The folder of a cached hub model's main revision."""
    cache = _cache()
    if not re.fullmatch(_HUB_ID, name, re.ASCII) or "--" in name or ".." in name:
        raise ModelFileError(f"{name[:300]}: no such folder or file")
    model = cache / f"models--{name.replace('/', '--')}"
    if not model.is_dir():
        raise ModelFileError(
            f"{name}: no such folder or file, and no model of this name in the Hugging Face cache ({cache}); "
            f"download it with: hf download {name}"
        )
    main = model / "refs" / "main"
    if not main.is_file():
        raise ModelFileError(f"{model}: has no refs/main; download it again with: hf download {name}")
    revision = read_bytes(main, 1000).decode("ascii", "replace").strip()
    snapshot = model / "snapshots" / revision
    if not re.fullmatch(_REVISION, revision, re.ASCII) or revision.startswith(".") or not snapshot.is_dir():
        raise ModelFileError(f"{main}: names no snapshot; download it again with: hf download {name}")
    return snapshot
