"""A .flm file: packed weights that the C core maps, and the small files of the folder that it was made from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from fastlm.arch import registry
from fastlm.arch.spec import ModelSpec, is_encoded
from fastlm.errors import ModelFormatError
from fastlm.weights import container
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

    def build(self, config: Mapping[str, object], builder: Builder[Built]) -> Built:
        spec = registry.read(config, self.describe("config.json")).spec
        return builder.map(self.path, self._packed_spec(spec))

    def _packed_spec(self, spec: ModelSpec) -> ModelSpec:
        """What its config says, but for a head that the weights decided on when the file was written."""
        heads = [] if spec.head is None else [replace(spec.head, tied=not spec.head.tied)]
        specs = [spec, *(replace(spec, head=head) for head in heads)]
        found = next((s for s in specs if is_encoded(s, self.contents.spec)), None)
        if found is None:
            raise ModelFormatError(f"{self.path}: spec and config.json disagree: convert the checkpoint again")
        return found


def open_packed(path: Path) -> PackedFile:
    """The model in a .flm file.

    Raises as `fastlm.weights.container.read`.
    """
    return PackedFile(path, container.read(path))
