"""fastlm train: a tokenizer and a small Llama from text files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from fastlm.train.loop import State
from fastlm.train.models import add_dropout, count, create_llama, save_model, seed_step
from fastlm.train.prepare import PathLike, Plan, Texts
from fastlm.train.recipe import Recipe, Shape
from fastlm.train.report import Card, write_report
from fastlm.train.vocabulary import ModelCodec, copy_tokenizer, learn_tokenizer
from fastlm.weights.folder import CheckpointFolder
from fastlm.weights.paths import path_of


def train(
    texts: Sequence[PathLike],
    out: PathLike,
    *,
    vocab: int = 4096,
    shape: Shape | None = None,
    recipe: Recipe | None = None,
    weights: Sequence[float] = (),
    extra: Sequence[PathLike] = (),
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
    extra
        Files that are trained on whole, but not for the tokenizer.

    Returns
    -------
    Path
        `out`: a Hugging Face folder with a model card, the learning curves, and training.json.
    """
    shape, recipe = shape or Shape(), recipe or Recipe()
    settings = {"vocab": vocab if tokenizer is None else str(tokenizer), **asdict(shape)}
    plan = Plan.of("train", out, Texts.read(texts, weights, extra), recipe, settings)
    with plan.run as unfinished:
        if unfinished:
            _train(plan, vocab, shape, tokenizer)
    return plan.run.out


def _train(plan: Plan, vocab: int, shape: Shape, tokenizer: PathLike | None) -> None:
    if tokenizer is None:
        documents = [text for file in plan.texts.files for text in file.train]
        source = plan.run.once("tokenizer", lambda folder: learn_tokenizer(documents, vocab, folder, shape.context))
    else:
        source = path_of(tokenizer)
    codec = ModelCodec(CheckpointFolder(source))
    seed_step(plan.recipe.seed, -1)
    model = create_llama(shape, codec.size, codec.start, codec.end)
    add_dropout(model, plan.recipe.dropout)

    def write(folder: Path, state: State) -> None:
        copy_tokenizer(source, folder)
        save_model(model, folder)
        write_report(folder, Card("A small Llama, trained from scratch", count(model), plan.settings, state))

    plan.carry_out(plan.job(model, codec, shape.context), write)
