"""Rows in files: JSON lines and tables. What is written can be gone on with after a kill."""

from __future__ import annotations

import csv
import fcntl
import io
import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from fastlm.errors import ModelFileError, ParameterError, file_error

KINDS = {".jsonl": "jsonl", ".ndjson": "jsonl", ".csv": "csv", ".tsv": "tsv"}
DELIMITERS = {"csv": ",", "tsv": "\t"}
TEXT = "text"  # the column of JSON lines that are strings
Row = dict[str, Any]


def kind_of(name: str, option: str) -> str:
    """What is in a file, by its name."""
    kind = KINDS.get(Path(name).suffix.lower())
    if kind is None:
        raise ParameterError(f"{option}: the name of the file must end in {', '.join(KINDS)}, not {name}")
    return kind


def rows_of(lines: Iterable[str], kind: str, name: str) -> Iterator[Row]:
    """The rows of a file; an error names the line."""
    return _json_rows(lines, name) if kind == "jsonl" else _table_rows(lines, DELIMITERS[kind], name)


def _json_rows(lines: Iterable[str], name: str) -> Iterator[Row]:
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            value = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise ParameterError(f"{name}, line {number}: is no JSON: {error}") from None
        if isinstance(value, str):
            value = {TEXT: value}
        if not isinstance(value, dict):
            raise ParameterError(f"{name}, line {number}: expected an object or a string, found {value!r:.100}")
        yield value


def _table_rows(lines: Iterable[str], delimiter: str, name: str) -> Iterator[Row]:
    rows = csv.DictReader(iter(lines), delimiter=delimiter, strict=True)
    try:
        for row in rows:
            if None in row or None in row.values():
                raise ParameterError(f"{name}, line {rows.line_num}: has not as many columns as the header")
            yield row
    except csv.Error as error:
        raise ParameterError(f"{name}, line {rows.line_num}: is no table: {error}") from None


class Results:
    """A file to which rows are added, each whole: what a kill left of the last one goes when it is opened again.

    Parameters
    ----------
    columns
        That `generate` adds to those of the rows.

    Raises
    ------
    ModelFileError
        It cannot be opened, or another process writes it.
    """

    def __init__(self, path: str, kind: str, columns: Iterable[str]) -> None:
        self._path = path
        self._kind = kind
        self._columns = tuple(columns)
        self._header: list[str] = []
        try:
            self._file = Path(path).expanduser().open("a+b", buffering=0)
        except OSError as error:
            raise file_error(path, "written", error) from error
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            self._file.close()
            raise ModelFileError(f"{path}: another process writes it") from error

    def __enter__(self) -> Results:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def skip_done(self, rows: Iterator[Row]) -> int:
        """Take from `rows` those whose results are here already; returns how many.

        Raises
        ------
        ParameterError
            The results are those of other rows.
        """
        self._cut()
        self._file.seek(0)
        reader = io.TextIOWrapper(io.BufferedReader(self._file), encoding="utf-8", newline="")
        done = 0
        try:
            for found in rows_of(reader, self._kind, self._path):
                row = next(rows, None)
                if row is None or any(found.get(name) != value for name, value in self._plain(row).items()):
                    raise ParameterError(
                        f"{self._path}: row {done + 1} is no result of row {done + 1} that is given: "
                        "remove the file, or write to another one"
                    )
                self._header = list(found)
                done += 1
        finally:
            reader.detach().detach()
        return done

    def _plain(self, row: Mapping[str, Any]) -> Mapping[str, Any]:
        """A row as it is read again: tables hold texts only."""
        return row if self._kind == "jsonl" else {name: _cell(value) for name, value in row.items()}

    def _cut(self) -> None:
        """Let go of a row that is not whole."""
        end, quotes, offset = 0, 0, 0
        self._file.seek(0)
        for line in io.BufferedReader(io.FileIO(self._file.fileno(), closefd=False)):
            offset += len(line)
            quotes += line.count(b'"') if self._kind != "jsonl" else 0
            if line.endswith(b"\n") and quotes % 2 == 0:
                end = offset
        self._file.truncate(end)

    def add(self, row: Row) -> None:
        """One row more, at once."""
        try:
            self._file.write(self._line(row).encode("utf-8", "surrogatepass"))
        except OSError as error:
            raise file_error(self._path, "written", error) from error

    def _line(self, row: Row) -> str:
        if self._kind == "jsonl":
            return json.dumps(row, ensure_ascii=False) + "\n"
        text = io.StringIO()
        first = not self._header
        if first:
            self._header = list(dict.fromkeys([*row, *self._columns]))
        writer = csv.DictWriter(text, self._header, delimiter=DELIMITERS[self._kind], extrasaction="ignore")
        if first:
            writer.writeheader()
        writer.writerow({name: _cell(value) for name, value in row.items()})
        return text.getvalue()


def _cell(value: Any) -> str:
    return "" if value is None else value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def count_of(rows: Iterator[Row]) -> int:
    """How many there are, all of which are read, so that a malformed one is told before the work begins."""
    return sum(1 for _ in rows)
