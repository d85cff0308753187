"""Llama checkpoints of real shapes with random weights, as Hugging Face folders: speed is not a matter of values."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray


class AnyShape(Protocol):
    """What a checkpoint is made from."""

    def config(self, dtype: str) -> dict[str, object]: ...

    def tensors(self) -> Iterator[tuple[str, tuple[int, ...]]]: ...


@dataclass(frozen=True, slots=True)
class Shape:
    hidden: int
    layers: int
    heads: int
    kv_heads: int
    ffn: int
    vocab: int
    tied: bool
    context: int = 2048

    @property
    def head_dim(self) -> int:
        return self.hidden // self.heads

    def config(self, dtype: str) -> dict[str, object]:
        return {
            "architectures": ["LlamaForCausalLM"],
            "model_type": "llama",
            "hidden_size": self.hidden,
            "num_hidden_layers": self.layers,
            "num_attention_heads": self.heads,
            "num_key_value_heads": self.kv_heads,
            "intermediate_size": self.ffn,
            "vocab_size": self.vocab,
            "tie_word_embeddings": self.tied,
            "max_position_embeddings": self.context,
            "rope_theta": 10000.0,
            "rms_norm_eps": 1e-5,
            "hidden_act": "silu",
            "attention_bias": False,
            "bos_token_id": 1,
            "eos_token_id": 2,
            "torch_dtype": dtype,
        }

    def tensors(self) -> Iterator[tuple[str, tuple[int, ...]]]:
        """Names and shapes in checkpoint order."""
        kv = self.head_dim * self.kv_heads
        yield "model.embed_tokens.weight", (self.vocab, self.hidden)
        for i in range(self.layers):
            prefix = f"model.layers.{i}."
            yield prefix + "input_layernorm.weight", (self.hidden,)
            yield prefix + "self_attn.q_proj.weight", (self.hidden, self.hidden)
            yield prefix + "self_attn.k_proj.weight", (kv, self.hidden)
            yield prefix + "self_attn.v_proj.weight", (kv, self.hidden)
            yield prefix + "self_attn.o_proj.weight", (self.hidden, self.hidden)
            yield prefix + "post_attention_layernorm.weight", (self.hidden,)
            yield prefix + "mlp.gate_proj.weight", (self.ffn, self.hidden)
            yield prefix + "mlp.up_proj.weight", (self.ffn, self.hidden)
            yield prefix + "mlp.down_proj.weight", (self.hidden, self.ffn)
        yield "model.norm.weight", (self.hidden,)
        if not self.tied:
            yield "lm_head.weight", (self.vocab, self.hidden)


SHAPES = {
    "A": Shape(hidden=2048, layers=22, heads=32, kv_heads=4, ffn=5632, vocab=32000, tied=False, context=8192),
    "B": Shape(hidden=576, layers=30, heads=9, kv_heads=3, ffn=1536, vocab=49152, tied=True),
    "C": Shape(hidden=288, layers=6, heads=6, kv_heads=6, ffn=768, vocab=32000, tied=True),
}


def _values(rng: np.random.Generator, shape: tuple[int, ...], dtype: str) -> NDArray[np.generic]:
    """Normal values of deviation 0.02 (norm weights: 1); bfloat16 comes as uint16, cut off from float32."""
    x = np.ones(shape, np.float32) if len(shape) == 1 else rng.standard_normal(shape, np.float32) * np.float32(0.02)
    return x if dtype == "float32" else (x.view(np.uint32) >> 16).astype("<u2")


def write_checkpoint(folder: Path, shape: AnyShape, dtype: str = "bfloat16", seed: int | None = 0) -> Path:
    """Write config.json and model.safetensors of `shape` into `folder` (kept if they are there already).

    seed: of the values; None: they are zero.
    """
    path = folder / "model.safetensors"
    if path.exists():
        return folder
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(shape.config(dtype), indent=2))
    write_tensors(path, list(shape.tensors()), dtype, seed)
    return folder


def write_tensors(path: Path, tensors: list[tuple[str, tuple[int, ...]]], dtype: str, seed: int | None) -> None:
    """Random values of these names and shapes, or zeros, as safetensors."""
    header: dict[str, object] = {}
    offset = 0
    for name, size in tensors:
        end = offset + int(np.prod(size)) * (4 if dtype == "float32" else 2)
        code = "F32" if dtype == "float32" else "BF16"
        header[name] = {"dtype": code, "shape": list(size), "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    rng = None if seed is None else np.random.default_rng(seed)
    part = path.with_suffix(".part")
    with part.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for _, size in tensors if rng is not None else ():
            file.write(_values(rng, size, dtype).data)
        file.truncate(8 + len(text) + offset)
    part.replace(path)
