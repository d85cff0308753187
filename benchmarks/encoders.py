"""Encoders: texts to vectors, tokenising included, in alternation with peers at their best formats and batches.

python -m benchmarks.encoders --model FOLDER --texts FILE --peer onnxruntime=ENV/bin/python openvino=ENV/bin/python
python -m benchmarks.encoders --shape modernbert --tokenizer FOLDER --texts FILE --work batch:8x512 --peer ...

FILE has a text in each line. Peers sort texts by length and run batches of --batch; each number is tried, and the best
counts.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from . import alternation, protocol
from .entrants import WORKERS, Engine, Entrant
from .shapes import write_checkpoint

ENGINES = {
    e.name: e
    for e in (
        Engine("fastlm", "embed_fastlm.py", {8: ("int8",)}),
        Engine("onnxruntime", "embed_onnxruntime.py", {32: ("float32",), 8: ("int8",)}),
        Engine("openvino", "embed_openvino.py", {32: ("float32",), 16: ("bfloat16",), 8: ("int8",)}),
        Engine("transformers", "embed_transformers.py", {32: ("float32",), 16: ("bfloat16",)}),
    )
}


@dataclass(frozen=True, slots=True)
class ModernBert:
    """ModernBERT's base size (Warner et al. 2024)."""

    hidden: int = 768
    layers: int = 22
    heads: int = 12
    width: int = 1152
    vocab: int = 50368

    def config(self, dtype: str) -> dict[str, object]:
        return {
            "architectures": ["ModernBertModel"],
            "model_type": "modernbert",
            "hidden_size": self.hidden,
            "num_hidden_layers": self.layers,
            "num_attention_heads": self.heads,
            "intermediate_size": self.width,
            "vocab_size": self.vocab,
            "max_position_embeddings": 8192,
            "pad_token_id": 0,
            "torch_dtype": dtype,
        }

    def tensors(self) -> Iterator[tuple[str, tuple[int, ...]]]:
        """Names and shapes in checkpoint order."""
        yield "embeddings.tok_embeddings.weight", (self.vocab, self.hidden)
        yield "embeddings.norm.weight", (self.hidden,)
        for i in range(self.layers):
            prefix = f"layers.{i}."
            if i:
                yield prefix + "attn_norm.weight", (self.hidden,)
            yield prefix + "attn.Wqkv.weight", (3 * self.hidden, self.hidden)
            yield prefix + "attn.Wo.weight", (self.hidden, self.hidden)
            yield prefix + "mlp_norm.weight", (self.hidden,)
            yield prefix + "mlp.Wi.weight", (2 * self.width, self.hidden)
            yield prefix + "mlp.Wo.weight", (self.hidden, self.width)
        yield "final_norm.weight", (self.hidden,)


@dataclass(frozen=True, slots=True)
class Work:
    """Texts by the name that they have in the cache's texts.json."""

    name: str
    context: int = 512

    def request(self) -> dict[str, Any]:
        return {"do": "embed", "name": self.name}


def parse(text: str) -> tuple[str, int, int]:
    """lines:N, or batch:TEXTSxTOKENS (0 for lines)."""
    kind, _, size = text.partition(":")
    if kind == "lines":
        return text, int(size), 0
    texts, _, tokens = size.partition("x")
    return text, int(texts), int(tokens)


def write_texts(works: list[str], lines: list[str], words: list[str], path: Path) -> None:
    """Texts of each work; those of a batch are words that are a token each, between two special tokens."""
    rng = random.Random(0)
    found = {"thousand": lines[:1000]}
    for name, n, tokens in map(parse, works):
        found[name] = [" ".join(rng.choices(words, k=tokens - 2)) for _ in range(n)] if tokens else lines[:n]
    path.write_text(json.dumps(found))


def whole_words(folder: Path) -> list[str]:
    """Of a WordPiece vocabulary."""
    vocab = json.loads((folder / "tokenizer.json").read_text())["model"]["vocab"]
    return sorted(word for word in vocab if word.isascii() and word.isalpha() and len(word) > 2 and word.islower())


def with_tokenizer(folder: Path, tokenizer: Path) -> None:
    for name in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "vocab.txt"):
        if (tokenizer / name).exists():
            shutil.copy(tokenizer / name, folder / name)


def entrants(peers: list[str], settings: dict[str, str], batches: list[int]) -> list[Entrant]:
    """Ours first; a peer once for each format and batch."""
    found = []
    for place in [f"fastlm={sys.executable}", *peers]:
        name, _, python = place.partition("=")
        engine = ENGINES[name]
        command = (python, str(WORKERS / engine.script))
        for bits, formats in engine.formats.items():
            for format in formats:
                for batch in batches if name != "fastlm" else [0]:
                    build = f"batch {batch}" if batch else ""
                    found.append(Entrant(engine, format, bits, {**settings, "batch": str(batch)}, build, command))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("--model", type=Path, help="a folder with an encoder and its WordPiece tokenizer")
    which.add_argument("--shape", choices=("modernbert",), help="a shape with random weights")
    parser.add_argument("--tokenizer", type=Path, help="the folder whose tokenizer a shape gets")
    parser.add_argument("--texts", type=Path, required=True, help="a file with a text in each line")
    parser.add_argument("--work", nargs="+", default=["lines:1", "lines:1000", "batch:32x128"])
    parser.add_argument("--peer", nargs="+", default=[], help="NAME=PYTHON")
    parser.add_argument("--batch", type=int, nargs="+", default=[8, 32], help="texts of a peer's batch (8 32)")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--cache", type=Path, default=Path(tempfile.gettempdir()) / "fastlm-benchmarks")
    args = parser.parse_args()
    cache = args.cache.resolve() / (args.shape or args.model.name)
    folder = args.model or write_checkpoint(cache / "checkpoint", ModernBert(), "float32")
    cache.mkdir(parents=True, exist_ok=True)
    if args.tokenizer:
        with_tokenizer(folder, args.tokenizer)
    lines = [line.strip() for line in args.texts.read_text().splitlines() if line.strip()]
    write_texts(args.work, lines, whole_words(folder), cache / "texts.json")
    works = [Work(name) for name in args.work]
    plan = protocol.Plan(folder, cache, works, args.threads, args.runs)
    settings = {"texts": str(cache / "texts.json"), "tokens": "512"}
    with ExitStack() as stack:
        workers = alternation.start(entrants(args.peer, settings, args.batch), plan, stack)
        print(alternation.table({work.name: alternation.rates(workers, plan, work) for work in works}, "texts/s"))


if __name__ == "__main__":
    main()
