"""What the encoders of peers need beside themselves: texts by length in batches, and means over the tokens of each."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

Encode = Callable[[dict[str, NDArray[np.int64]]], NDArray[np.float32]]


class Texts:
    """Embeddings of texts by an engine that gives hidden states [rows, tokens, hidden] of ids and mask [rows, tokens].

    A batch has `batch` texts of about one length, as sentence-transformers makes them.
    """

    def __init__(self, folder: Path, settings: dict[str, str], encode: Encode) -> None:
        self.tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self.tokenizer.no_padding()
        self.tokenizer.enable_truncation(int(settings["tokens"]))
        self.texts: dict[str, list[str]] = json.loads(Path(settings["texts"]).read_text())
        self.batch = int(settings["batch"])
        self.encode = encode

    def embed(self, name: str) -> dict[str, float]:
        texts = self.texts[name]
        start = time.perf_counter()
        rows = [encoding.ids for encoding in self.tokenizer.encode_batch(texts)]
        order = np.argsort([-len(row) for row in rows], kind="stable")
        found = np.empty((len(rows), 0), np.float32)
        for at in range(0, len(rows), self.batch):
            chosen = order[at : at + self.batch]
            mean = pooled(self.encode, [rows[i] for i in chosen])
            if not found.size:
                found = np.empty((len(rows), mean.shape[1]), np.float32)
            found[chosen] = mean
        found /= np.linalg.norm(found, axis=1, keepdims=True)
        return {"seconds": time.perf_counter() - start, "tokens": len(texts)}


def padded(rows: list[list[int]]) -> dict[str, NDArray[np.int64]]:
    ids = np.zeros((len(rows), max(map(len, rows))), np.int64)
    mask = np.zeros_like(ids)
    for i, row in enumerate(rows):
        ids[i, : len(row)], mask[i, : len(row)] = row, 1
    return {"input_ids": ids, "attention_mask": mask}


def pooled(encode: Encode, rows: list[list[int]]) -> NDArray[np.float32]:
    inputs = padded(rows)
    mask = inputs["attention_mask"].astype(np.float32)
    sums: NDArray[np.float32] = np.matmul(mask[:, None, :], encode(inputs))[:, 0]
    return sums / mask.sum(1, keepdims=True)


def to_onnx(folder: str, path: Path) -> None:
    """The encoder of a folder as a graph from ids and mask to hidden states, with rows and tokens free."""
    import torch
    import transformers

    class Hidden(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = transformers.AutoModel.from_pretrained(folder, dtype=torch.float32, attn_implementation="sdpa")

        def forward(self, input_ids: Any, attention_mask: Any) -> Any:
            return self.model(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state

    names = ["input_ids", "attention_mask"]
    inputs = tuple(torch.from_numpy(padded([[101] * 9, [101] * 7])[name]) for name in names)
    free = {name: {0: "rows", 1: "tokens"} for name in [*names, "hidden"]}
    with torch.no_grad():
        torch.onnx.export(
            Hidden().eval(),
            inputs,
            str(path),
            input_names=names,
            output_names=["hidden"],
            dynamic_axes=free,
            opset_version=17,
            dynamo=False,
        )
