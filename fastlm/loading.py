"""load(): from a folder, a .flm file or a hub id to a Model."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastlm import _core
from fastlm.arch.head_tasks import task_of
from fastlm.arch.slots import slots
from fastlm.arch.spec import ModelSpec, decode, encode
from fastlm.arguments import UNBOUNDED, shown, whole
from fastlm.engine import Engine
from fastlm.errors import ModelFileError, ModelFormatError, ParameterError, StateError, UnsupportedError, memory_for
from fastlm.generation_config import check_settings, legacy_settings, not_honoured
from fastlm.model import Model
from fastlm.progress import Progress, reporter
from fastlm.tokenizer.chat import load_templates
from fastlm.tokenizer.load import load_tokenizer, missing_tokenizer
from fastlm.tokenizer.prompts import Prompts
from fastlm.tokenizer.vocabulary import vocabulary
from fastlm.weights.formats import matrix_format
from fastlm.weights.jsonfile import file_bytes
from fastlm.weights.locate import locate
from fastlm.weights.source import MODULES, ModelSource

if TYPE_CHECKING:
    from fastlm.weights.bind import Binding
    from fastlm.weights.sentences import Sentences

DTYPES = ("auto", "float32", "float16", "bfloat16", "int8", "int4")
KV_DTYPES = ("auto", "float32", "bfloat16", "int8")
PACKAGED = Path(__file__).with_name("box") / "box.flm"  # the model that the package carries
BLOCK_BYTES = 8 << 20  # of a tensor in flight between file and packed weights


def load(
    path: str | os.PathLike[str] | None = None,
    *,
    dtype: str = "auto",
    threads: int | None = None,
    context: int | None = None,
    kv_dtype: str = "auto",
    kv_bytes: int | None = None,
    prefix_cache: bool = True,
    beside: Model | None = None,
    progress: Progress | bool | None = None,
) -> Model:
    """Load a model.

    Parameters
    ----------
    path
        A Hugging Face checkpoint folder, a .flm file (`~` is the home folder), or a hub id that is already in the local
        cache. None: the model in the package, which writes simple stories.
    dtype
        Of the matrices: "auto" (as stored), "float32", "float16", "bfloat16", "int8" or "int4".
    threads
        None: what the environment variable FASTLM_THREADS says; else one for each fast core that this process may use
        (affinity, cgroup quota): hardware threads of one core count once, efficiency cores do not count. Fewer for
        tiny models: one for every two second-level caches that the weights fill.
    context
        Longest sequence in tokens; None: what the model was made for. More than that is an error where positions have
        rotary or learned embeddings, since a model writes gibberish where it never was.
    kv_dtype
        Of keys and values: "auto" (float32 for float32 matrices, else bfloat16), "float32", "bfloat16", or "int8" (a
        scale for each position and head: half of bfloat16's memory, prompts a little slower).
    kv_bytes
        Most memory that keys and values of a decoder's sequences may take; None: some sequences of the whole context,
        at most half of the machine's memory. Texts that are written wait for each other where they do not fit
        together; what never fits, and a forward pass or a score that does not fit now, is a ModelMemoryError.
    prefix_cache
        Whether keys and values stay for later prompts that begin alike, as long as nothing else needs their memory.
    beside
        A model whose threads, and default memory for keys and values, this one shares: the steps of both take turns.
        Give no threads then.
    progress
        Called after each block of rows with (bytes done, bytes in all, tensor name), so that it may end the loading by
        raising; True draws a bar on stderr.

    Raises
    ------
    ModelFileError, ModelFormatError, UnsupportedError
        There is no such model, it is malformed, or this version cannot run it; the text names the culprit.
    ModelMemoryError
        The weights do not fit into memory.
    """
    if path is None:
        path = PACKAGED
        if not path.is_file():
            raise ModelFileError("this build of fastlm has no packaged model: give the path of a model folder")
    _check_dtypes(dtype, kv_dtype)
    for name, value, most in (
        ("threads", threads, 256),
        ("context", context, UNBOUNDED),
        ("kv_bytes", kv_bytes, 2**63),
    ):
        if value is not None:
            whole(value, name, 1, most)
    if not isinstance(prefix_cache, bool):
        raise ParameterError(f"prefix_cache must be True or False, not {shown(prefix_cache)}")
    if beside is not None and (threads is not None or not isinstance(beside, Model)):
        raise ParameterError("beside must be a loaded model, whose threads this one shares: leave threads out")
    if beside is not None and beside.engine.core.closed:
        raise StateError("beside: the model is closed")
    shared = None if beside is None else beside.engine.context
    with memory_for(f"{path} (a lower `context`, a smaller dtype or fewer threads need less)"):
        limits = {
            "kv_dtype": kv_dtype,
            "max_context": context or 0,
            "kv_bytes": kv_bytes or 0,
            "prefix_cache": prefix_cache,
        }
        return _load(locate(path), dtype, threads, shared, limits, reporter(progress))


def _load(
    source: ModelSource,
    dtype: str,
    threads: int | None,
    shared: _core.Context | None,
    limits: Mapping[str, Any],
    report: Progress,
) -> Model:
    tokenizer = load_tokenizer(source)
    config = source.config()
    stored = source.read_json("generation_config.json")
    check_settings(config, source.describe("config.json"))
    check_settings(stored or {}, source.describe("generation_config.json"))
    generation_config = legacy_settings(config) if stored is None else stored
    words = partial(vocabulary, tokenizer, config, generation_config)
    builder = _CoreBuilder(dtype, threads, limits, report, words, shared)
    context, core, spec = source.build(config, builder)
    task = task_of(config, spec)
    _warn_of(generation_config, spec.kind)
    return Model(
        Engine(
            core=core,
            context=context,
            info=core.info(),
            spec=spec,
            source=source,
            config=config,
            defaults=generation_config,
            prompts=Prompts(tokenizer, spec.source_vocab, "" if tokenizer else missing_tokenizer(source)),
            templates=load_templates(source, tokenizer.special_tokens if tokenizer else {}),
            task=task,
            folder_sentences=_sentences(source, spec, task),
            rebuild=lambda change: source.build(config, replace(builder, context=context, change=change)),
        )
    )


def _sentences(source: ModelSource, spec: ModelSpec, task: str) -> Sentences | None:
    """What a folder of sentence-transformers says. One that writes, without modules, is none and needs no reader."""
    if spec.kind != "encoder" and not task and source.read(MODULES) is None:
        return None
    from fastlm.weights.sentences import read_sentences

    return read_sentences(source, spec)


def _warn_of(generation_config: Mapping[str, object], kind: str) -> None:
    if ignored := not_honoured(generation_config, kind):
        import logging  # here, because it costs every import of fastlm several milliseconds

        text = "generation_config.json: this version does not honour %s"
        logging.getLogger("fastlm").warning(text, ", ".join(ignored))


@dataclass(frozen=True, slots=True)
class _CoreBuilder:
    """Makes the C model of a source's weights.

    Attributes
    ----------
    limits
        What `_core.Model.create` and `open` both take.
    words
        The vocabulary, of a model with so many rows of logits.
    context
        Of another model, or that which a model that is built again had; None: one is made.
    change
        What the weights of a model that is built again are to become.
    """

    dtype: str
    threads: int | None
    limits: Mapping[str, Any]
    report: Progress
    words: Callable[[int], dict[str, Any]]
    context: _core.Context | None = None
    change: Callable[[Binding], Binding] | None = None

    def pack(self, weights: Binding) -> tuple[_core.Context, _core.Model, ModelSpec]:
        weights = self.change(weights) if self.change else weights
        spec, format = weights.spec, _format(weights, self.dtype)
        _check_context(spec, self.limits["max_context"])
        context = self._context(_matrix_bytes(spec, format))
        core = _core.Model.create(context, encode(spec), format=format, **self.limits)
        _choose_formats(core, format)
        _fill(core, weights, self.report)
        core.set_vocabulary(**self.words(spec.vocab))
        core.finish()
        return context, core, spec

    def map(self, file: Path) -> tuple[_core.Context, _core.Model, ModelSpec]:
        if self.change is not None:
            raise UnsupportedError(f"{file}: is packed, and stays so: merge in the model's folder, and convert that")
        if self.dtype != "auto" and file == PACKAGED:
            raise ParameterError(
                "dtype: the packaged model has one format only: leave dtype out, or load another model"
            )
        if self.dtype != "auto":
            raise ParameterError("dtype: a .flm file is already packed; convert the checkpoint again for another dtype")
        context = self._context(file_bytes(file))
        core = _core.Model.open(context, os.fsencode(file), **self.limits)
        spec = decode(core.spec())
        _check_context(spec, self.limits["max_context"])
        return context, core, spec

    def _context(self, weight_bytes: int) -> _core.Context:
        return self.context or _core.Context(self.threads or 0, weight_bytes=weight_bytes)


def _check_dtypes(dtype: str, kv_dtype: str) -> None:
    if not isinstance(dtype, str) or dtype not in DTYPES:
        raise ParameterError(f"dtype must be one of {', '.join(DTYPES)}, not {shown(dtype)}")
    if not isinstance(kv_dtype, str) or kv_dtype not in KV_DTYPES:
        raise ParameterError(f"kv_dtype must be one of {', '.join(KV_DTYPES)}, not {shown(kv_dtype)}")


def _check_context(spec: ModelSpec, context: int) -> None:
    """Refuse positions that the model was not made for, unless it only knows distances."""
    if context > spec.context and _has_positions(spec):
        raise ParameterError(
            f"context: this model was made for {spec.context} tokens, and writes gibberish beyond; to run {context} "
            "all the same, set max_position_embeddings in the checkpoint's config.json to it"
        )


def _has_positions(spec: ModelSpec) -> bool:
    """Whether a place in the sequence has a rotation or an embedding of its own."""
    stacks = [stack for stack in (spec.encoder, spec.decoder) if stack is not None]
    mixers = [s.mixer for stack in stacks for layer in stack.layers for s in layer.sublayers]
    return any(stack.embed.positions for stack in stacks) or any(getattr(m, "rope", None) for m in mixers)


def _matrix_bytes(spec: ModelSpec, format: str) -> int:
    return sum(_core.matrix_bytes(format, slot.rows, slot.cols) for slot in slots(spec) if slot.is_matrix)


def _format(binding: Binding, dtype: str) -> str:
    """As stored: the type of most matrix values."""
    if dtype != "auto":
        return dtype
    sizes: Counter[str] = Counter()
    for slot in slots(binding.spec):
        if slot.is_matrix:
            sizes[binding[slot.name].dtype] += slot.rows * slot.cols
    return sizes.most_common(1)[0][0]


def _choose_formats(core: _core.Model, dtype: str) -> None:
    for index, tensor in enumerate(core.tensors()):
        if tensor.is_matrix and (format := matrix_format(tensor.name, dtype)) != tensor.format:
            core.set_format(index, format)


def _fill(core: _core.Model, binding: Binding, report: Progress) -> None:
    """Pack every tensor, block of rows by block of rows, so that little is in memory twice and Ctrl-C is prompt."""
    tensors = core.tensors()
    total, done = sum(t.bytes for t in tensors), 0
    for index, tensor in enumerate(tensors):
        source = binding[tensor.name]
        rows = max(_core.STRIP, BLOCK_BYTES // (4 * tensor.cols) // _core.STRIP * _core.STRIP)
        for at in range(0, tensor.rows, rows):
            end = min(at + rows, tensor.rows)
            values = source.rows(at, end)
            try:
                core.load_rows(index, at, values)
            except ModelFormatError as error:
                raise ModelFormatError(f"{source.file}: {source.tensor}: {error}") from None
            report(done + tensor.bytes * end // tensor.rows, total, tensor.name)
        done += tensor.bytes
