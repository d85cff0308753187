"""fastlm distill: a small student learns what a teacher expects of each next token."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from fastlm.arch import registry
from fastlm.errors import ParameterError
from fastlm.train.corpus import SEPARATOR, TextFile, split_documents
from fastlm.train.figures import measure
from fastlm.train.loop import State
from fastlm.train.models import (
    add_dropout,
    context_of,
    count,
    create_from,
    create_llama,
    decoder_at,
    file_digest,
    load_decoder,
    logits_of,
    save_model,
    seed_step,
)
from fastlm.train.prepare import PathLike, Plan, Texts
from fastlm.train.recipe import Recipe, Shape
from fastlm.train.report import Card, write_report
from fastlm.train.vocabulary import ModelCodec, copy_tokenizer
from fastlm.weights.folder import CheckpointFolder
from fastlm.weights.paths import path_of

SHARD = 64  # documents that the teacher writes at once


def distill(
    teacher: PathLike,
    texts: Sequence[PathLike],
    out: PathLike,
    *,
    student: PathLike | None = None,
    shape: Shape | None = None,
    recipe: Recipe | None = None,
    weights: Sequence[float] = (),
    extra: Sequence[PathLike] = (),
    temperature: float = 2.0,
    share: float = 0.7,
    write: int = 0,
    beside: Sequence[PathLike] = (),
) -> Path:
    """Train a student on texts and on a teacher's logits.

    The loss is (1 - share) cross-entropy + share temperature^2 KL(teacher || student), where the temperature softens
    both distributions.

    Parameters
    ----------
    teacher
        The checkpoint folder of a decoder; the student takes over its tokenizer.
    student
        A config.json, or a folder that holds one, by which the student is made, with fresh weights; None: a Llama of
        `shape`.
    write
        How many documents the teacher writes first, with fastlm, to train on besides the texts.
    beside
        Decoders whose figures the model card sets beside those of student and teacher: the same student trained
        without the teacher, for instance.

    See `scratch.train` for the others and for what is returned.
    """
    if not temperature > 0 or not 0 <= share <= 1 or write < 0:
        raise ParameterError("temperature must be over 0, share between 0 and 1, write at least 0")
    shape, recipe = shape or Shape(), recipe or Recipe()
    location = decoder_at(teacher, "teacher")
    codec = ModelCodec(location)
    others = [decoder_at(path, "model beside it").path for path in beside]
    if student is not None:
        _check_student(path_of(student), location, codec)
    settings = {
        "teacher": str(teacher),
        "teacher_sha256": file_digest(location.weights),
        **({"student": str(student)} if student is not None else asdict(shape)),
        "temperature": temperature,
        "share": share,
        "write": write,
    }
    plan = Plan.of("distill", out, Texts.read(texts, weights, extra), recipe, settings)
    with plan.run as unfinished:
        if unfinished:
            _distill(plan, location, codec, student, shape, others)
    return plan.run.out


def _distill(
    plan: Plan,
    location: CheckpointFolder,
    codec: ModelCodec,
    student: PathLike | None,
    shape: Shape,
    beside: Sequence[Path],
) -> None:
    settings = plan.settings
    seed_step(plan.recipe.seed, -1)
    master = load_decoder(location.path).to(plan.where.device).eval().requires_grad_(False)
    if student is not None:
        model = create_from(path_of(student))
    else:
        model = create_llama(shape, master.config.vocab_size, codec.start, codec.end)
    add_dropout(model, plan.recipe.dropout)
    context = min(context_of(model), context_of(master))
    written = [_written(location.path, codec, settings["write"], context, plan)]
    loss = softened_loss(master, settings["temperature"], settings["share"])
    job = plan.job(model, codec, context, loss=loss, written=[file for file in written if file.train])

    def write(folder: Path, state: State) -> None:
        copy_tokenizer(location.path, folder)
        save_model(model, folder)
        models = [("teacher", location.path), ("student", folder), *((path.name, path) for path in beside)]
        threads = plan.where.threads
        figures = [measure(name, path, plan.texts.files, threads=threads) for name, path in models]
        what = f"A student of {location.path.name} ({count(master):,} parameters)"
        write_report(folder, Card(what, count(model), settings, state, figures))

    plan.carry_out(job, write)


def softened_loss(master: Any, temperature: float, share: float) -> Any:
    """The loss of a job: (model, ids) -> (1 - share) cross-entropy + share temperature^2 KL."""
    import torch
    from torch.nn.functional import cross_entropy, kl_div, log_softmax

    def loss(model: Any, ids: Any) -> Any:
        inputs, targets = ids[:, :-1], ids[:, 1:].flatten()
        logits = logits_of(model, inputs).flatten(0, 1)
        with torch.no_grad():
            expected = log_softmax(logits_of(master, inputs).flatten(0, 1) / temperature, -1)
        soft = kl_div(log_softmax(logits / temperature, -1), expected, reduction="batchmean", log_target=True)
        return (1 - share) * cross_entropy(logits, targets) + share * temperature**2 * soft

    return loss


def _check_student(student: Path, teacher: CheckpointFolder, codec: ModelCodec) -> None:
    """A student has the teacher's vocabulary, or its logits would mean other tokens."""
    folder = student if student.is_dir() else student.parent
    found = CheckpointFolder(folder).config() if student.is_dir() else CheckpointFolder(folder).read_json(student.name)
    if found is None:
        raise ParameterError(f"student: {student}: there is no such file")
    sizes = [config.get("vocab_size") for config in (found, teacher.config())]
    if sizes[0] != sizes[1]:
        raise ParameterError(
            f"student: {student}: vocab_size is {sizes[0]}, the teacher's {sizes[1]}: their vocabularies must agree"
        )
    registry.read(found, student)  # else it is learned that fastlm cannot run it when it is trained
    if (folder / "tokenizer.json").is_file() and not codec.same_vocabulary(ModelCodec(CheckpointFolder(folder))):
        raise ParameterError(
            f"student: {student}: its tokenizer is not the teacher's: logits of other tokens cannot be compared; "
            "give a config.json alone, and the student takes over the teacher's tokenizer"
        )


def _written(teacher: Path, codec: ModelCodec, count: int, context: int, plan: Plan) -> TextFile:
    """Documents in the teacher's own words, sampled as it is (temperature 1), a folder of the run per shard."""
    from fastlm.generation import Request
    from fastlm.loading import load
    from fastlm.model import Model

    writer: Model | None = None
    documents: list[str] = []
    for first in range(0, count, SHARD):

        def fill(folder: Path, first: int = first) -> None:
            nonlocal writer
            writer = writer or load(teacher, threads=plan.where.threads)
            seeds = [plan.recipe.seed + (n << 20) for n in range(first, min(first + SHARD, count))]
            how: dict[str, Any] = {"max_tokens": context - 1, "temperature": 1.0, "top_k": 0, "top_p": 1.0}
            done = writer.batch([Request([codec.start], seed=seed, **how) for seed in seeds])
            text = "".join(f"{found.text.strip()}\n{SEPARATOR}\n" for found in done)
            (folder / "text.txt").write_text(text, encoding="utf-8")

        folder = plan.run.once(f"written-{first:09d}", fill)
        documents += split_documents((folder / "text.txt").read_text(encoding="utf-8"))
    if writer is not None:
        writer.close()
    return TextFile("written by the teacher", "", 1.0, documents, [])
