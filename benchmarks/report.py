"""The results as Markdown: a table of speeds, of ratios, of shares of the bounds and of settings for each model."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

Json = dict[str, Any]
START, END = "<!-- measured: written by python -m benchmarks -->", "<!-- end of measured -->"
PEAK_WORDS = {
    "read": "read",
    "float32": "float32",
    "bfloat16": "bfloat16 dots",
    "int8": "int8 dots",
    "amx_bfloat16": "bfloat16 tiles",
    "amx_int8": "int8 tiles",
}


@dataclass(frozen=True, slots=True)
class Cell:
    """What one entrant did in one work of one run."""

    run: Json
    entrant: Json
    rates: list[float]
    shares: dict[str, float]

    @property
    def median(self) -> float:
        return statistics.median(self.rates)


class Table:
    """All runs of one model: cells by work and entrant."""

    def __init__(self, runs: Sequence[Json]) -> None:
        self.runs = runs
        self.cells: dict[str, dict[str, Cell]] = {}
        self.missing: dict[tuple[str, str], list[str]] = {}  # (entrant, why) -> works
        for run in runs:
            for entrant in run["entrants"]:
                for work in run["works"]:
                    self._add(run, entrant, work)
        kinds = ("decode", "prompt")
        order = {
            work: (next((i for i, k in enumerate(kinds) if work.startswith(k)), 2), _number(work))
            for work in self.cells
        }
        self.works = sorted(self.cells, key=lambda work: order[work])
        seen = {name: cell for cells in self.cells.values() for name, cell in cells.items()}
        engines = list(dict.fromkeys(["fastlm", *(cell.entrant["engine"] for cell in seen.values())]))
        self.names = sorted(seen, key=lambda n: (engines.index(seen[n].entrant["engine"]), -seen[n].entrant["bits"], n))
        self.bits = {name: cell.entrant["bits"] for name, cell in seen.items()}

    def _add(self, run: Json, entrant: Json, work: str) -> None:
        if work in entrant["missing"]:
            self.missing.setdefault((entrant["name"], entrant["missing"][work]), []).append(work)
        if work in entrant["rates"]:
            cell = Cell(run, entrant, entrant["rates"][work], entrant["shares"][work])
            self.cells.setdefault(work, {})[entrant["name"]] = cell

    def ours(self, work: str, bits: int) -> Cell | None:
        """fastlm's with so many bits."""
        cells = self.cells[work].values()
        return next((c for c in cells if c.entrant["engine"] == "fastlm" and c.entrant["bits"] == bits), None)

    def ratio(self, work: str, name: str) -> float | None:
        """Of medians: fastlm with as many bits to this entrant."""
        cell = self.cells[work].get(name)
        ours = self.ours(work, self.bits[name])
        return ours.median / cell.median if cell and ours and cell.entrant["engine"] != "fastlm" else None

    def best(self, work: str, engine: str, run: Json | None = None) -> Cell | None:
        """The engine's fastest format, of one run if that is given."""
        cells = [c for c in self.cells[work].values() if c.entrant["engine"] == engine and run in (None, c.run)]
        return max(cells, key=lambda cell: cell.median, default=None)

    def best_ratio(self, work: str, engine: str) -> float | None:
        """fastlm's fastest format / the engine's fastest in the same run."""
        ours = self.best(work, "fastlm")
        its = self.best(work, engine, ours.run) if ours else None
        return ours.median / its.median if ours and its else None

    @property
    def peers(self) -> list[str]:
        found = dict.fromkeys(c.entrant["engine"] for cells in self.cells.values() for c in cells.values())
        return [engine for engine in found if engine != "fastlm"]


def _number(work: str) -> int:
    return int(next(word for word in work.split() if word.isdigit()))


def number(x: float) -> str:
    """Three digits."""
    return f"{x:,.0f}" if x >= 99.95 else f"{x:.1f}" if x >= 9.995 else f"{x:.2f}"


def _hundredths(x: float | None) -> str:
    return "" if x is None else f"{x:.2f}"


