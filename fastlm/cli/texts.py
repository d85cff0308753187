"""The texts of a command: arguments, a file or standard input, read as they are needed."""

from __future__ import annotations

import argparse
import csv
import json
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from fastlm.cli import streams
from fastlm.errors import FastlmError, ParameterError

GROUP = 256  # texts that a command takes at a time
SUFFIXES = {".jsonl": "jsonl", ".ndjson": "jsonl", ".csv": "csv", ".tsv": "tsv"}
FILE_HELP = "take the texts from this file, which is UTF-8 (- is standard input, as is a pipe where nothing is given)"
INPUT_HELP = """of the file: lines (a text each), jsonl (a JSON string on each line, or a pair of them, or an object),
csv or tsv (with a header), text (all of it is one text); default: by the file's name, else lines"""
COLUMN_HELP = """of csv, tsv or objects of JSON: where the text is ("text"); given twice, texts are pairs"""


@dataclass(frozen=True, slots=True)
class Item:
    """A text, or a pair of texts, and where it comes from: argument 2; stories.csv, line 7."""

    text: Any
    where: str


def text_options(parser: argparse.ArgumentParser, name: str = "TEXT", whole: bool = False) -> None:
    """The texts of a command; whole: a file is one text unless its name says otherwise."""
    parser.add_argument("texts", metavar=name, nargs="*", help="in quotes; or - for standard input")
    parser.add_argument("--file", metavar="PATH", help=FILE_HELP)
    shown = INPUT_HELP.replace("else lines", "else text") if whole else INPUT_HELP
    parser.add_argument("--input", choices=tuple(READERS), help=shown)
    parser.add_argument("--column", action="append", metavar="NAME", help=COLUMN_HELP)
    parser.set_defaults(otherwise="text" if whole else "lines")


def items(args: argparse.Namespace) -> Iterator[Item]:
    """The texts, one after another; nothing of a file is in memory but what is asked for.

    Raises
    ------
    ParameterError
        There are none, or two sources of them; one is malformed: the error names the line.
    ModelFileError
        The file cannot be read.
    """
    if args.texts and args.file is not None:
        raise ParameterError("--file: a text is given already: keep one of the two")
    if args.texts and args.texts != [streams.STDIN]:
        if len(args.texts) == 1:
            streams.warn_of_name(args.texts[0])
        return iter([_argument(i, text) for i, text in enumerate(args.texts, 1)])
    if not args.texts and args.file is None and not streams.brings_text():
        raise ParameterError("there is no text: give one in quotes, --file PATH, or a pipe")
    source = args.file or streams.STDIN
    kind = args.input or SUFFIXES.get(Path(source).suffix.lower(), args.otherwise)
    name = "standard input" if source == streams.STDIN else source
    return READERS[kind](streams.lines_of(source), name, args.column or ["text"])


def _argument(number: int, text: str) -> Item:
    return Item(streams.utf8(text, f"argument {number}"), f"argument {number}")


def groups(found: Iterable[Item], size: int = GROUP) -> Iterator[list[Item]]:
    """So many texts at a time."""
    rest = iter(found)
    while group := list(islice(rest, size)):
        yield group


@contextmanager
def errors_of(group: Sequence[Item]) -> Iterator[None]:
    """An error of a text of the group, which begins with texts[i], or text of one alone, says where that comes from."""
    try:
        yield
    except FastlmError as error:
        found = re.match(r"(?!prompt|labels)(?:[\w ]+\[(\d+)\]|text|context):? ", str(error))
        if found is None:
            raise
        raise type(error)(f"{group[int(found[1] or 0)].where}: {str(error)[found.end() :]}") from error


# ---- what is in a file --------------------------------------------------------------------------------------------


def _read_lines(lines: Iterator[str], name: str, columns: Sequence[str]) -> Iterator[Item]:
    for number, line in enumerate(lines, 1):
        yield Item(streams.without_line_end(line), f"{name}, line {number}")


def _read_whole(lines: Iterator[str], name: str, columns: Sequence[str]) -> Iterator[Item]:
    yield Item(streams.without_line_end("".join(lines)), name)


def _read_json(lines: Iterator[str], name: str, columns: Sequence[str]) -> Iterator[Item]:
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        where = f"{name}, line {number}"
        try:
            value = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise ParameterError(f"{where}: is no JSON: {error}") from None
        yield Item(_from_columns(value, where, columns) if isinstance(value, dict) else _checked(value, where), where)


def _read_table(delimiter: str, lines: Iterator[str], name: str, columns: Sequence[str]) -> Iterator[Item]:
    rows = csv.DictReader(lines, delimiter=delimiter, strict=True)
    try:
        for row in rows:
            where = f"{name}, line {rows.line_num}"
            yield Item(_from_columns(row, where, columns), where)
    except csv.Error as error:
        raise ParameterError(f"{name}, line {rows.line_num}: is no table: {error}") from None


def _from_columns(row: dict[Any, Any], where: str, columns: Sequence[str]) -> Any:
    """The text of a row, or the pair of texts."""
    missing = next((column for column in columns if row.get(column) is None), None)
    if missing is not None:
        known = ", ".join(str(column) for column in row if column is not None) or "none"
        raise ParameterError(f"{where}: has no {missing!r} (there is: {known:.200}); --column names it")
    values = [row[column] for column in columns]
    return _checked(values[0] if len(values) == 1 else values, where)


def _checked(value: Any, where: str) -> Any:
    """A string, or a tuple of two."""
    if isinstance(value, str):
        return value
    if isinstance(value, list) and len(value) == 2 and all(isinstance(part, str) for part in value):
        return tuple(value)
    raise ParameterError(f"{where}: expected a text or a pair of texts, found {value!r:.100}")


Reader = Callable[[Iterator[str], str, Sequence[str]], Iterator[Item]]
READERS: dict[str, Reader] = {
    "lines": _read_lines,
    "jsonl": _read_json,
    "csv": lambda lines, name, columns: _read_table(",", lines, name, columns),
    "tsv": lambda lines, name, columns: _read_table("\t", lines, name, columns),
    "text": _read_whole,
}
