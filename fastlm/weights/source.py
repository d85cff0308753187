"""A model on this machine, whatever its form: what loading asks of it. Each form is one file of this folder."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, TypeVar

from fastlm.errors import ModelFormatError
from fastlm.weights.jsonfile import MAX_JSON_BYTES, parse_object

if TYPE_CHECKING:
    from fastlm.weights.bind import Binding

MODULES = "modules.json"  # of a folder of sentence-transformers: what comes behind the model

Built = TypeVar("Built")
Built_co = TypeVar("Built_co", covariant=True)


class Builder(Protocol[Built_co]):
    """Makes a model of a source's weights. A source calls one of the two, with weights that it has checked."""

    def pack(self, weights: Binding) -> Built_co:
        """From tensors that are read row by row, in the formats that they are stored in."""
        ...

    def map(self, file: Path) -> Built_co:
        """From a file of packed weights that is used in place, and says itself what it is."""
        ...


class ModelSource(ABC):
    """Where a model is, and how its parts are read."""

    __slots__ = ()

    path: Path  # the folder or the file, for error texts

    @abstractmethod
    def describe(self, name: str) -> str:
        """How error texts call one of the model's small files."""

    @abstractmethod
    def read(self, name: str) -> bytes | None:
        """A whole small file of the model (tokenizer.json, chat_template.jinja, ...); None if there is none.

        Raises
        ------
        ModelFormatError
            The file is larger than any tokenizer, or a Git LFS pointer.
        ModelFileError
            The file cannot be read, or was changed since it was first read.
        """

    def names(self, folder: str) -> tuple[str, ...]:
        """Names, in order, of the small files in a folder of the model, which `read` takes as "folder/name".

        None is found by a form that has no folders.

        Raises
        ------
        ModelFileError
            The folder cannot be read.
        """
        return ()

    @abstractmethod
    def build(self, config: Mapping[str, object], builder: Builder[Built]) -> Built:
        """Give the weights to `builder`: with the spec that `config` says and the weights complete, or as a file.

        What only the weights decide is whether the head is the embedding.

        Raises
        ------
        ModelFormatError, UnsupportedError
            Config and weights do not fit each other, or this version cannot run them.
        """

    def read_json(self, name: str) -> dict[str, object] | None:
        """The JSON object in a small file of the model; None if there is none of that name.

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
