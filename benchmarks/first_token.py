"""Time from the start of a process to its first token, from a mapped .flm file that the page cache holds."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .entrants import ENGINES, WORKERS
from .protocol import say

Json = dict[str, Any]


def measure(model: str, folder: Path, bits: int, cache: Path, threads: int, runs: int) -> Json:
    """Seconds since the start at which each step was done, of every run but the first."""
    (format,) = ENGINES["fastlm"].formats[bits]
    file = cache / f"{format}.flm"
    say(f"{model}: {file}")  # made anew: another version's may have another layout
    command = [sys.executable, "-m", "fastlm", "convert", "--dtype", format, str(folder.resolve()), str(file)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, cwd=cache)  # not where fastlm is not built
    found: dict[str, list[float]] = {}
    for run in range(runs + 1):
        command = [sys.executable, str(WORKERS / "first_token.py"), str(file), str(threads)]
        start = time.monotonic()
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        for step, at in json.loads(done.stdout).items() if run else ():
            found.setdefault(step, []).append(round(at - start, 4))
    return {"model": model, "format": format, "threads": threads, "bytes": file.stat().st_size, "steps": found}


def merge(old: Sequence[Json], new: Json) -> list[Json]:
    """The new measurement takes the place of the older one of its model and format."""
    key = ("model", "format", "threads")
    return [*(run for run in old if [run[k] for k in key] != [new[k] for k in key]), new]
