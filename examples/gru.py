"""A small recurrent network, trained by the loop that trains fastlm's models, to compare them with.

python examples/gru.py TEXT... --tokenizer FOLDER --out FOLDER [the options of `fastlm train` that tell how]
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from fastlm.train.loop import State
from fastlm.train.models import count, seed_step
from fastlm.train.prepare import Plan, Texts
from fastlm.train.recipe import Recipe, add_options, from_options
from fastlm.train.report import Card, write_report
from fastlm.train.vocabulary import ModelCodec, copy_tokenizer
from fastlm.weights.folder import CheckpointFolder

WEIGHTS = "model.safetensors"


class Gru(torch.nn.Module):
    """Embedding (width) -> GRU layers (inner) -> projection (width) -> logits by the embedding.

    Embeddings start small, since they are the head, too; the first layer takes them times sqrt(width), which gives its
    inputs a size to learn from (a sixth of a bit per byte after 250 steps).
    """

    def __init__(self, vocab: int, width: int, inner: int, layers: int, dropout: float) -> None:
        super().__init__()
        self.embed = torch.nn.Embedding(vocab, width)
        torch.nn.init.normal_(self.embed.weight, std=0.02)
        self.drop = torch.nn.Dropout(dropout)
        self.gru = torch.nn.GRU(width, inner, layers, batch_first=True, dropout=dropout if layers > 1 else 0.0)
        self.project = torch.nn.Linear(inner, width)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        """Logits (rows, T, vocab) of token ids (rows, T)."""
        hidden, _ = self.gru(self.drop(self.embed(ids) * self.embed.embedding_dim**0.5))
        return self.project(self.drop(hidden)) @ self.embed.weight.T


def loss(model: Gru, ids: torch.Tensor) -> torch.Tensor:
    """Cross-entropy of each next token."""
    logits = model(ids[:, :-1]).float()
    return torch.nn.functional.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten())


def train_gru(
    texts: Sequence[Path],
    out: Path,
    *,
    tokenizer: Path,
    recipe: Recipe,
    weights: Sequence[float] = (),
    width: int = 256,
    inner: int = 512,
    layers: int = 2,
) -> Path:
    """Train one; repeated, it goes on where it was. Returns the folder, whose training.json has the log."""
    shape: dict[str, Any] = {"width": width, "inner": inner, "layers": layers}
    plan = Plan.of("gru", out, Texts.read(texts, weights, ()), recipe, {"tokenizer": str(tokenizer), **shape})
    with plan.run as unfinished:
        if not unfinished:
            return out
        codec = ModelCodec(CheckpointFolder(tokenizer))
        seed_step(recipe.seed, -1)
        model = Gru(codec.size, width, inner, layers, recipe.dropout)
        job = plan.job(model, codec, recipe.length or 512, loss=loss, logits=lambda net, ids: net(ids))

        def write(folder: Path, state: State) -> None:
            copy_tokenizer(tokenizer, folder)
            save_file(model.state_dict(), folder / WEIGHTS)
            write_report(folder, Card("A recurrent network, to compare with", count(model), plan.settings, state))

        plan.carry_out(job, write)
    return out


def write_text(folder: Path, settings: dict[str, Any], prompt: str, tokens: int, temperature: float, seed: int) -> str:
    """A sample."""
    codec = ModelCodec(CheckpointFolder(folder))
    model = Gru(codec.size, settings["width"], settings["inner"], settings["layers"], 0.0).eval()
    model.load_state_dict(load_file(folder / WEIGHTS))
    draw = torch.Generator().manual_seed(seed)
    ids = [codec.start, *codec.tokenizer.encode(prompt, special=False)]
    first = len(ids)
    with torch.no_grad():
        while len(ids) < first + tokens:
            p = (model(torch.tensor([ids]))[0, -1] / temperature).softmax(-1)
            token = int(torch.multinomial(p, 1, generator=draw))
            if token == codec.start:
                break
            ids.append(token)
    return codec.tokenizer.decode(ids[1:])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("texts", nargs="+", type=Path)
    parser.add_argument("--tokenizer", type=Path, required=True, help="a folder with one")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--weights", type=float, nargs="+", default=[], help="how often an epoch shows each text (1)")
    add_options(parser, Recipe)
    args = parser.parse_args()
    train_gru(args.texts, args.out, tokenizer=args.tokenizer, recipe=from_options(args, Recipe), weights=args.weights)


if __name__ == "__main__":
    main()
