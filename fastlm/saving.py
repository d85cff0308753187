"""save(): a loaded model as a .flm file."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable

from fastlm.arch.spec import encode
from fastlm.errors import ParameterError
from fastlm.model import Model
from fastlm.tokenizer.chat import template_files
from fastlm.tokenizer.files import TOKENIZER_FILES
from fastlm.tokenizer.vocabulary import vocabulary
from fastlm.weights.container import PackedTensor, Vocabulary, write
from fastlm.weights.locate import CHECKPOINT_FILES
from fastlm.weights.paths import path_of
from fastlm.weights.sentences import sentence_files

KEPT = (
    "config.json",
    "generation_config.json",
    *TOKENIZER_FILES,
    "chat_template.json",
)


def save(model: Model, path: str | os.PathLike[str], progress: Callable[[int], None] | None = None) -> None:
    """Write a loaded model as a .flm file, which C maps at once: packed weights, spec, and the folder's small files.

    Raises as `fastlm.weights.container.write`, and ModelFileError if a small file was changed since the model was
    loaded, ParameterError if `path` has the ending of another kind of file.
    """
    if path_of(path).name.lower().endswith((".gguf", *CHECKPOINT_FILES)):
        raise ParameterError(f"{path}: what is written is a .flm file, and load() goes by the name: end it in .flm")
    engine = model.engine
    core, source = engine.core, engine.source
    tensors = core.tensors()

    def packed() -> Iterable[PackedTensor]:
        for i, t in enumerate(tensors):
            yield PackedTensor(t.name, t.rows, t.cols, t.is_matrix, t.format, core.tensor_data(i))

    words = Vocabulary(**vocabulary(engine.tokenizer, engine.config, engine.defaults, engine.vocab))
    files = {
        name: data
        for name in (*KEPT, *sentence_files(source), *template_files(source))
        if (data := source.read(name)) is not None
    }
    write(
        path,
        spec=encode(engine.spec),
        tensors=packed(),
        vocabulary=words,
        extras=files,
        progress=progress,
    )
