"""The shell commands train, distill and finetune. Light: torch is loaded when one of them runs."""

from __future__ import annotations

import argparse
from typing import Any

from fastlm.cli.parser import command, numbers
from fastlm.errors import ParameterError
from fastlm.train.recipe import FINETUNING, Lora, Recipe, Shape, add_options, from_options, given_options

TEXTS = "UTF-8 text files, documents separated by lines <|endoftext|>; the last 5 %% of each are held out"
OUT = "folder to write; repeat the command to go on after an interruption"


def register(commands: Any) -> None:
    """Add the commands to the parser's."""
    train = command(
        commands,
        "train",
        "train a small model from text files",
        _train,
        "fastlm train stories.txt --out model --width 320 --layers 6 --epochs 8",
        "fastlm train stories.txt books.txt --weights 2 1 --out model",
    )
    _common(train)
    train.add_argument("--vocab", type=int, default=4096, help="tokens of the byte-level BPE to learn (4096)")
    train.add_argument("--tokenizer", metavar="FOLDER", help="take the tokenizer of this model instead")
    add_options(train, Shape)
    add_options(train, Recipe)

    distill = command(
        commands,
        "distill",
        "train a small model on a teacher's logits",
        _distill,
        "fastlm distill teacher stories.txt --out student --width 256 --layers 4 --epochs 6",
    )
    distill.add_argument("teacher", metavar="TEACHER", help="checkpoint folder of a decoder")
    _common(distill)
    distill.add_argument("--student", metavar="CONFIG", help="config.json of the student, instead of the shape below")
    distill.add_argument("--temperature", type=float, default=2.0, help="that softens both distributions (2)")
    distill.add_argument("--share", type=float, default=0.7, help="of the teacher in the loss (0.7)")
    distill.add_argument(
        "--write", type=int, default=0, metavar="N", help="documents that the teacher writes first (0)"
    )
    distill.add_argument(
        "--beside",
        metavar="FOLDER",
        action="append",
        default=[],
        help="a model to set beside it in the model card; may be repeated",
    )
    add_options(distill, Shape)
    add_options(distill, Recipe)

    finetune = command(
        commands,
        "finetune",
        "train a checkpoint on, whole or by an adapter",
        _finetune,
        "fastlm finetune path/to/checkpoint fables.txt --out tuned",
        "fastlm finetune path/to/checkpoint fables.txt --out adapter --lora --merge",
    )
    finetune.add_argument("model", metavar="MODEL", help="checkpoint folder of a decoder")
    _common(finetune)
    finetune.add_argument("--lora", action="store_true", help="train a low-rank adapter and write a PEFT folder")
    add_options(finetune, Lora)
    add_options(finetune, Recipe, **FINETUNING)


def _common(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("texts", metavar="TEXT", nargs="+", help=TEXTS)
    parser.add_argument("--out", required=True, metavar="FOLDER", help=OUT)
    parser.add_argument(
        "--weights", type=numbers, metavar="N,N", default=[], help="how often an epoch shows each text (1 each)"
    )
    parser.add_argument(
        "--extra", metavar="TEXT", action="append", default=[], help="a text file to train on whole; may be repeated"
    )


def _train(args: argparse.Namespace) -> None:
    from fastlm.train.scratch import train

    train(
        args.texts,
        args.out,
        vocab=args.vocab,
        shape=from_options(args, Shape),
        recipe=from_options(args, Recipe),
        weights=args.weights,
        extra=args.extra,
        tokenizer=args.tokenizer,
    )
    print(args.out)


def _distill(args: argparse.Namespace) -> None:
    from fastlm.train.distill import distill

    distill(
        args.teacher,
        args.texts,
        args.out,
        student=args.student,
        shape=from_options(args, Shape),
        recipe=from_options(args, Recipe),
        weights=args.weights,
        extra=args.extra,
        temperature=args.temperature,
        share=args.share,
        write=args.write,
        beside=args.beside,
    )
    print(args.out)


def _finetune(args: argparse.Namespace) -> None:
    adapter = given_options(args, Lora)
    if adapter and not args.lora:
        raise ParameterError(f"--{next(iter(adapter))} is of an adapter: give --lora too, or leave it out")
    from fastlm.train.finetune import finetune

    finetune(
        args.model,
        args.texts,
        args.out,
        lora=from_options(args, Lora) if args.lora else None,
        recipe=from_options(args, Recipe, **FINETUNING),
        weights=args.weights,
        extra=args.extra,
    )
    print(args.out)
