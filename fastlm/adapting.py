"""An adapter's folder as changes of a model in C."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from fastlm import _core
from fastlm.arch import registry
from fastlm.arch.family import Family
from fastlm.arch.spec import ModelSpec
from fastlm.weights.adapter import read_adapter
from fastlm.weights.lora import HEAD, TOKENS, changes
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


def make_adapter(model: Adaptable, folder: Path, scale: float) -> _core.Adapter:
    """See `Model.load_adapter`."""
    return model.core.adapter(changes(read_adapter(folder), family_of(model), model.spec, _Weights(model.core), scale))


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
