"""Tokenizers: a byte-level BPE learned from the text, or the one that a checkpoint brings."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fastlm.errors import ModelFormatError, ParameterError
from fastlm.tokenizer.files import TOKENIZER_FILES
from fastlm.tokenizer.load import load_tokenizer
from fastlm.tokenizer.tokenizer import Tokenizer
from fastlm.tokenizer.vocabulary import token_ids
from fastlm.train.corpus import SEPARATOR, Ids
from fastlm.weights.source import ModelSource

MIN_VOCAB, MAX_VOCAB = 257, 65536


def learn_tokenizer(documents: Sequence[str], size: int, folder: Path, context: int) -> None:
    """Learn a byte-level BPE of `size` tokens and write tokenizer.json and tokenizer_config.json into the folder.

    Id 0 is `<|endoftext|>`: it starts every document and therefore ends the one before.
    """
    from tokenizers import Tokenizer as Library
    from tokenizers import decoders, models, pre_tokenizers, processors, trainers

    if not MIN_VOCAB <= size <= MAX_VOCAB:
        raise ParameterError(f"vocab must be {MIN_VOCAB} to {MAX_VOCAB}, not {size}")
    library = Library(models.BPE())
    library.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    library.decoder = decoders.ByteLevel()
    library.post_processor = processors.TemplateProcessing(
        single=f"{SEPARATOR} $A", pair=f"{SEPARATOR} $A {SEPARATOR} $B", special_tokens=[(SEPARATOR, 0)]
    )
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=size, special_tokens=[SEPARATOR], initial_alphabet=alphabet, show_progress=False
    )
    library.train_from_iterator(documents, trainer)
    library.save(str(folder / "tokenizer.json"))
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": SEPARATOR,
        "eos_token": SEPARATOR,
        "model_max_length": context,
        "clean_up_tokenization_spaces": False,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n")


class ModelCodec:
    """The tokenizer of a model, as training uses it; the model's folder needs no weights."""

    def __init__(self, source: ModelSource) -> None:
        folder, tokenizer = source.path, load_tokenizer(source)
        if tokenizer is None:
            raise ModelFormatError(f"{folder}: has no tokenizer: training needs tokenizer.json beside config.json")
        self.folder = folder
        self.tokenizer: Tokenizer = tokenizer
        config = source.read_json("config.json") or {}
        generation = source.read_json("generation_config.json") or {}
        ends = [*tokenizer.eos, *token_ids(generation.get("eos_token_id")), *token_ids(config.get("eos_token_id"))]
        starts = [i for i in (tokenizer.bos, *token_ids(config.get("bos_token_id"))) if i is not None]
        if not (starts or ends):
            raise ModelFormatError(f"{folder}: names neither a bos_token nor an eos_token to separate documents with")
        self.start = starts[0] if starts else ends[0]
        self.end = ends[0] if ends else self.start

    @property
    def size(self) -> int:
        return self.tokenizer.vocab_size

    def documents(self, texts: Sequence[str]) -> list[Ids]:
        tail = [] if self.end == self.start else [self.end]
        return [
            np.array([self.start, *self.tokenizer.encode(text, special=False), *tail], dtype=np.int32) for text in texts
        ]

    def held_out(self, text: str) -> Ids:
        """As in `documents`, without the end: what is scored is the text."""
        return np.array([self.start, *self.tokenizer.encode(text, special=False)], dtype=np.int32)

    def same_vocabulary(self, other: ModelCodec) -> bool:
        """Whether both give every text the same ids."""
        return _meaning(self.folder) == _meaning(other.folder)


def copy_tokenizer(source: Path, target: Path) -> None:
    """Copy a folder's tokenizer files."""
    for name in TOKENIZER_FILES:
        if (source / name).is_file():
            (target / name).write_bytes((source / name).read_bytes())


def _meaning(folder: Path) -> dict[str, Any]:
    """What of a tokenizer's files decides on ids."""
    found: dict[str, Any] = {}
    for name in TOKENIZER_FILES:
        path = folder / name
        if path.is_file() and name == "tokenizer.json":
            whole = json.loads(path.read_text(encoding="utf-8"))
            found[name] = {k: whole.get(k) for k in ("model", "normalizer", "pre_tokenizer", "added_tokens")}
        elif path.is_file() and name != "tokenizer_config.json":
            found[name] = path.read_bytes()
    return found
