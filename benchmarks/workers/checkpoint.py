"""The same weights in the peers' formats: GGUF for llama.cpp, the .bin of llama2.c."""

from __future__ import annotations

import json
import math
import struct
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]
GGUF_PARTS = {
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}


class Folder:
    """A folder with one model.safetensors, read as float32 arrays; a Llama's, for the files of peers."""

    def __init__(self, path: Path, config: str = "config.json", weights: str = "model.safetensors") -> None:
        self.path = path
        self.config: dict[str, Any] = json.loads((path / config).read_text())
        with (path / weights).open("rb") as file:
            (size,) = struct.unpack("<Q", file.read(8))
            self.header: dict[str, Any] = json.loads(file.read(size))
        self.bytes = np.memmap(path / weights, np.uint8, "r", offset=8 + size)
        self.tied = bool(self.config.get("tie_word_embeddings"))

    @property
    def heads(self) -> int:
        return int(self.config["num_attention_heads"])

    @property
    def kv_heads(self) -> int:
        return int(self.config.get("num_key_value_heads", self.heads))

    @property
    def turned(self) -> dict[str, int]:
        """Parts whose outputs are in another order for peers: how many heads they have."""
        return {"self_attn.q_proj": self.heads, "self_attn.k_proj": self.kv_heads}

    @property
    def layers(self) -> range:
        return range(int(self.config["num_hidden_layers"]))

    def read(self, name: str) -> Array:
        entry = self.header[name]
        raw = self.bytes[slice(*entry["data_offsets"])]
        if entry["dtype"] == "BF16":
            values: Array = (raw.view("<u2").astype(np.uint32) << 16).view(np.float32)
        else:
            values = raw.view({"F32": "<f4", "F16": "<f2"}[entry["dtype"]]).astype(np.float32, copy=False)
        return values.reshape(entry["shape"])

    def share_per_token(self) -> float:
        """Part of all parameters that one token reads: all but an embedding that is not the head, too."""
        sizes = {name: math.prod(entry["shape"]) for name, entry in self.header.items() if name != "__metadata__"}
        return 1.0 if self.tied else 1.0 - sizes["model.embed_tokens.weight"] / sum(sizes.values())

    def layer(self, i: int, part: str, heads: int = 0) -> Array:
        """A layer's weight; with heads, rows in the interleaved rope order that both peers use."""
        w = self.read(f"model.layers.{i}.{part}.weight")
        return interleaved(w, heads) if heads else w


