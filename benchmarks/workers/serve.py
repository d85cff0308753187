"""The loop of a worker: one process that keeps one engine alive and answers requests, a JSON line each, over pipes.

Workers are started as scripts by the interpreter of the environment that has their engine, so they import nothing but
their engine, NumPy and their neighbours in this folder. Requests and answers:

    {"do": "prepare", "folder", "format", "cache", "threads"} -> {"path": ...}
    {"do": "load", "path", "format", "threads", "context", "settings"} -> {"seconds": ...}
    {"do": "about"}                                        -> {"version": ..., "details": ...}
    {"do": "adapt", "folder", "adapters": folders, "cache"} -> {"adapters": ...}   how many it can have in one step
    {"do": "decode", "depth", "tokens"}                    -> {"seconds": ..., "tokens": ...}   written tokens
    {"do": "prompt", "tokens"}                             -> {"seconds": ..., "tokens": ...}   read tokens
    {"do": "batch", "lengths", "tokens"}                   -> {"seconds": ..., "tokens": ...}   written, all sequences
    {"do": "translate", "sources", "source", "beams", "tokens"} -> the same as batch; of texts that each source gets
    {"do": "embed", "name"}                                -> {"seconds": ..., "tokens": ...}   texts, not tokens
    {"do": "gaps", "depth", "tokens"}                      -> the same as decode, and {"gaps": [seconds, ...]}
    {"do": "turn", "work": a request, "at", "seconds"}     -> {"runs": [...], "gaps": [...]}   see take_turn
    {"do": "memory"}                                       -> {"peak": bytes}

threads is 0 for as many as the engine takes by default. decode and batch also take "adapted": with what adapt loaded.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any


class NotAvailable(Exception):
    """This engine, in this version, cannot do what was asked; the table says so."""


def token_ids(n: int, seed: int = 0) -> list[int]:
    """n token ids, the same for every engine; another seed makes others, which no cache of prompts knows."""
    return [1] + [(7 * i + 3 + seed) % 500 for i in range(n - 1)]


def peak_memory() -> int:
    """Most bytes that this process has had in memory, mapped files included."""
    status = Path("/proc/self/status")
    if status.exists():
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def processor_seconds() -> float:
    """That this process has had of all processors, its threads and the processes that it waited for included."""
    usages = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def take_turn(engine: Any, work: dict[str, Any], at: float, seconds: float) -> dict[str, Any]:
    """A work over and over, from `at` on the monotonic clock, which all processes share; none starts `seconds` later.

    Of each run: start and end on that clock, the engine's own seconds, tokens, processor seconds.
    """
    method = method_of(engine, work.pop("do"))
    runs: list[tuple[float, ...]] = []
    gaps: list[float] = []
    time.sleep(max(0.0, at - time.monotonic()))
    while (start := time.monotonic()) < at + seconds or not runs:
        used = processor_seconds()
        answer = method(**work)
        used = processor_seconds() - used
        runs.append((start, time.monotonic(), answer["seconds"], answer["tokens"], used))
        gaps += answer.get("gaps", ())
    return {"runs": runs, "gaps": gaps}


def method_of(engine: Any, what: str) -> Callable[..., dict[str, Any]]:
    method: Callable[..., dict[str, Any]] | None = getattr(engine, what, None)
    if method is None:
        raise NotAvailable(f"no {what} with this engine")
    return method


def serve(engine: Any) -> None:
    """Answer requests by the engine's methods of the same names until the pipe closes."""
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # what a library prints must not stand between the answers
    for line in sys.stdin:
        request = json.loads(line)
        what = request.pop("do")
        try:
            if what == "memory":
                answer: dict[str, Any] = {"peak": peak_memory()}
            elif what == "turn":
                answer = take_turn(engine, **request)
            else:
                answer = method_of(engine, what)(**request)
        except NotAvailable as error:
            answer = {"unavailable": str(error)}
        except Exception as error:
            traceback.print_exc()
            answer = {"error": f"{type(error).__name__}: {error}"}
        answers.write(json.dumps(answer) + "\n")
