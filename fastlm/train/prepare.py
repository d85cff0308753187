"""What the three commands do alike: texts, settings, rows, the run from its first step to its folder."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fastlm.errors import ParameterError
from fastlm.train.corpus import Rows, TextFile, read_texts
from fastlm.train.folders import Run
from fastlm.train.loop import Job, State, fit, next_token_loss
from fastlm.train.models import Machine, logits_of, machine
from fastlm.train.recipe import Recipe
from fastlm.train.validation import HeldOut
from fastlm.train.vocabulary import ModelCodec

PathLike = str | os.PathLike[str]
DEFAULT_LENGTH = 512  # tokens per row, where the context is longer


@dataclass(frozen=True, slots=True)
class Texts:
    """What to train on: files whose end is held out, and files that are shown whole."""

    files: list[TextFile]
    extra: list[TextFile]

    @staticmethod
    def read(texts: Sequence[PathLike], weights: Sequence[float], extra: Sequence[PathLike]) -> Texts:
        files = read_texts([os.fspath(path) for path in texts], weights)
        whole = read_texts([os.fspath(path) for path in extra]) if extra else []
        return Texts(files, [file.whole() for file in whole])

    def settings(self) -> list[dict[str, object]]:
        """What of the texts decides on the result."""
        return [
            {"name": file.name, "sha256": file.digest, "weight": file.weight, "held_out": bool(file.held_out)}
            for file in [*self.files, *self.extra]
        ]


@dataclass(frozen=True, slots=True)
class Plan:
    """A run that may begin: where it goes, on what, and the settings that decide on its result."""

    run: Run
    texts: Texts
    recipe: Recipe
    where: Machine
    settings: dict[str, Any]

    @staticmethod
    def of(command: str, out: PathLike, texts: Texts, recipe: Recipe, settings: Mapping[str, Any]) -> Plan:
        where = machine(recipe)
        fixed = {
            "device": where.device,
            "precision": "bfloat16" if where.bfloat16 else "float32",
            "threads": where.threads,
        }
        whole = {"command": command, "texts": texts.settings(), **settings, **recipe.settings(), **fixed}
        return Plan(Run(out, whole), texts, recipe, where, whole)

    def job(
        self,
        model: Any,
        codec: ModelCodec,
        context: int,
        *,
        loss: Callable[[Any, Any], Any] = next_token_loss,
        logits: Callable[[Any, Any], Any] = logits_of,
        written: Sequence[TextFile] = (),
    ) -> Job:
        """Rows of the texts, of what was written besides, and the held-out part."""
        recipe = self.recipe
        length = min(DEFAULT_LENGTH, context) if recipe.length is None else recipe.length
        if length > context:
            raise ParameterError(f"length {length} is over the model's context of {context}")
        files = [*self.texts.files, *self.texts.extra, *written]
        rows = Rows(files, codec, length=length, batch=recipe.batch, seed=recipe.seed)
        return Job(model, loss, rows, HeldOut.of(self.texts.files, codec, length), logits)

    def carry_out(self, job: Job, write: Callable[[Path, State], None]) -> None:
        """Train, and have the result written."""
        state = fit(job, self.recipe, self.where, self.run)
        self.run.finish(state.log, lambda folder: write(folder, state))
