"""The adapters of a model: loaded under names, and looked up by the calls that name them."""

from __future__ import annotations

import os
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from fastlm import _core
from fastlm.arch import registry
from fastlm.arch.family import Family
from fastlm.arch.spec import ModelSpec
from fastlm.arguments import shown
from fastlm.errors import ParameterError, memory_for
from fastlm.weights.adapter import read_adapter
from fastlm.weights.lora import HEAD, TOKENS, changes
from fastlm.weights.paths import path_of
from fastlm.weights.source import ModelSource


class Adaptable(Protocol):
    """A model that adapters are loaded for: `fastlm.engine.Engine`."""

    @property
    def core(self) -> _core.Model: ...
    @property
    def spec(self) -> ModelSpec: ...
    @property
    def config(self) -> Mapping[str, object]: ...
    @property
    def source(self) -> ModelSource: ...


@dataclass(frozen=True, slots=True)
class Loaded:
    """An adapter in C, and where it came from."""

    core: _core.Adapter
    folder: Path
    scale: float


class Adapters:
    """Names and adapters. Several threads may load, unload and look up."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._loaded: dict[str, Loaded] = {}

    def loaded(self) -> dict[str, Loaded]:
        """A copy."""
        with self._lock:
            return dict(self._loaded)

    def known(self, name: str) -> str:
        """The name of an adapter that is loaded."""
        if not isinstance(name, str) or name not in self.loaded():
            raise self._unknown(name)
        return name

    def _unknown(self, name: object) -> ParameterError:
        there = ", ".join(map(repr, self.loaded())) or "none; load_adapter loads one"
        return ParameterError(f"adapter: there is none called {shown(name)} (loaded: {there})")

    def find(self, name: str | None) -> _core.Adapter | None:
        """The adapter of that name; None for None."""
        if name is None:
            return None
        found = self.loaded().get(name)
        if found is None:
            raise self._unknown(name)
        return found.core

    def load(self, model: Adaptable, name: str, path: str | os.PathLike[str], scale: float) -> None:
        """See `Model.load_adapter`."""
        if not isinstance(name, str) or not name:
            raise ParameterError(f"name must be a text, and not empty, not {shown(name)}")
        self._check_free(name)
        folder = path_of(path)
        with memory_for(f"the adapter {folder}"):
            found = changes(read_adapter(folder), family_of(model), model.spec, _Weights(model.core), scale)
            adapter = model.core.adapter(found)
        with self._lock:
            if name not in self._loaded:
                self._loaded[name] = Loaded(adapter, folder, scale)
                return
        adapter.close()
        self._check_free(name)

    def unload(self, name: str) -> None:
        """See `Model.unload_adapter`."""
        self.known(name)
        with self._lock:
            gone = self._loaded.pop(name, None)
        if gone is not None:
            gone.core.close()

    def _check_free(self, name: str) -> None:
        if name in self.loaded():
            raise ParameterError(f"name: an adapter called {shown(name)} is loaded already: unload it first")


def family_of(model: Adaptable) -> Family:
    """The rules of a model's checkpoint."""
    return registry.read(model.config, model.source.describe("config.json"))


class _Weights:
    """The weights of a model in C, for `changes`."""

    def __init__(self, core: _core.Model) -> None:
        self._core = core
        self._index = {tensor.name: i for i, tensor in enumerate(core.tensors())}

    def rows(self, slot: str, start: int, stop: int) -> NDArray[np.float32]:
        index = self._index.get(slot)
        if index is None and slot == HEAD:  # it is tied
            index = self._index[TOKENS]
        assert index is not None
        return self._core.read_rows(index, start, stop - start)
