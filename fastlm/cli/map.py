"""fastlm map: a model over the rows of a file."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from fastlm.cli import streams
from fastlm.cli.commands import params_of, sampling_options
from fastlm.cli.options import adapter_option, load_model, model_options
from fastlm.cli.parser import command
from fastlm.errors import FastlmError

SECONDS = 0.5  # between two counts on a terminal


def register(commands: Any) -> None:
    """Add the command to the parser's."""
    parser = command(
        commands,
        "map",
        "write a text for each row of a file; goes on where it was killed",
        _map,
        'fastlm map data.jsonl --prompt "{title}: once upon a time" --out out.jsonl',
        'fastlm map reviews.csv --model path/to/checkpoint --chat --prompt "Summarise: {review}" --out out.csv',
    )
    parser.add_argument(
        "data", metavar="FILE", help="rows: .jsonl (objects, or strings: the column text), .csv or .tsv"
    )
    parser.add_argument("--prompt", required=True, metavar="TEXT", help="with names of columns in braces: {text}")
    parser.add_argument("--out", required=True, metavar="PATH", help=".jsonl, .csv or .tsv; rows that it has stay")
    parser.add_argument("--output", default="output", metavar="NAME", help="column that gets the text (output)")
    parser.add_argument("--chat", action="store_true", help="the prompt is a message to answer, by the chat template")
    parser.add_argument("--system", metavar="TEXT", help="a message before it (none)")
    parser.add_argument("--row-params", metavar="NAME", help="column with parameters of a row's own, as JSON (none)")
    parser.add_argument("--at-once", type=int, metavar="N", help="rows that are begun at a time (256)")
    model_options(parser)
    adapter_option(parser)
    sampling_options(parser)


def _map(args: argparse.Namespace) -> None:
    from fastlm.batch.files import Results, count_of, kind_of, rows_of
    from fastlm.batch.rows import AT_ONCE, generate
    from fastlm.batch.template import Template

    kind, out_kind = kind_of(args.data, "the file of rows"), kind_of(args.out, "--out")
    options = {
        "output": args.output,
        "chat": args.chat,
        "system": None if args.system is None else streams.utf8(args.system, "--system"),
        "row_params": args.row_params,
        "at_once": args.at_once or AT_ONCE,
        **params_of(args),
    }
    prompt = Template(streams.utf8(args.prompt, "--prompt"))

    def rows() -> Iterator[dict[str, Any]]:
        return rows_of(streams.lines_of(args.data), kind, args.data)

    total, left = count_of(rows()), rows()
    with load_model(args) as model, Results(args.out, out_kind, (args.output, "finish_reason", "error")) as results:
        done, failed = results.skip_done(left), 0
        if done:
            streams.note(f"{args.out}: has {done:,} of {total:,} rows; going on")
        with _counting(total, done) as count:
            for row in generate(left, model, prompt, **options):
                results.add(row)
                failed += "error" in row
                count()
    if failed:
        raise FastlmError(f"{failed:,} rows could not be answered: {args.out} tells why, in the column error")


@contextmanager
def _counting(total: int, done: int) -> Iterator[Callable[[], None]]:
    """Rows that are done and the time that is left, on a terminal."""
    begun, shown, first, visible = time.monotonic(), 0.0, done, sys.stderr.isatty()

    def count() -> None:
        nonlocal done, shown
        done, now = done + 1, time.monotonic()
        if visible and (now - shown >= SECONDS or done == total):
            shown = now
            rate = (done - first) / max(now - begun, 1e-9)
            left = time.strftime("%H:%M:%S", time.gmtime((total - done) / rate))
            sys.stderr.write(f"\r{done:,} of {total:,} rows, {rate:,.1f} a second, {left} left ")
            sys.stderr.flush()

    try:
        yield count
    finally:
        if visible and done > first:
            sys.stderr.write("\n")
