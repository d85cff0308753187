"""Where the results of a command go: to standard output as text or JSON, or into a file that is whole or not at all."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from fastlm.cli import streams
from fastlm.errors import ParameterError
from fastlm.results import Completion
from fastlm.weights.paths import replacing

BAR = 30  # characters of a full bar
HEADER_BYTES = 128  # of a .npy file: magic and version, a length, the description, a line end
SECONDS = 0.2  # between two counts on a terminal

Put = Callable[[Any, str], None]  # a result as JSON, and as text


def output_options(parser: argparse.ArgumentParser, vectors: bool = False) -> None:
    """--json and --out."""
    kinds = "a .npy file of float32 (texts, width), or .jsonl" if vectors else "a .jsonl file: a line for each result"
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--json", action="store_true", help="print a line of JSON for each result")
    where.add_argument("--out", metavar="PATH", help=f"write {kinds}; default: to standard output")
    parser.set_defaults(suffixes=(".npy", ".jsonl") if vectors else (".jsonl",))


def record(done: Completion) -> dict[str, Any]:
    """A completion for JSON, without what it looked at."""
    found = {name: value for name, value in asdict(done).items() if not name.endswith("attentions")}
    drafted = None if done.draft is None else done.draft._asdict()
    return {**found, "draft": drafted, "alternatives": [record(other) for other in done.alternatives]}


def check_output(args: argparse.Namespace) -> None:
    """Before anything is computed: the name of the file says what it is to hold."""
    if args.out is not None and Path(args.out).suffix not in args.suffixes:
        raise ParameterError(f"--out: the name of the file must end in {' or '.join(args.suffixes)}, not {args.out}")


@contextmanager
def results(args: argparse.Namespace) -> Iterator[Put]:
    """What takes results, one after another."""
    if args.out is None:
        yield (lambda record, text: streams.write_json(record)) if args.json else _show
        return
    with replacing(args.out) as file:
        yield lambda record, text: _write_line(file, record)


def _show(record: Any, text: str) -> None:
    streams.write(text)


def _write_line(file: BinaryIO, record: Any) -> None:
    file.write(json.dumps(record, ensure_ascii=False).encode() + b"\n")


@contextmanager
def vector_file(path: str, width: int) -> Iterator[Callable[[NDArray[np.float32]], None]]:
    """A .npy file of so many columns, which takes rows and writes them at once; their number is filled in last."""
    with replacing(path) as file:
        rows = 0

        def put(vectors: NDArray[np.float32]) -> None:
            nonlocal rows
            file.write(np.ascontiguousarray(vectors, "<f4").tobytes())
            rows += len(vectors)

        file.write(_header(0, width))
        yield put
        file.seek(0)
        file.write(_header(rows, width))


def _header(rows: int, width: int) -> bytes:
    """Of NumPy's format 1.0, always of one length."""
    text = f"{{'descr': '<f4', 'fortran_order': False, 'shape': ({rows}, {width}), }}"
    length = HEADER_BYTES - 10
    return b"\x93NUMPY\x01\x00" + length.to_bytes(2, "little") + text.ljust(length - 1).encode() + b"\n"


@contextmanager
def counting(args: argparse.Namespace) -> Iterator[Callable[[int], None]]:
    """Texts that are done, on a terminal that shows nothing else meanwhile."""
    if not sys.stderr.isatty() or (args.out is None and sys.stdout is not None and sys.stdout.isatty()):
        yield lambda count: None
        return
    begun, shown, done = time.monotonic(), 0.0, 0

    def count(more: int) -> None:
        nonlocal shown, done
        done, now = done + more, time.monotonic()
        if now - shown >= SECONDS:
            shown = now
            sys.stderr.write(f"\r{done:,} texts, {done / max(now - begun, 1e-9):,.0f} a second ")
            sys.stderr.flush()

    try:
        yield count
    finally:
        if done:
            sys.stderr.write(f"\r{done:,} texts in {time.monotonic() - begun:,.1f} s{'':12}\n")


# ---- as text ------------------------------------------------------------------------------------------------------


def bar(share: float, width: int = BAR) -> str:
    """A bar whose length is the share of a full one, in the letters that the output has."""
    return ("\u2588" if streams.can_show("\u2588") else "#") * round(width * share)


def line_of(text: object, width: int = 100) -> str:
    """A text, or a pair of texts, on one line that a terminal can show, cut if need be."""
    joined = " / ".join(text) if isinstance(text, tuple) else str(text)
    shown = "".join(c if c.isprintable() else " " for c in " ".join(joined.split()))
    return shown if len(shown) <= width else shown[: width - 3] + "..."


def table(heading: object, rows: list[tuple[float, str]], shares: bool = True) -> str:
    """A text and, below it, what was found: scores (shares: of 1, with bars) and names."""
    width = max((len(line_of(name)) for _, name in rows), default=0)
    lines = [line_of(heading)] if heading is not None else []
    for score, name in rows:
        number = f"{100 * score:6.2f} %  {line_of(name):<{width}}  {bar(score)}" if shares else f"{score:9.4f}  {name}"
        lines.append(f"  {number}".rstrip())
    return "\n".join(lines) + "\n"
