"""fastlm train: a tokenizer and a small Llama from text files."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from fastlm.errors import ParameterError
from fastlm.train.corpus import Rows, TextFile, read_texts
from fastlm.train.folders import Run
from fastlm.train.loop import Job, fit, next_token_loss
from fastlm.train.models import Machine, add_dropout, count, create_llama, machine, save_model, seed_step
from fastlm.train.recipe import Recipe, Shape
from fastlm.train.report import Card, write_report
from fastlm.train.validation import HeldOut
from fastlm.train.vocabulary import FolderCodec, copy_tokenizer, learn_tokenizer

PathLike = str | os.PathLike[str]


def train(
    texts: Sequence[PathLike],
    out: PathLike,
    *,
    vocab: int = 4096,
    shape: Shape | None = None,
    recipe: Recipe | None = None,
    weights: Sequence[float] = (),
    tokenizer: PathLike | None = None,
) -> Path:
    """Train a small Llama from text files.

    Parameters
    ----------
    texts
        UTF-8 files, documents separated by lines `<|endoftext|>`; the last 5 % of each file's are held out.
    out
        The folder to write; a run that was killed goes on when the call is repeated.
    vocab
        Size of the byte-level BPE that is learned, unless `tokenizer` names a folder to take it from.
    weights
        How often an epoch shows each file (1).

    Returns
    -------
    Path
        `out`: a Hugging Face folder with a model card, the learning curves, and training.json.
    """
    shape, recipe = shape or Shape(), recipe or Recipe()
    where = machine(recipe)
    files = read_texts([os.fspath(path) for path in texts], weights)
    settings = {
        "command": "train",
        **text_settings(files),
        "vocab": vocab if tokenizer is None else str(tokenizer),
        **asdict(shape),
        **recipe_settings(recipe, where),
    }
    run = Run(out, settings)
    if not run.open():
        return run.out
    try:
        if tokenizer is None:
            documents = [text for file in files for text in file.train]
            source = run.once("tokenizer", lambda folder: learn_tokenizer(documents, vocab, folder, shape.context))
        else:
            source = Path(tokenizer)
        codec = FolderCodec(source, {})
        seed_step(recipe.seed, -1)
        model = create_llama(shape, codec.size, codec.start, codec.end)
        add_dropout(model, recipe.dropout)
        length = row_length(recipe, shape.context)
        rows = Rows(files, codec, length=length, batch=recipe.batch, seed=recipe.seed)
        job = Job(model, next_token_loss, rows, HeldOut.of(files, codec, length))
        state = fit(job, recipe, where, run)

        def write(folder: Path) -> None:
            copy_tokenizer(source, folder)
            save_model(model, folder)
            write_report(folder, Card("Trained from scratch.", count(model), settings, state))

        run.finish(state.log, write)
    finally:
        run.close()
    return run.out


def text_settings(files: Sequence[TextFile]) -> dict[str, object]:
    """What of the texts decides on the result."""
    return {"texts": [{"name": file.name, "sha256": file.digest, "weight": file.weight} for file in files]}


def recipe_settings(recipe: Recipe, where: Machine) -> dict[str, object]:
    """What of the recipe does, with the machine's choices instead of "auto"."""
    precision = "bfloat16" if where.bfloat16 else "float32"
    return {**recipe.settings(), "device": where.device, "precision": precision}


def row_length(recipe: Recipe, context: int) -> int:
    """Tokens per training row."""
    if recipe.length is None:
        return min(512, context)
    if recipe.length > context:
        raise ParameterError(f"length {recipe.length} is over the model's context of {context}")
    return recipe.length