def markdown(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    return [f"| {' | '.join(line)} |" for line in (head, ["---"] * len(head), *rows)] + [""]


def _rows(names: Sequence[str], works: Sequence[str], cell: Callable[[str, str], str]) -> list[list[str]]:
    """A row for each name that has something to say."""
    rows = [[name, *(cell(work, name) for work in works)] for name in names]
    return [row for row in rows if any(row[1:])]


def model_section(runs: Sequence[Json]) -> list[str]:
    table = Table(runs)
    works = table.works

    def speed(work: str, name: str) -> str:
        cell = table.cells[work].get(name)
        return f"{number(cell.median)} ({number(min(cell.rates))} - {number(max(cell.rates))})" if cell else ""

    def ratio(work: str, name: str) -> str:
        return _hundredths(table.ratio(work, name))

    def best(work: str, engine: str) -> str:
        return _hundredths(table.best_ratio(work, engine))

    def share(work: str, name: str) -> str:
        cell = table.cells[work].get(name)
        return ", ".join(f"{PEAK_WORDS[k]} {100 * v:.0f} %" for k, v in cell.shares.items()) if cell else ""

    ratios = _rows(table.names, works, ratio)
    ratios += [[f"best of {engine}", *row[1:]] for engine in table.peers for row in _rows([engine], works, best)]
    lines = [f"### {runs[0]['model']}: {runs[0]['about']}", "", "Tokens per second, median (range):", ""]
    lines += markdown(["", *works], _rows(table.names, works, speed))
    if ratios:
        lines += ["fastlm with as many bits / the peer; last, fastlm's best format / the peer's best:", ""]
        lines += markdown(["", *works], ratios)
    if shares := _rows(table.names, works, share):
        lines += ["Part of the bounds that fastlm reaches:", ""]
        lines += markdown(["", *works], shares)
    lines += ["Who took part:", ""]
    lines += markdown(["", "version", "chosen settings", "load", "peak memory"], _entrants(table))
    lines += [f"- {name} ({', '.join(works)}): {why}" for (name, why), works in sorted(table.missing.items())]
    return [*lines, ""] if table.missing else lines


def _entrants(table: Table) -> list[list[str]]:
    rows = []
    for name in table.names:
        cells = [(work, table.cells[work][name]) for work in table.works if name in table.cells[work]]
        choices: dict[str, list[str]] = {}
        for work, cell in cells:
            choices.setdefault(cell.entrant["choice"], []).append(work)
        several = len(choices) > 1
        chosen = "; ".join(f"{choice} ({', '.join(works)})" if several else choice for choice, works in choices.items())
        first = cells[0][1].entrant
        loads = [c.entrant["load_seconds"] for _, c in cells if c.entrant["load_seconds"] is not None]
        peaks = [c.entrant["peak_bytes"] for _, c in cells if c.entrant["peak_bytes"]]
        load = f"{statistics.median(loads):.2f} s" if loads else ""
        rows.append([name, _version(first), chosen, load, f"{max(peaks) / 1e6:,.0f} MB" if peaks else ""])
    return rows


def _version(entrant: Json) -> str:
    """fastlm says which instructions and pages it uses; what the peers detail is in the JSON."""
    return f"{entrant['version']}, {entrant['details']}" if entrant["engine"] == "fastlm" else str(entrant["version"])


def bounds_section(runs: Sequence[Json]) -> list[str]:
    """Of all runs: the range of what the machine reached."""
    rows = []
    for threads in sorted({run["threads"] for run in runs}):
        mine = [run for run in runs if run["threads"] == threads]
        for peak in mine[0]["peaks"]:
            rates = [run["peaks"][peak] for run in mine if run["peaks"].get(peak)]
            if rates:
                unit = f"{min(rates) / 1e12:.2f} - {max(rates) / 1e12:.2f} T operations/s"
                rows.append([str(threads), PEAK_WORDS[peak], unit])
        for run in mine:
            for entrant in run["entrants"]:
                for work, rates in entrant["reads"].items():
                    what = f"read as {run['model']}, {entrant['name']}, {work}"
                    rows.append([str(threads), what, f"{min(rates) / 1e9:.1f} - {max(rates) / 1e9:.1f} GB/s"])
    return markdown(["threads", "bound", "range of the rounds"], rows)


def first_token_section(found: Sequence[Json]) -> list[str]:
    """From process start to the first token of a mapped file."""
    if not found:
        return []
    steps = list(found[0]["steps"])
    rows = [
        [run["model"], run["format"], *(f"{1e3 * statistics.median(run['steps'][step]):.0f}" for step in steps)]
        for run in found
    ]
    lines = ["### First token from a cold process", "", "Milliseconds since the process was started, medians:", ""]
    return lines + markdown(["model", "format", *steps], rows)


def page(results: Json) -> str:
    """All of it, between the two marks."""
    lines = [START, ""]
    for model in dict.fromkeys(run["model"] for run in results["runs"]):
        lines += model_section([run for run in results["runs"] if run["model"] == model])
    lines += first_token_section(results["first_token"])
    if results["runs"]:
        lines += ["### Bounds", "", *bounds_section(results["runs"])]
    return "\n".join([*lines, END])


def place(text: str, fresh: str, start: str = START) -> str:
    """A page with its measured part, from that mark on, replaced; or appended where there is none yet."""
    if start not in text:
        return f"{text.rstrip()}\n\n{fresh}\n".lstrip()
    before, _, rest = text.partition(start)
    return before + fresh + rest.partition(END)[2]
