"""Checkpoints with random weights, as Hugging Face folders: config.json, model.safetensors, a tokenizer if asked."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors_files import entry, pack

Json = dict[str, Any]
DTYPES = {"float32": ("F32", 4), "float16": ("F16", 2), "bfloat16": ("BF16", 2)}
BLOCK = 1 << 18  # random values of a tensor in a cheap file; the rest of it is a hole, which reads as zero


@dataclass(frozen=True, slots=True)
class Shape:
    """A Llama's dimensions."""

    hidden: int = 48
    layers: int = 2
    heads: int = 4
    kv_heads: int = 2
    width: int = 80
    vocab: int = 99
    context: int = 512

    @property
    def head_dim(self) -> int:
        return self.hidden // self.heads

    @property
    def parameters(self) -> int:
        return sum(int(np.prod(shape)) for shape in self.tensors().values())

    def config(self, dtype: str = "float32") -> Json:
        return {
            "model_type": "llama",
            "dtype": dtype,
            "hidden_size": self.hidden,
            "num_hidden_layers": self.layers,
            "num_attention_heads": self.heads,
            "num_key_value_heads": self.kv_heads,
            "intermediate_size": self.width,
            "vocab_size": self.vocab,
            "max_position_embeddings": self.context,
            "rms_norm_eps": 1e-5,
        }

    def tensors(self) -> dict[str, tuple[int, ...]]:
        wide, narrow = self.heads * self.head_dim, self.kv_heads * self.head_dim
        layer = {
            "input_layernorm": (self.hidden,),
            "self_attn.q_proj": (wide, self.hidden),
            "self_attn.k_proj": (narrow, self.hidden),
            "self_attn.v_proj": (narrow, self.hidden),
            "self_attn.o_proj": (self.hidden, wide),
            "post_attention_layernorm": (self.hidden,),
            "mlp.gate_proj": (self.width, self.hidden),
            "mlp.up_proj": (self.width, self.hidden),
            "mlp.down_proj": (self.hidden, self.width),
        }
        named = {f"model.layers.{i}.{name}.weight": layer[name] for i in range(self.layers) for name in layer}
        ends = {"model.norm.weight": (self.hidden,), "lm_head.weight": (self.vocab, self.hidden)}
        return {"model.embed_tokens.weight": (self.vocab, self.hidden), **named, **ends}


TINY = Shape()
TINY_LLAMA_1B = Shape(2048, 22, 32, 4, 5632, 32000, 2048)  # 1.1 billion parameters


def random_weights(shape: Shape, seed: int = 0) -> dict[str, NDArray[np.float32]]:
    """Matrices that keep the size of what they multiply, norms near 1."""
    rng = np.random.default_rng(seed)
    made = {}
    for name, size in shape.tensors().items():
        values = rng.standard_normal(size, dtype=np.float32)
        made[name] = values * np.float32(size[-1] ** -0.5) if len(size) > 1 else 1 + np.float32(0.1) * values
    return made


def as_stored(values: NDArray[np.float32], dtype: str) -> bytes:
    if dtype == "bfloat16":  # cut, not rounded: any such number will do
        return (values.view(np.uint32) >> np.uint32(16)).astype(np.uint16).tobytes()
    return values.astype(dtype).tobytes()


def save_checkpoint(
    folder: Path, config: Mapping[str, object], weights: Mapping[str, NDArray[np.float32]], dtype: str = "float32"
) -> Path:
    """A model folder that holds these weights."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    header, data = {}, bytearray()
    for name, values in weights.items():
        begin = len(data)
        data += as_stored(values, dtype)
        header[name] = entry(DTYPES[dtype][0], list(values.shape), begin, len(data))
    (folder / "model.safetensors").write_bytes(pack(header, bytes(data)))
    return folder


def save_llama(folder: Path, shape: Shape = TINY, *, dtype: str = "float32", seed: int = 0) -> Path:
    return save_checkpoint(folder, shape.config(dtype), random_weights(shape, seed), dtype)


def save_sparse_llama(folder: Path, shape: Shape) -> Path:
    """A float32 model of any size in little time and disk space: the first BLOCK values of each tensor are random."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(shape.config()))
    header, end, starts = {}, 0, {}
    for name, size in shape.tensors().items():
        starts[name], end = end, end + 4 * int(np.prod(size))
        header[name] = entry("F32", list(size), starts[name], end)
    start = pack(header)
    block = np.random.default_rng(0).standard_normal(BLOCK, dtype=np.float32)
    with (folder / "model.safetensors").open("wb") as file:
        file.write(start)
        for name, size in shape.tensors().items():
            values = block[: int(np.prod(size))]
            file.seek(len(start) + starts[name])
            file.write(np.ones_like(values) if len(size) == 1 else values * np.float32(size[-1] ** -0.5))
        file.truncate(len(start) + end)
    return folder


def add_byte_tokenizer(folder: Path, *, end: bool = False) -> Path:
    """A byte-level tokenizer without merges: ids 0 to 255 are bytes in GPT-2's order; with `end`, 256 is <end>."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    library = Tokenizer(models.BPE(vocab={piece: i for i, piece in enumerate(alphabet)}, merges=[]))
    library.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    library.decoder = decoders.ByteLevel()
    if end:
        library.add_special_tokens([AddedToken("<end>", special=True)])
        (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": 256}))
    library.save(str(folder / "tokenizer.json"))
    return folder


def byte_shape(end: bool = False) -> Shape:
    """The tiny model with a vocabulary of bytes."""
    return replace(TINY, vocab=257 if end else 256)
