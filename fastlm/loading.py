"""load(): from a folder, a .flm file or a hub id to a Model."""

from __future__ import annotations

import os
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from fastlm import _core
from fastlm.arch import registry
from fastlm.arch.spec import ModelSpec, encode, is_encoded
from fastlm.arguments import shown, whole
from fastlm.errors import ModelFileError, ModelFormatError, ParameterError, memory_for
from fastlm.model import Model, Parts
from fastlm.tokenizer.chat import load_template
from fastlm.tokenizer.tokenizer import Tokenizer, load_tokenizer
from fastlm.weights.bind import Binding, bind
from fastlm.weights.folder import CHECKPOINT_FILES, Location, locate
from fastlm.weights.safetensors import Checkpoint

DTYPES = ("auto", "float32", "float16", "bfloat16", "int8", "int4")
KV_DTYPES = ("auto", "float32", "bfloat16", "int8")
PACKAGED = Path(__file__).with_name("box") / "box.flm"  # the model that the package carries
BLOCK_BYTES = 8 << 20  # of a tensor in flight between file and packed weights
STRIP = 16  # rows come in multiples of it
BYTES = {"float32": 4.0, "float16": 2.0, "bfloat16": 2.0, "int8": 1.04, "int4": 0.58}  # of a weight

Progress = Callable[[int, int, str], None]


