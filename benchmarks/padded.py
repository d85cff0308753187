"""A small trained Llama in the shape of a large one: it writes the same texts, and costs what the large one costs.

All that is new is zero: a zero in the residual stream stays one, heads and layers of zeros add nothing. Three things
follow the widths: a norm's mean is of more values, rotations of a pair go by its place in the head, and scores are
divided by the root of the head's width.
"""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from .entrants import WORKERS
from .shapes import Shape, write_checkpoint
from .stored import bfloat16, tensors

sys.path.append(str(WORKERS))
from checkpoint import Folder


class Padding:
    """Where the values of a small Llama stand in one of `shape`."""

    def __init__(self, small: Folder, shape: Shape) -> None:
        self.small, self.shape = small, shape
        self.width, self.inner = int(small.config["hidden_size"]), int(small.config["intermediate_size"])
        self.head = int(small.config.get("head_dim") or self.width // small.heads)
        group, groups = small.heads // small.kv_heads, shape.heads // shape.kv_heads
        fits = self.width <= shape.hidden and self.inner <= shape.ffn and len(small.layers) <= shape.layers
        if not fits or small.kv_heads > shape.kv_heads or group > groups or shape.head_dim % self.head:
            raise ValueError(f"{small.path} does not fit a shape of {shape}")
        queries = [h // group * groups + h % group for h in range(small.heads)]
        turned, plain = self._pairs(), np.arange(self.head)
        self.places = {
            "q_proj": self._of(queries, turned),
            "k_proj": self._of(range(small.kv_heads), turned),
            "v_proj": self._of(range(small.kv_heads), plain),
            "o_proj": self._of(queries, plain),
        }

    def _pairs(self) -> NDArray[np.int64]:
        """Values i and i + half of a head turn by an angle that i / half decides on."""
        half, step = self.head // 2, self.shape.head_dim // self.head
        first = np.arange(half) * step
        return np.concatenate([first, first + self.shape.head_dim // 2])

    def _of(self, heads: range | list[int], places: NDArray[np.int64]) -> NDArray[np.int64]:
        return np.concatenate([head * self.shape.head_dim + places for head in heads])

    def put(self, name: str, to: NDArray[np.uint16]) -> None:
        """Fill a tensor of the large one, which is zero."""
        part = name.split(".")[-2]
        if name == "lm_head.weight" and name not in self.small.header:
            name = "model.embed_tokens.weight"
        if name not in self.small.header:
            return
        values = self.small.read(name)
        if values.ndim == 1:
            values = values * np.float32(math.sqrt(self.width / self.shape.hidden))
        if part == "q_proj":
            values = values * np.float32(math.sqrt(self.shape.head_dim / self.head))
        stored = bfloat16(values)
        if values.ndim == 1:
            to[: self.width] = stored
        elif part == "o_proj":
            to[: self.width, self.places[part]] = stored
        elif part in self.places:
            to[self.places[part], : self.width] = stored
        else:
            to[: values.shape[0], : values.shape[1]] = stored


def write_padded(folder: Path, small: Path, shape: Shape) -> Path:
    """The checkpoint, in bfloat16 (kept if it is there already)."""
    if (folder / "model.safetensors").exists():
        return folder
    model = Folder(small)
    padding = Padding(model, shape)
    write_checkpoint(folder, shape, seed=None)
    for name, values in tensors(folder / "model.safetensors"):
        padding.put(name, values)
    config = json.loads((folder / "config.json").read_text())
    config["rms_norm_eps"] = model.config["rms_norm_eps"] * padding.width / shape.hidden
    config["bos_token_id"], config["eos_token_id"] = (model.config[f"{x}os_token_id"] for x in "be")
    (folder / "config.json").write_text(json.dumps(config, indent=2))
    return folder