def interleaved(w: Array, heads: int) -> Array:
    """Rows of queries or keys in the rope order that both peers use."""
    rows, cols = w.shape
    return w.reshape(heads, 2, rows // heads // 2, cols).swapaxes(1, 2).reshape(rows, cols)


def to_gguf(folder: Path, out: Path, kind: str) -> Path:
    """Write a GGUF file (kind: F32, F16, BF16, a quantisation type of the gguf package)."""
    import gguf

    m, c = Folder(folder), Folder(folder).config
    writer = gguf.GGUFWriter(str(out), "llama")
    writer.add_vocab_size(c["vocab_size"])
    writer.add_context_length(c["max_position_embeddings"])
    writer.add_embedding_length(c["hidden_size"])
    writer.add_block_count(c["num_hidden_layers"])
    writer.add_feed_forward_length(c["intermediate_size"])
    writer.add_head_count(m.heads)
    writer.add_head_count_kv(m.kv_heads)
    writer.add_rope_dimension_count(c["hidden_size"] // m.heads)
    writer.add_rope_freq_base(c["rope_theta"])
    writer.add_layer_norm_rms_eps(c["rms_norm_eps"])
    writer.add_tokenizer_model("no_vocab")
    quantisation = gguf.GGMLQuantizationType[kind]

    def put(name: str, w: Array) -> None:
        if w.ndim == 1 or kind == "F32":
            writer.add_tensor(name, np.ascontiguousarray(w, np.float32))
        else:
            packed = gguf.quants.quantize(np.ascontiguousarray(w, np.float32), quantisation)
            writer.add_tensor(name, packed, raw_dtype=quantisation)

    put("token_embd.weight", m.read("model.embed_tokens.weight"))
    for i in m.layers:
        put(f"blk.{i}.attn_norm.weight", m.layer(i, "input_layernorm"))
        put(f"blk.{i}.ffn_norm.weight", m.layer(i, "post_attention_layernorm"))
        for name, part in GGUF_PARTS.items():
            put(f"blk.{i}.{name}.weight", m.layer(i, part, m.turned.get(part, 0)))
    put("output_norm.weight", m.read("model.norm.weight"))
    if not m.tied:
        put("output.weight", m.read("lm_head.weight"))
    return _written(writer, out)


def adapter_to_gguf(folder: Path, adapter: Path, out: Path) -> Path:
    """Write a PEFT folder's LoRA of all linear layers of the checkpoint in `folder`."""
    import gguf

    m, lora = Folder(folder), Folder(adapter, "adapter_config.json", "adapter_model.safetensors")
    writer = gguf.GGUFWriter(str(out), "llama")
    writer.add_type("adapter")
    writer.add_string("adapter.type", "lora")
    writer.add_float32("adapter.lora.alpha", lora.config["lora_alpha"])
    for i in m.layers:
        for name, part in GGUF_PARTS.items():
            a, b = (lora.read(f"base_model.model.model.layers.{i}.{part}.lora_{x}.weight") for x in "AB")
            heads = m.turned.get(part, 0)
            writer.add_tensor(f"blk.{i}.{name}.weight.lora_a", a)
            writer.add_tensor(f"blk.{i}.{name}.weight.lora_b", interleaved(b, heads) if heads else b)
    return _written(writer, out)


def _written(writer: Any, out: Path) -> Path:
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return out


def to_llama2c(folder: Path, out: Path, tokenizer: Path) -> Path:
    """Write llama2.c's version-0 .bin and a tokenizer file with the vocabulary (scores 0: it can only decode)."""
    m, c = Folder(folder), Folder(folder).config
    head_dim = c["hidden_size"] // m.heads
    sizes = (c["hidden_size"], c["intermediate_size"], c["num_hidden_layers"], m.heads, m.kv_heads)
    angles = np.outer(np.arange(c["max_position_embeddings"]), 10000.0 ** (-np.arange(0, head_dim, 2) / head_dim))
    parts = (
        ("input_layernorm", 0),
        ("self_attn.q_proj", m.heads),
        ("self_attn.k_proj", m.kv_heads),
        ("self_attn.v_proj", 0),
        ("self_attn.o_proj", 0),
        ("post_attention_layernorm", 0),
        ("mlp.gate_proj", 0),
        ("mlp.down_proj", 0),
        ("mlp.up_proj", 0),
    )
    with out.open("wb") as file:
        vocab = c["vocab_size"] if m.tied else -c["vocab_size"]
        file.write(struct.pack("<7i", *sizes, vocab, c["max_position_embeddings"]))
        file.write(np.ascontiguousarray(m.read("model.embed_tokens.weight")).data)
        for part, heads in parts:
            for i in m.layers:
                file.write(np.ascontiguousarray(m.layer(i, part, heads)).data)
        file.write(np.ascontiguousarray(m.read("model.norm.weight")).data)
        file.write(np.cos(angles).astype("<f4").data)
        file.write(np.sin(angles).astype("<f4").data)
        if not m.tied:
            file.write(np.ascontiguousarray(m.read("lm_head.weight")).data)
    vocabulary = _pieces(folder, c["vocab_size"])
    with tokenizer.open("wb") as file:
        file.write(struct.pack("<i", max(map(len, vocabulary))))
        for piece in vocabulary:
            file.write(struct.pack("<fi", 0.0, len(piece)) + piece)
    return out


def _pieces(folder: Path, n: int) -> list[bytes]:
    path = folder / "tokenizer.json"
    if not path.exists():
        return [b"t%d " % i for i in range(n)]
    by_id = {i: piece for piece, i in json.loads(path.read_text())["model"]["vocab"].items()}
    return [by_id.get(i, "").replace("\u2581", " ").encode() for i in range(n)]
