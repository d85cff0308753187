"""What `busy` has found, as Markdown: speeds, what they are of the best that could be, processor time, latencies."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from .beside import Condition
from .report import END, markdown, number

Json = dict[str, Any]
START = "<!-- measured: written by python -m benchmarks.busy -->"
DEFAULT, ONE = "default", "1 thread"


class Found:
    """One work of one model in one format: medians of what each setting did beside each condition."""

    def __init__(self, run: Json) -> None:
        self.run = run
        self.conditions = [Condition.parse(text) for text in run["beside"]]
        self.settings: list[Json] = run["settings"]
        self.names: list[str] = [setting["name"] for setting in self.settings]

    def all(self, condition: Condition | str, name: str, figure: str = "rate") -> list[Any]:
        """Of every round; none: it was not measured."""
        found: list[Any] = self.run["beside"].get(str(condition), {}).get(name, {}).get(figure, [])
        return found

    def rate(self, condition: Condition | str, name: str) -> float | None:
        rates = self.all(condition, name)
        return statistics.median(rates) if rates else None

    def best(self, condition: Condition | str, names: Iterable[str]) -> tuple[str, float] | None:
        """The fastest of some settings."""
        rates = [(name, self.rate(condition, name)) for name in names]
        return max(((name, rate) for name, rate in rates if rate), key=lambda pair: pair[1], default=None)

    def best_fixed(self, condition: Condition) -> tuple[str, float] | None:
        return self.best(condition, [setting["name"] for setting in self.settings if setting["is_fixed"]])

    def of_engine(self, engine: str) -> list[str]:
        """Names of its settings."""
        return [setting["name"] for setting in self.settings if setting["engine"] == engine]

    def fair(self, condition: Condition) -> float | None:
        """A fair share of the speed that our best setting has when nothing else runs."""
        n = self.run["processors"]
        share, best = condition.fair(n), self.best("nothing", self.of_engine("fastlm"))
        return best[1] * share / n if share and best else None

    def fair_time(self, condition: Condition, name: str) -> float | None:
        """The processor time that a setting has used, by what a fair share of the processors is."""
        share, rate = condition.fair(self.run["processors"]), self.rate(condition, name)
        seconds = self.all(condition, name, "processor")
        return rate * statistics.median(seconds) / share if share and rate and seconds else None

    def oracle(self, condition: Condition) -> float | None:
        """Of who knows when the loop runs: half of the time our best setting beside it, half the best without it."""
        if condition.kind != "pulse":
            return None
        bests = [self.best(beside, self.of_engine("fastlm")) for beside in ("nothing", "loops:1")]
        rates = [best[1] for best in bests if best]
        return statistics.fmean(rates) if len(rates) == 2 else None

    def peers(self) -> list[str]:
        return list(dict.fromkeys(s["engine"] for s in self.settings if s["engine"] != "fastlm"))


def section(run: Json) -> list[str]:
    found = Found(run)
    lines = [f"### {run['model']}, {run['format']}, {run['work']}", ""]
    turns = f"{run['rounds']} rounds of {run['seconds']:g} s"
    lines += [f"{run['processors']} processors, {turns}. Tokens per second, median (range):", ""]
    lines += _table(found, _speed)
    if ratios := _ratios(found):
        lines += ["Our default by others; of rounds: the range of the first column in single ones:", "", *ratios]
    if any(condition.kind == "processes" for condition in found.conditions):
        lines += ["The slowest process, by an equal share:", "", *_table(found, _least)]
    lines += ["Processor milliseconds per token:", "", *_table(found, _processor)]
    if latencies := _table(found, _latency):
        lines += ["Milliseconds between tokens, median / 99th percentile / most:", "", *latencies]
    head = ("", "version", "threads", "chosen settings")
    rows = [[s["name"], s["version"], str(s["threads"]), s["choice"]] for s in found.settings]
    lines += ["Who took part:", "", *markdown(head, rows)]
    lines += [f"- {what}: {why}" for what, why in sorted(run["missing"].items())]
    return [*lines, ""] if run["missing"] else lines


def _table(found: Found, cell: Callable[[Found, Condition, str], str]) -> list[str]:
    """A row for each condition that has something to say, a column for each setting."""
    rows = [[c.words, *(cell(found, c, name) for name in found.names)] for c in found.conditions]
    rows = [row for row in rows if any(row[1:])]
    return markdown(["beside", *found.names], rows) if rows else []


def _speed(found: Found, condition: Condition, name: str) -> str:
    rates = found.all(condition, name)
    return f"{number(statistics.median(rates))} ({number(min(rates))} - {number(max(rates))})" if rates else ""


def _least(found: Found, condition: Condition, name: str) -> str:
    shares = found.all(condition, name, "least") if condition.kind == "processes" else []
    return f"{statistics.median(shares):.2f}" if shares else ""


def _processor(found: Found, condition: Condition, name: str) -> str:
    seconds = found.all(condition, name, "processor")
    return f"{1e3 * statistics.median(seconds):.3g}" if seconds else ""


def _latency(found: Found, condition: Condition, name: str) -> str:
    gaps = found.all(condition, name, "gaps")
    if not gaps:
        return ""
    middle, late = (statistics.median(gap[key] for gap in gaps) for key in ("median", "99 %"))
    return " / ".join(f"{1e3 * seconds:.3g}" for seconds in (middle, late, max(gap["most"] for gap in gaps)))


def _ratios(found: Found) -> list[str]:
    """What the default reaches of the best fixed team, of a fair share, of who knows, and of each peer's best."""
    peers = found.peers()
    rows = []
    for condition in found.conditions:
        ours = found.rate(condition, DEFAULT)
        if ours is None:
            continue
        cells = [*_of_best_fixed(found, condition, ours)]
        fair, time, oracle = found.fair(condition), found.fair_time(condition, DEFAULT), found.oracle(condition)
        cells += [f"{ours / fair:.2f}" if fair else "", f"{time:.2f}" if time else ""]
        cells += [f"{ours / oracle:.2f}" if oracle else ""]
        for peer in peers:
            best = found.best(condition, found.of_engine(peer))
            cells.append(f"{ours / best[1]:.2f} ({best[0].removeprefix(peer).strip()})" if best else "")
        if any(cells):
            rows.append([condition.words, *cells])
    head = ["beside", "best fixed team", "of rounds", "fair share", "of its time", "oracle"]
    head += [f"best of {peer}" for peer in peers]
    return markdown(head, rows) if rows else []


def _of_best_fixed(found: Found, condition: Condition, ours: float) -> tuple[str, str]:
    best = found.best_fixed(condition)
    if not best:
        return "", ""
    rounds = zip(found.all(condition, DEFAULT), found.all(condition, best[0]), strict=False)
    each = [a / b for a, b in rounds]
    return f"{ours / best[1]:.2f} ({best[0]})", f"{min(each):.2f} - {max(each):.2f}"


def page(runs: Sequence[Json]) -> str:
    """All of it, between its own two marks."""
    return "\n".join([START, "", *(line for run in runs for line in section(run)), END])
