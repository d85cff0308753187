"""Models of random weights for texts by grammars: what they would write without one is noise."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

from models import TINY, add_byte_tokenizer, byte_shape, save_llama
from tokenizer_folders import FOLDERS

import fastlm

# What ends strings, lists and numbers soon enough is made more probable.
CLOSING = ('"', "}", "]", ",", ":")


def save_bytes_model(folder: Path, template: str = "") -> Path:
    """A Llama whose tokens are bytes and an end."""
    add_byte_tokenizer(save_llama(folder, byte_shape(end=True)), end=True)
    if template:
        (folder / "tokenizer_config.json").write_text(json.dumps({"chat_template": template}))
    return folder


def save_with_tokenizer(folder: Path, name: str) -> Path:
    """A Llama with a tokenizer of tests/tokenizer_folders.py."""
    FOLDERS[name](folder)
    files = {path.name: path.read_bytes() for path in folder.iterdir() if path.name != "config.json"}
    written = json.loads(files.get("tokenizer.json", b"{}"))
    n = len(written["model"]["vocab"] if written else json.loads(files["vocab.json"])) + 64
    save_llama(folder, replace(TINY, vocab=n))
    for file, data in files.items():
        (folder / file).write_bytes(data)
    return folder


def closing_bias(model: fastlm.Model, more: float = 4.0) -> dict[int, float]:
    """For logit_bias: texts that end before max_tokens."""
    pieces, special, _ = model.engine.core.vocabulary()
    if not pieces:
        table = model.engine.prompts.needed_tokenizer().plain("tests")
        pieces, special = table.pieces[: model.vocab], table.special[: model.vocab]
    named = {piece: i for i, piece in enumerate(pieces) if not special[i]}
    found = [named[text.encode()] for text in CLOSING if text.encode() in named]
    spaces = [i for piece, i in named.items() if piece and not piece.strip()]
    return {**dict.fromkeys(found, more), **dict.fromkeys(spaces, -more)}
