"""Encoder-decoders: sources alone and together, greedy and with four beams, in alternation with CTranslate2.

python -m benchmarks.translate --shape translator --peer ctranslate2=ENVIRONMENT/bin/python

Every result has as many tokens as --tokens says: the end of a text is left out of the choice. Rates are of the tokens
of results, from the sources' ids to the last result.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from . import alternation, protocol
from .entrants import Peer, entrants
from .shapes import write_checkpoint

WAYS = (("alone", 1, 1), ("16 sources", 16, 1), ("beam 4", 1, 4), ("beam 4, 16 sources", 16, 4))


@dataclass(frozen=True, slots=True)
class Stacks:
    """An encoder and a decoder of BART's kind (Lewis et al. 2020); `family` says which."""

    family: str
    architecture: str
    hidden: int
    layers: int
    heads: int
    ffn: int
    vocab: int
    activation: str
    positions: int = 512
    norms_embedding: bool = False

    def config(self, dtype: str) -> dict[str, object]:
        sizes = {
            f"{stack}_{what}": value
            for stack in ("encoder", "decoder")
            for what, value in (("layers", self.layers), ("attention_heads", self.heads), ("ffn_dim", self.ffn))
        }
        ids = {"pad_token_id": self.vocab - 1, "decoder_start_token_id": self.vocab - 1}
        if self.norms_embedding:
            ids = {"pad_token_id": 1, "decoder_start_token_id": 2}
        return {
            "architectures": [self.architecture],
            "model_type": self.family,
            "is_encoder_decoder": True,
            "d_model": self.hidden,
            "vocab_size": self.vocab,
            "activation_function": self.activation,
            "max_position_embeddings": self.positions,
            "scale_embedding": not self.norms_embedding,
            "normalize_before": False,
            "tie_word_embeddings": True,
            "bos_token_id": 0,
            "eos_token_id": 2,
            "torch_dtype": dtype,
            **sizes,
            **ids,
        }

    def tensors(self) -> Iterator[tuple[str, tuple[int, ...]]]:
        """Names and shapes in checkpoint order."""
        yield "model.shared.weight", (self.vocab, self.hidden)
        yield "final_logits_bias", (1, self.vocab)
        for stack in ("encoder", "decoder"):
            prefix = f"model.{stack}."
            if self.norms_embedding:  # BART's positions are learned, and two rows longer
                yield prefix + "embed_positions.weight", (self.positions + 2, self.hidden)
                yield from self._with_bias(prefix + "layernorm_embedding", (self.hidden,))
            for i in range(self.layers):
                yield from self._layer(f"{prefix}layers.{i}.", stack)

    def _layer(self, prefix: str, stack: str) -> Iterator[tuple[str, tuple[int, ...]]]:
        for name in ("self_attn", *(("encoder_attn",) if stack == "decoder" else ())):
            for matrix in ("k_proj", "v_proj", "q_proj", "out_proj"):
                yield from self._with_bias(f"{prefix}{name}.{matrix}", (self.hidden, self.hidden))
            yield from self._with_bias(f"{prefix}{name}_layer_norm", (self.hidden,))
        yield from self._with_bias(prefix + "fc1", (self.ffn, self.hidden))
        yield from self._with_bias(prefix + "fc2", (self.hidden, self.ffn))
        yield from self._with_bias(prefix + "final_layer_norm", (self.hidden,))

    @staticmethod
    def _with_bias(name: str, shape: tuple[int, ...]) -> Iterator[tuple[str, tuple[int, ...]]]:
        yield name + ".weight", shape
        yield name + ".bias", shape[:1]


SHAPES = {  # of OPUS-MT, and of BART's base size
    "translator": Stacks("marian", "MarianMTModel", 512, 6, 8, 2048, 58101, "swish"),
    "bart": Stacks("bart", "BartForConditionalGeneration", 768, 6, 12, 3072, 50265, "gelu", 1024, True),
}


@dataclass(frozen=True, slots=True)
class Way:
    """Sources together, beams of each, tokens of a source and of a result."""

    name: str
    sources: int
    beams: int
    source: int
    tokens: int
    context: int = 512

    def request(self) -> dict[str, Any]:
        sizes = {"sources": self.sources, "source": self.source, "beams": self.beams, "tokens": self.tokens}
        return {"do": "translate", **sizes}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=sorted(SHAPES), default="translator")
    parser.add_argument("--peer", action="append", default=[], help="ctranslate2=PYTHON")
    parser.add_argument("--cache", type=Path, default=Path(tempfile.gettempdir()) / "fastlm-benchmarks")
    parser.add_argument("--bits", type=int, default=8)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--source", type=int, default=32, help="tokens of a source (32)")
    parser.add_argument("--tokens", type=int, default=64, help="that are written for each (64)")
    parser.add_argument("--runs", type=int, default=5)
    args = parser.parse_args()
    cache = args.cache.resolve() / args.shape
    folder = write_checkpoint(cache / "checkpoint", SHAPES[args.shape])
    ways = [Way(name, sources, beams, args.source, args.tokens) for name, sources, beams in WAYS]
    plan = protocol.Plan(folder, cache, ways, args.threads, args.runs)
    taking_part = entrants([Peer.parse(text) for text in args.peer], [args.bits])
    with ExitStack() as stack:
        workers = alternation.start(taking_part, plan, stack)
        print(alternation.table({way.name: alternation.rates(workers, plan, way) for way in ways}, "tokens/s"))


if __name__ == "__main__":
    main()
