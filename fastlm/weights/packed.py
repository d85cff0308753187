"""A .flm file: packed weights that the C core maps, and the small files of the folder that it was made from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from fastlm.errors import ModelFileError, file_error
from fastlm.weights import container
from fastlm.weights.paths import identity_of
from fastlm.weights.source import Builder, Built, ModelSource


@dataclass(frozen=True, slots=True)
class PackedFile(ModelSource):
    """A .flm file whose small parts are in memory."""

    path: Path
    contents: container.Contents

    def describe(self, name: str) -> str:
        return f"{self.path}: {name}"

    def read(self, name: str) -> bytes | None:
        return self.contents.files.get(name)

    def names(self, folder: str) -> tuple[str, ...]:
        start = f"{folder}/"
        return tuple(sorted(name.removeprefix(start) for name in self.contents.files if name.startswith(start)))

    def build(self, config: Mapping[str, object], builder: Builder[Built]) -> Built:
        """Give the file to `builder`: it says itself what it is, so `config` is not asked."""
        built = builder.map(self.path)
        try:
            found = identity_of(self.path.stat())
        except OSError as error:
            raise file_error(self.path, "read", error) from error
        if found != self.contents.identity:
            raise ModelFileError(f"{self.path}: was replaced while it was read: load it again")
        return built


def open_packed(path: Path) -> PackedFile:
    """The model in a .flm file.

    Raises as `fastlm.weights.container.read`.
    """
    return PackedFile(path, container.read(path))
