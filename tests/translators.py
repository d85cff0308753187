"""Translators: golden models with rows for all tokens of golden tokenizers."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

GOLDEN = Path(__file__).parent / "golden"
VOCAB = 640
# A golden model, the golden tokenizer that it gets, and two of its languages.
TRANSLATORS = {
    "m2m_100": ("m2m_100", "m2m_100", "en", "fr"),
    "nllb": ("m2m_100", "nllb", "eng_Latn", "fra_Latn"),
    "mbart50": ("bart", "mbart50", "en_XX", "de_DE"),
    "mbart": ("mbart", "mbart", "en_XX", "de_DE"),
}


def stored(file: Path) -> dict[str, np.ndarray]:
    """Tensors as float32."""
    raw = file.read_bytes()
    begin = 8 + int.from_bytes(raw[:8], "little")
    found = {}
    for name, entry in json.loads(raw[8:begin]).items():
        if name == "__metadata__":
            continue
        first, last = entry["data_offsets"]
        kind = {"F32": "<f4", "F16": "<f2", "BF16": "<u2"}[entry["dtype"]]
        x = np.frombuffer(raw[begin + first : begin + last], kind).reshape(entry["shape"])
        found[name] = (x.astype(np.uint32) << 16).view(np.float32) if kind == "<u2" else x.astype(np.float32)
    return found


def rows(width: int) -> np.ndarray:
    """The same for all copies of a table."""
    return np.random.default_rng(width).standard_normal((VOCAB, width), np.float32)


def translator(folder: Path, family: str, tokenizer: str, **settings: Any) -> Path:
    """A golden model with rows for all tokens of a golden tokenizer."""
    config = json.loads((GOLDEN / family / "config.json").read_text())
    old = config["vocab_size"]
    tensors = {
        name: rows(x.shape[1]) if x.ndim == 2 and len(x) == old else x
        for name, x in stored(GOLDEN / family / "model.safetensors").items()
        if "final_logits_bias" not in name
    }
    shutil.copytree(GOLDEN / "tokenizers" / tokenizer, folder, ignore=shutil.ignore_patterns("expected.npz"))
    save_file(tensors, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps({**config, "vocab_size": VOCAB, **settings}))
    return folder
