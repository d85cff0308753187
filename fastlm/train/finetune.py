"""fastlm finetune: a checkpoint learns from more text, all of its weights or a low-rank adapter beside them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from fastlm.errors import ParameterError
from fastlm.train.extra import need
from fastlm.train.loop import State
from fastlm.train.models import (
    add_dropout,
    context_of,
    count,
    decoder_at,
    file_digest,
    load_decoder,
    save_model,
    seed_step,
)
from fastlm.train.prepare import PathLike, Plan, Texts
from fastlm.train.recipe import FINETUNING, Lora, Recipe
from fastlm.train.report import Card, write_report
from fastlm.train.vocabulary import ModelCodec, copy_tokenizer
from fastlm.weights.folder import CheckpointFolder

MERGED = "merged"  # folder inside an adapter's


def finetune(
    model: PathLike,
    texts: Sequence[PathLike],
    out: PathLike,
    *,
    lora: Lora | None = None,
    recipe: Recipe | None = None,
    weights: Sequence[float] = (),
    extra: Sequence[PathLike] = (),
) -> Path:
    """Train a checkpoint on with texts.

    Parameters
    ----------
    model
        The checkpoint folder of a decoder.
    lora
        None: all weights learn, and `out` is a checkpoint like `model`. Else only an adapter learns, and `out` is a
        PEFT folder.

    See `scratch.train` for the others.
    """
    recipe = recipe or Recipe(**FINETUNING)
    location = decoder_at(model, "model")
    codec = ModelCodec(location)
    settings = {
        "model": str(model),
        "model_sha256": file_digest(location.weights),
        "lora": None if lora is None else asdict(lora),
    }
    plan = Plan.of("finetune", out, Texts.read(texts, weights, extra), recipe, settings)
    with plan.run as unfinished:
        if unfinished:
            _finetune(plan, location, codec, lora)
    return plan.run.out


def _finetune(plan: Plan, location: CheckpointFolder, codec: ModelCodec, lora: Lora | None) -> None:
    seed_step(plan.recipe.seed, -1)
    base = load_decoder(location.path)
    size, context = count(base), context_of(base)
    if lora is None:
        add_dropout(base, plan.recipe.dropout)
        learner = base
    else:
        learner = _adapted(base, lora, plan.recipe)

    def write(folder: Path, state: State) -> None:
        kind = "fine-tuned" if lora is None else f"with an adapter of rank {lora.rank}"
        card = Card(f"{location.path.name}, {kind}", size, plan.settings, state)
        if lora is None:
            copy_tokenizer(location.path, folder)
            save_model(base, folder)
        else:
            learner.save_pretrained(folder)
            if lora.merge:
                merged = folder / MERGED
                merged.mkdir()
                copy_tokenizer(location.path, merged)
                save_model(learner.merge_and_unload(), merged)
        write_report(folder, card)

    plan.carry_out(plan.job(learner, codec, context), write)


def _adapted(base: Any, lora: Lora, recipe: Recipe) -> Any:
    """A PEFT model: `base` frozen, with a fresh adapter."""
    peft = need("peft")
    targets: str | list[str] = lora.targets
    if lora.targets != "all-linear":
        targets = [name.strip() for name in lora.targets.split(",")]
    config = peft.LoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,
        lora_dropout=recipe.dropout,
        target_modules=targets,
        task_type="CAUSAL_LM",
    )
    try:
        return peft.get_peft_model(base, config)
    except ValueError as error:
        raise ParameterError(f"targets: {error}") from error
