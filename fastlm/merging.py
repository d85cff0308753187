"""A model with one of its adapters added to its weights."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from fastlm import _core
from fastlm.adapters import Adapters
from fastlm.adapting import family_of
from fastlm.arch.spec import ModelSpec
from fastlm.engine import Engine
from fastlm.errors import memory_for
from fastlm.weights.adapter import read_adapter
from fastlm.weights.bind import Binding
from fastlm.weights.lora import changes
from fastlm.weights.merged import Stored, merge


def with_merged(engine: Engine, name: str) -> Engine:
    """See `Model.merge_adapter`: the model anew, and the other adapters that were loaded."""
    others = engine.adapters.loaded()
    chosen, family = others.pop(engine.adapters.known(name)), family_of(engine)
    folder = read_adapter(chosen.folder)

    def change(weights: Binding) -> Binding:
        return merge(weights, changes(folder, family, weights.spec, Stored(weights), chosen.scale))

    def rebuild(more: Callable[[Binding], Binding]) -> tuple[_core.Context, _core.Model, ModelSpec]:
        assert engine.rebuild is not None
        return engine.rebuild(lambda weights: more(change(weights)))

    with memory_for(f"the model with {chosen.folder}"):
        context, core, spec = rebuild(lambda weights: weights)
    made = replace(
        engine,
        core=core,
        context=context,
        spec=spec,
        info=core.info(),
        adapters=Adapters(),
        rebuild=rebuild,
        on_close=set(),
    )
    for other, loaded in others.items():
        made.adapters.load(made, other, loaded.folder, loaded.scale)
    return made
