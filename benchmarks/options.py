"""What the commands of this folder have in common: their options, and the checkpoint that they measure."""

from __future__ import annotations

import argparse
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from . import shapes
from .entrants import Peer
from .works import parse as parse_work


def parser(doc: str | None, runs: int) -> argparse.ArgumentParser:
    """The options that every command has; runs: how many rounds count, if nothing else is said."""
    made = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--shape", choices=sorted(shapes.SHAPES), help="a shape with random weights")
    made.add_argument("--model", type=Path, help="or a folder with a Llama checkpoint")
    made.add_argument("--work", nargs="+", default=[], help="decode:DEPTH, prompt:TOKENS, batch:SEQUENCES")
    made.add_argument("--tokens", type=int, default=64, help="written in a run of decode or batch (64)")
    made.add_argument("--bits", type=int, nargs="+", default=[8, 4], choices=(32, 16, 8, 4), help="of weights (8 4)")
    made.add_argument("--runs", type=int, default=runs, help=f"rounds that count ({runs})")
    made.add_argument("--cache", type=Path, default=Path(tempfile.gettempdir()) / "fastlm-benchmarks")
    return made


def add_peers(made: argparse.ArgumentParser) -> None:
    made.add_argument("--peer", action="append", default=[], help="NAME=PYTHON, or NAME/BUILD=PYTHON; may be repeated")
    made.add_argument("--only", nargs="+", default=[], help='engines, or "engine format", that take part')


def add_team(made: argparse.ArgumentParser) -> None:
    made.add_argument("--threads", type=int, default=2)
    made.add_argument("--real-time", action="store_true", help="before whatever else runs: for bounds")


def add_out(made: argparse.ArgumentParser, page: str, beside: str) -> None:
    made.add_argument("--out", type=Path, default=Path(page), help=f"page ({page}); {beside} beside it")


def parse(made: argparse.ArgumentParser, words: Sequence[str] | None = None) -> argparse.Namespace:
    """The options given, works and peers by what they mean; and with --real-time the priority that it asks for."""
    args = made.parse_args(words)
    if (args.shape is None) == (args.model is None):
        made.error("give one of --shape and --model")
    try:
        args.work = [parse_work(text, args.tokens) for text in args.work]
        args.peer = [Peer.parse(text) for text in getattr(args, "peer", ())]
    except ValueError as error:
        made.error(str(error))
    if getattr(args, "real_time", False):
        try:
            os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))  # workers and threads inherit it
        except (AttributeError, OSError) as error:
            made.error(f"--real-time: this process cannot have the priority ({error})")
    return args


class Checkpoint(NamedTuple):
    """What is measured: its name, its folder, and where files made from it are kept."""

    name: str
    folder: Path
    cache: Path


def checkpoint(args: argparse.Namespace) -> Checkpoint:
    """Of --model, or of --shape: written unless it is in the cache."""
    name = args.shape or args.model.name
    cache = args.cache.resolve() / name
    cache.mkdir(parents=True, exist_ok=True)
    folder = args.model or shapes.write_checkpoint(cache / "checkpoint", shapes.SHAPES[args.shape])
    return Checkpoint(name, folder, cache)
