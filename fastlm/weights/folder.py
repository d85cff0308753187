"""Finding a model on this machine: a checkpoint folder, a .flm file, or a hub id in the local Hugging Face cache."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

from fastlm.errors import ModelFileError, ModelFormatError, ParameterError, UnsupportedError
from fastlm.weights import container
from fastlm.weights.jsonfile import MAX_JSON_BYTES, check_lfs, file_bytes, parse_object, read_bytes

MAX_FILE_BYTES = 256 << 20  # of tokenizer.json, the largest file that is read whole
CHECKPOINT_FILES = (".safetensors", ".json", ".bin")  # endings of what lies in a model folder

_WEIGHTS = ("model.safetensors", "model.safetensors.index.json")
_PICKLED = re.compile(r"(pytorch_model|model|consolidated)[\w.-]*\.(bin|pt|pth)(\.index\.json)?", re.ASCII)
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]{0,95}(/[A-Za-z0-9][\w.-]{0,95})?", re.ASCII)
_REVISION = re.compile(r"[\w.-]{1,128}", re.ASCII)
_LFS_PROBE_BYTES = 64


@dataclass(frozen=True, slots=True)
class Location:
    """Where a model is and what it is made of."""

    path: Path  # the folder, or the .flm file
    weights: Path  # the safetensors file, the index of its shards, or the .flm file
    embedded: container.Contents | None = None  # of a .flm file

    @property
    def is_container(self) -> bool:
        return self.embedded is not None

    def describe(self, name: str) -> str:
        """How error texts call one of the model's files."""
        return f"{self.path}: {name}" if self.is_container else str(self.path / name)

    def read(self, name: str) -> bytes | None:
        """A whole file of the model (tokenizer.json, chat_template.jinja, ...); None if it has none of that name.

        Raises
        ------
        ModelFormatError
            The file is larger than any tokenizer, or a Git LFS pointer.
        ModelFileError
            The file cannot be read.
        """
        if self.embedded is not None:
            return self.embedded.files.get(name)
        path = self.path / name
        return read_bytes(path, MAX_FILE_BYTES) if path.exists() else None

    def read_json(self, name: str) -> dict[str, object] | None:
        """The JSON object in a small file of the model; None if it has none of that name.

        Raises as `read`, and ModelFormatError if the file is larger than 16 MiB or does not hold a JSON object.
        """
        data = self.read(name)
        if data is None:
            return None
        if len(data) > MAX_JSON_BYTES:
            raise ModelFormatError(
                f"{self.describe(name)}: has {len(data):,} bytes; at most {MAX_JSON_BYTES:,} are read"
            )
        return parse_object(data, self.describe(name))

    def config(self) -> dict[str, object]:
        """The object in config.json."""
        config = self.read_json("config.json")
        if config is None:
            raise ModelFormatError(f"{self.path}: holds no config.json")
        return config


def locate(path: str | os.PathLike[str]) -> Location:
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
        `path` is not a path.
    """
    if not isinstance(path, (str, os.PathLike)) or not os.fspath(path) or "\0" in os.fsdecode(path):
        raise ParameterError(f"path: expected a model folder, a .flm file or a hub id, found {path!r:.200}")
    found = Path(os.fsdecode(path))
    try:
        is_folder, exists = found.is_dir(), found.exists()
    except PermissionError as error:
        raise ModelFileError(f"{found}: cannot be read: {error.strerror}") from error
    except OSError:  # too long for a path
        is_folder = exists = False
    if is_folder:
        return _folder(found)
    return _file(found) if exists else _folder(_snapshot(os.fsdecode(path)))


def _file(path: Path) -> Location:
    suffix = path.suffix.lower()
    if suffix == ".gguf":
        raise _gguf(path)
    if suffix in CHECKPOINT_FILES:
        raise ParameterError(f"{path}: give the folder that holds config.json and the weights")
    return Location(path, path, container.read(path))


def _gguf(path: Path) -> UnsupportedError:
    return UnsupportedError(f"{path}: GGUF is not read; use the safetensors checkpoint that it was made from")


def _folder(path: Path) -> Location:
    try:
        names = {entry.name for entry in path.iterdir()}
    except OSError as error:
        raise ModelFileError(f"{path}: cannot be read: {error.strerror}") from error
    weights = next((name for name in _WEIGHTS if name in names), None)
    if weights is None:
        raise _no_weights(path, names)
    if "config.json" not in names:
        raise ModelFormatError(f"{path}: not a model folder: it holds {weights} but no config.json")
    for name in (weights, "config.json"):
        _check_link(path / name)
    return Location(path, path / weights)


def _check_link(path: Path) -> None:
    """A file of the hub cache is a link to a blob, which an unfinished download lacks."""
    if not path.exists():
        raise ModelFileError(f"{path}: points to a file that does not exist; download the model again")
    file_bytes(path)
    try:
        with path.open("rb") as file:
            check_lfs(file.read(_LFS_PROBE_BYTES), str(path))
    except OSError as error:
        raise ModelFileError(f"{path}: cannot be read: {error.strerror}") from error


def _no_weights(path: Path, names: set[str]) -> ModelFormatError | UnsupportedError:
    """What to say of a folder without model.safetensors or its index."""
    others = sorted(name for name in names if name.endswith(".safetensors"))
    pickled = sorted(name for name in names if _PICKLED.fullmatch(name))
    gguf = sorted(name for name in names if name.lower().endswith(".gguf"))
    if others == ["adapter_model.safetensors"]:
        return ModelFormatError(f"{path}: holds an adapter, not a model; load the model that it was trained on")
    if others:
        return ModelFormatError(f"{path}: holds {others[0]}, but neither {_WEIGHTS[0]} nor {_WEIGHTS[1]}")
    if pickled:
        return UnsupportedError(
            f"{path}: holds only {pickled[0]}, a pickle, which can run code when it is loaded; convert it once with "
            f"transformers: AutoModelForCausalLM (or the class that config.json names)"
            f".from_pretrained({str(path)!r}).save_pretrained({str(path)!r})"
        )
    if gguf:
        return _gguf(path / gguf[0])
    missing = "model.safetensors" if "config.json" in names else "config.json and model.safetensors"
    return ModelFormatError(f"{path}: not a model folder: it lacks {missing}")


def _cache() -> Path:
    """The Hugging Face cache's folder of models, found as huggingface_hub finds it."""
    for variable, below in (("HF_HUB_CACHE", ""), ("HUGGINGFACE_HUB_CACHE", ""), ("HF_HOME", "hub")):
        value = os.environ.get(variable)
        if value:
            return _home(Path(value) / below)
    return _home(Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "huggingface" / "hub")


def _home(path: Path) -> Path:
    try:
        return path.expanduser()
    except RuntimeError:  # there is no home
        return path


def _snapshot(name: str) -> Path:
    """The folder of a cached hub model's main revision."""
    cache = _cache()
    if not _HUB_ID.fullmatch(name) or "--" in name or ".." in name:
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
    if not _REVISION.fullmatch(revision) or revision.startswith(".") or not snapshot.is_dir():
        raise ModelFileError(f"{main}: names no snapshot; download it again with: hf download {name}")
    return snapshot
