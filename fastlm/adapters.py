"""The adapters of a model: loaded under names, and looked up by the calls that name them."""

from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from fastlm import _core
from fastlm.arguments import shown
from fastlm.errors import ParameterError, memory_for
from fastlm.weights.paths import path_of

if TYPE_CHECKING:
    from fastlm.adapting import Adaptable


class Loaded(NamedTuple):
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
        from fastlm.adapting import make_adapter  # here: whoever loads no adapter needs none of its readers

        folder = path_of(path)
        with memory_for(f"the adapter {folder}"):
            adapter = make_adapter(model, folder, scale)
        with self._lock:
            if name not in self._loaded:
                self._loaded[name] = Loaded(adapter, folder, scale)
                return
        adapter.close()
        self._check_free(name)

    def unload(self, name: str) -> None:
        """See `Model.unload_adapter`."""
        with self._lock:
            gone = self._loaded.pop(name, None) if isinstance(name, str) else None
        if gone is None:
            raise self._unknown(name)
        gone.core.close()

    def _check_free(self, name: str) -> None:
        if name in self.loaded():
            raise ParameterError(f"name: an adapter called {shown(name)} is loaded already: unload it first")
