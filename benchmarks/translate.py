"""Translation at the shape of OPUS-MT with random weights: alone, 16 sources together, and both with four beams.

python -m benchmarks.translate --threads 2 --dtype int8
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

import fastlm

from .shapes import write_checkpoint

WAYS = (("alone", 1, 1), ("16 sources", 16, 1), ("beam 4", 1, 4), ("beam 4, 16 sources", 16, 4))


@dataclass(frozen=True, slots=True)
class Translator:
    """A T5 as wide and as deep as an OPUS-MT model: the same products, and a head as large."""

    hidden: int = 512
    layers: int = 6
    heads: int = 8
    ffn: int = 2048
    vocab: int = 58101

    def config(self, dtype: str) -> dict[str, object]:
        return {
            "architectures": ["T5ForConditionalGeneration"],
            "model_type": "t5",
            "is_encoder_decoder": True,
            "d_model": self.hidden,
            "d_kv": self.hidden // self.heads,
            "d_ff": self.ffn,
            "num_layers": self.layers,
            "num_heads": self.heads,
            "vocab_size": self.vocab,
            "feed_forward_proj": "relu",
            "decoder_start_token_id": 0,
            "pad_token_id": 0,
            "eos_token_id": 1,
            "torch_dtype": dtype,
        }

    def tensors(self) -> Iterator[tuple[str, tuple[int, ...]]]:
        """Names and shapes in checkpoint order."""
        yield "shared.weight", (self.vocab, self.hidden)
        for stack in ("encoder", "decoder"):
            for i in range(self.layers):
                yield from self._block(f"{stack}.block.{i}.layer.", stack, i)
            yield f"{stack}.final_layer_norm.weight", (self.hidden,)

    def _block(self, prefix: str, stack: str, layer: int) -> Iterator[tuple[str, tuple[int, ...]]]:
        names = ["SelfAttention", *(["EncDecAttention"] if stack == "decoder" else [])]
        for at, name in enumerate(names):
            for matrix in "qkvo":
                yield f"{prefix}{at}.{name}.{matrix}.weight", (self.hidden, self.hidden)
            if layer == at == 0:
                yield f"{prefix}0.SelfAttention.relative_attention_bias.weight", (32, self.heads)
            yield f"{prefix}{at}.layer_norm.weight", (self.hidden,)
        last = len(names)
        yield f"{prefix}{last}.DenseReluDense.wi.weight", (self.ffn, self.hidden)
        yield f"{prefix}{last}.DenseReluDense.wo.weight", (self.hidden, self.ffn)
        yield f"{prefix}{last}.layer_norm.weight", (self.hidden,)


def rate(model: fastlm.Model, n_sources: int, beams: int, source: int, tokens: int) -> float:
    """Tokens of results in a second."""
    ids = np.random.default_rng(0).integers(3, model.vocab, (n_sources, source)).tolist()
    start = time.perf_counter()
    done = model.batch(ids, num_beams=beams, max_tokens=tokens, ignore_eos=True)
    seconds = time.perf_counter() - start
    return sum(len(each.token_ids) for each in done) / seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cache", type=Path, default=Path(".benchmarks"), help="where the checkpoint is kept")
    parser.add_argument("--dtype", default="int8")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--source", type=int, default=32, help="tokens of a source")
    parser.add_argument("--tokens", type=int, default=64, help="that are written for each")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--layers", type=int, default=Translator().layers)
    args = parser.parse_args()
    shape = Translator(layers=args.layers)
    folder = write_checkpoint(args.cache / f"translator-{shape.layers}", shape)
    with fastlm.load(folder, dtype=args.dtype, threads=args.threads) as model:
        for name, n_sources, beams in WAYS:
            rates = [rate(model, n_sources, beams, args.source, args.tokens) for _ in range(args.runs + 1)][1:]
            low, middle, high = min(rates), statistics.median(rates), max(rates)
            print(f"{name:<20} {middle:8.0f} tokens/s ({low:.0f} - {high:.0f})", flush=True)


if __name__ == "__main__":
    main()
