"""What was measured, as JSON: a list of runs; a newer measurement of a model's work takes the place of an older one."""

from __future__ import annotations

import json
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .protocol import Plan, Result
from .works import Cost, Work

Json = dict[str, Any]


def record(name: str, cost: Cost, plan: Plan, results: Sequence[Result], peaks: dict[str, float], when: str) -> Json:
    """One run: every entrant with its rates (tokens per second of each round) and its shares of the bounds."""
    return {
        "model": name,
        "about": cost.words,
        "when": when,
        "threads": plan.threads,
        "real_time": plan.real_time,
        "rounds": plan.runs,
        "works": [work.name for work in plan.works],
        "peaks": {peak: float(f"{rate:.3e}") for peak, rate in peaks.items()},
        "entrants": [_entrant(result, plan.works, cost, peaks) for result in results],
    }


def _entrant(result: Result, works: Sequence[Work], cost: Cost, peaks: dict[str, float]) -> Json:
    entrant = result.entrant
    measured = [work for work in works if work.name in result.rates]
    return {
        "name": entrant.name,
        "engine": entrant.engine.name,
        "bits": entrant.bits,
        "choice": entrant.choice,
        **result.about,
        "load_seconds": result.load_seconds,
        "peak_bytes": result.peak_bytes,
        "rates": {work.name: [float(f"{rate:.4g}") for rate in result.rates[work.name]] for work in measured},
        "reads": {name: [float(f"{rate:.4g}") for rate in rates] for name, rates in result.reads.items()},
        "shares": {work.name: shares(result, work, cost, peaks) for work in measured},
        "missing": result.missing,
    }


def shares(result: Result, work: Work, cost: Cost, peaks: dict[str, float]) -> dict[str, float]:
    """Of each bound that counts for this work: the part of it that fastlm reaches."""
    if result.entrant.engine.name != "fastlm":
        return {}
    rate = statistics.median(result.rates[work.name])
    found = {}
    if work.kind != "prompt":  # round by round: the machine may not have read equally fast in all
        step = result.step_bytes(work) / (work.size if work.kind == "batch" else 1)
        rounds = zip(result.rates[work.name], result.reads[work.name], strict=True)
        found["read"] = statistics.median(step * rate / read for rate, read in rounds)
    if work.kind != "decode":
        kind = {32: "float32", 16: "bfloat16"}.get(result.entrant.bits, "int8")
        for peak in (kind, f"amx_{kind}"):
            if peaks.get(peak):
                found[peak] = rate * cost.operations(work) / peaks[peak]
    return {name: round(share, 4) for name, share in found.items()}


def merge(runs: Sequence[Json], new: Json) -> list[Json]:
    """The runs without what the new one has measured again (a work of the same entrants), and the new one."""
    kept = []
    for old in runs:
        again = old["model"] == new["model"] and names(old) & names(new)
        works = [work for work in old["works"] if not (again and work in new["works"])]
        if works:
            kept.append({**old, "works": works})
    return sorted([*kept, new], key=lambda run: (run["model"], run["when"]))


def names(run: Json) -> set[str]:
    return {entrant["name"] for entrant in run["entrants"]}


def read(path: Path) -> Json:
    """A results file, or an empty one."""
    found: Json = json.loads(path.read_text()) if path.exists() else {"runs": [], "first_token": []}
    return found


def write(path: Path, results: Json) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(results, indent=1) + "\n")
