"""The shell commands train, distill and finetune. Light: torch is loaded when one of them runs."""

from __future__ import annotations

import argparse
from typing import Any

from fastlm.train.recipe import Recipe, Shape, add_options, from_options

TEXTS = "UTF-8 text files, documents separated by lines <|endoftext|>; the last 5 %% of each are held out"
OUT = "folder to write; repeat the command to go on after an interruption"


def register(commands: Any) -> None:
    """Add the commands to the parser's."""
    train = commands.add_parser("train", help="train a small model from text files")
    _common(train)
    train.add_argument("--vocab", type=int, default=4096, help="tokens of the byte-level BPE to learn (4096)")
    train.add_argument("--tokenizer", metavar="FOLDER", help="take the tokenizer of this model instead")
    add_options(train, Shape)
    add_options(train, Recipe)
    train.set_defaults(run=_train)


def _common(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("texts", metavar="TEXT", nargs="+", help=TEXTS)
    parser.add_argument("--out", required=True, metavar="FOLDER", help=OUT)
    parser.add_argument("--weights", type=float, nargs="+", default=[], help="how often an epoch shows each text (1)")


def _train(args: argparse.Namespace) -> None:
    from fastlm.train.scratch import train

    train(
        args.texts,
        args.out,
        vocab=args.vocab,
        shape=from_options(args, Shape),
        recipe=from_options(args, Recipe),
        weights=args.weights,
        tokenizer=args.tokenizer,
    )
    print(args.out)