def load(
    path: str | os.PathLike[str] | None = None,
    *,
    dtype: str = "auto",
    threads: int | None = None,
    context: int | None = None,
    kv_dtype: str = "auto",
    progress: Progress | bool | None = None,
) -> Model:
    """Load a model.

    Parameters
    ----------
    path
        A Hugging Face checkpoint folder, a .flm file, or a hub id that is already in the local cache. None: the model
        in the package, which writes simple stories.
    dtype
        Of the matrices: "auto" (as stored), "float32", "float16", "bfloat16", "int8" or "int4".
    threads
        None: one per usable processor (affinity and cgroup quota); fewer for tiny models, one for every two
        second-level caches that the weights fill.
    context
        Longest sequence in tokens; None: what the model was made for.
    kv_dtype
        Of keys and values: "auto" (float32 for float32 matrices, else bfloat16), "float32", "bfloat16", or "int8" (a
        scale for each position and head: half of bfloat16's memory, prompts a little slower).
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
    _check(dtype, threads, context, kv_dtype)
    with memory_for(f"{path} (a lower `context`, a smaller dtype or fewer threads need less)"):
        return _load(locate(path), dtype, threads, context, kv_dtype, progress)


def _load(
    location: Location,
    dtype: str,
    threads: int | None,
    context: int | None,
    kv_dtype: str,
    progress: Progress | bool | None,
) -> Model:
    tokenizer = load_tokenizer(location)
    config = location.config()
    generation_config = location.read_json("generation_config.json") or {}
    if location.is_container:
        if dtype != "auto":
            raise ParameterError("dtype: a .flm file is already packed; convert the checkpoint again for another dtype")
        spec = _packed_spec(registry.read(config, location.describe("config.json")).spec, location)
        core_context = _core.Context(threads or _core.suggested_threads(location.weights.stat().st_size))
        core = _core.Model.open(
            core_context, os.fsencode(location.weights), kv_dtype=kv_dtype, max_context=context or 0
        )
    else:
        family = registry.read(config, location.path / "config.json")
        with Checkpoint(location.weights) as checkpoint:
            binding = bind(family, checkpoint)
            spec = binding.spec
            format = _format(binding, dtype)
            core_context = _core.Context(threads or _core.suggested_threads(_weight_bytes(spec, format)))
            core = _core.Model.create(
                core_context, encode(spec), format=format, kv_dtype=kv_dtype, max_context=context or 0
            )
            _fill(core, binding, _reporter(progress))
        core.set_vocabulary(**vocabulary(tokenizer, config, generation_config, spec.embed.vocab))
        core.finish()
    template = load_template(location)
    return Model(Parts(core, core_context, spec, config, generation_config, tokenizer, template, location))


def _check(dtype: str, threads: int | None, context: int | None, kv_dtype: str) -> None:
    if not isinstance(dtype, str) or dtype not in DTYPES:
        raise ParameterError(f"dtype must be one of {', '.join(DTYPES)}, not {shown(dtype)}")
    if not isinstance(kv_dtype, str) or kv_dtype not in KV_DTYPES:
        raise ParameterError(f"kv_dtype must be one of {', '.join(KV_DTYPES)}, not {shown(kv_dtype)}")
    for name, value, high in (("threads", threads, 256), ("context", context, 2**31 - 1)):
        if value is not None:
            whole(value, name, 1, high)


def _packed_spec(spec: ModelSpec, location: Location) -> ModelSpec:
    """The spec of a .flm file: what its config says, but for a head that the weights decided on when it was written."""
    packed = location.embedded.spec if location.embedded else b""
    specs = [spec] if spec.head is None else [spec, replace(spec, head=replace(spec.head, tied=not spec.head.tied))]
    found = next((s for s in specs if is_encoded(s, packed)), None)
    if found is None:
        raise ModelFormatError(f"{location.path}: spec and config.json disagree: convert the checkpoint again")
    return found


def _weight_bytes(spec: ModelSpec, format: str) -> int:
    from fastlm.arch.slots import slots

    return round(BYTES[format] * sum(slot.rows * slot.cols for slot in slots(spec)))


def _format(binding: Binding, dtype: str) -> str:
    """As stored: the type of most matrix values."""
    if dtype != "auto":
        return dtype
    sizes: Counter[str] = Counter()
    for source in binding.values():
        if source.shape[0] > 1:
            sizes[source.dtype] += source.shape[0] * source.shape[1]
    return sizes.most_common(1)[0][0]


def _fill(core: _core.Model, binding: Binding, report: Progress) -> None:
    """Pack every tensor, block of rows by block of rows, so that little is in memory twice and Ctrl-C is prompt."""
    tensors = core.tensors()
    total, done = sum(t.bytes for t in tensors), 0
    for index, tensor in enumerate(tensors):
        source = binding[tensor.name]
        rows = max(STRIP, BLOCK_BYTES // (4 * tensor.cols) // STRIP * STRIP)
        for at in range(0, tensor.rows, rows):
            end = min(at + rows, tensor.rows)
            values = source.rows(at, end)
            try:
                core.load_rows(index, at, values)
            except ModelFormatError as error:
                raise ModelFormatError(f"{source.file}: {source.tensor}: {error}") from None
            report(done + tensor.bytes * end // tensor.rows, total, tensor.name)
        done += tensor.bytes


def _reporter(progress: Progress | bool | None) -> Progress:
    if callable(progress):
        return progress
    return _bar if progress else lambda done, total, name: None


def _bar(done: int, total: int, name: str) -> None:
    part = done / total if total else 1.0
    filled = round(30 * part)
    end = "\n" if done == total else ""
    sys.stderr.write(f"\r[{'#' * filled}{' ' * (30 - filled)}] {done / 1e6:.0f} / {total / 1e6:.0f} MB{end}")
    sys.stderr.flush()


def _ids(value: object) -> list[int]:
    found = value if isinstance(value, list) else [value]
    return [v for v in found if isinstance(v, int) and not isinstance(v, bool)]


def vocabulary(
    tokenizer: Tokenizer | None, config: Mapping[str, object], generation_config: Mapping[str, object], vocab: int
) -> dict[str, Any]:
    """What C needs to print and to stop: the arguments of `_core.Model.set_vocabulary`."""
    table = tokenizer.table if tokenizer else None
    sources = (generation_config, config)
    eos = {i for source in sources for i in _ids(source.get("eos_token_id"))} | set(tokenizer.eos if tokenizer else [])
    if table is not None and len(table.pieces) > vocab and any(table.pieces[vocab:]):
        raise ModelFormatError(f"tokenizer: has {len(table.pieces)} tokens, but the model only {vocab}")

    def first(name: str) -> int | None:
        return next((i for source in sources for i in _ids(source.get(name)) if 0 <= i < vocab), None)

    return {
        "pieces": table.pieces[:vocab] if table else [],
        "special": table.special[:vocab] if table else [],
        "strip_first_space": table is not None and table.strip_first_space,
        "bos": first("bos_token_id"),
        "decoder_start": first("decoder_start_token_id"),
        "eos": sorted(i for i in eos if 0 <= i < vocab),
    }


KEPT = (
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "vocab.json",
    "merges.txt",
    "vocab.txt",
    "chat_template.jinja",
)


def save(model: Model, path: str | os.PathLike[str], progress: Callable[[int], None] | None = None) -> None:
    """Write a loaded model as a .flm file, which C maps at once: packed weights, spec, and the folder's small files."""
    from fastlm.weights.container import PackedTensor, Vocabulary, write

    if os.fsdecode(path).lower().endswith((".gguf", *CHECKPOINT_FILES)):
        raise ParameterError(f"{path}: what is written is a .flm file, and load() goes by the name: end it in .flm")
    core, location = model._core, model._location
    tensors = core.tensors()

    def packed() -> Iterable[PackedTensor]:
        for i, t in enumerate(tensors):
            yield PackedTensor(t.name, t.rows, t.cols, t.is_matrix, t.format, core.tensor_data(i))

    words = vocabulary(model.tokenizer, model.config, model._generation_config, model.vocab)
    files = {name: data for name in KEPT if (data := location.read(name)) is not None}
    write(
        path, spec=encode(model.spec), tensors=packed(), vocabulary=Vocabulary(**words), extras=files, progress=progress
    )
