"""The index of a safetensors checkpoint in several files."""

from __future__ import annotations

from pathlib import Path

from fastlm.errors import ModelFormatError
from fastlm.weights.jsonfile import read_object


def _plain_file_name(name: object) -> bool:
    """Whether a shard name cannot leave its folder, on any system."""
    return (
        isinstance(name, str)
        and name.endswith(".safetensors")
        and not name.startswith(".")
        and not any(c in "/\\:" or ord(c) < 32 for c in name)
    )


def read_index(path: Path) -> dict[str, str]:
    """The weight map of a shard index: tensor name to file name.

    Raises
    ------
    ModelFormatError
        It is malformed, or a file lies elsewhere than beside it.
    ModelFileError
        It cannot be read.
    """
    weight_map = read_object(path).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise ModelFormatError(f"{path}: weight_map must map the names of tensors to files")
    for name, file in weight_map.items():
        if not _plain_file_name(file):
            raise ModelFormatError(f"{path}: weight_map: {name[:200]!r}: {str(file)[:200]!r} is not a plain file name")
    return weight_map
