"""What else a machine does while we are measured, or how little of it is ours; and what a fair share of it would be."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from . import quota
from .entrants import WORKERS
from .worker import Unavailable

CORE = Path(__file__).parents[1] / "csrc"
SETTLE_SECONDS = 0.3  # from the start of a load on: until the scheduler has spread it
KINDS = {
    "nothing": "nothing",
    "loops": "{} busy loop{s}",
    "nice": "{} busy loop{s} at nice 19",
    "compile": "a compile of {} job{s}",
    "pulse": "a loop, {} ms on, {} ms off",
    "processes": "{} processes in all",
    "quota": "a quota of {} processor{s}",
    "processors": "{} processor{s} by affinity",
}
USUAL: tuple[str, ...] = ("nothing", "loops:1", "loops:2", "loops:4", "nice:2", "compile:2", "pulse:100")
USUAL += ("processes:2", "processes:4", "processes:8", "quota:0.5", "quota:1", "quota:1.5", "quota:2", "processors:1")


@dataclass(frozen=True, slots=True)
class Condition:
    """kind: of KINDS; amount: of loops, jobs, milliseconds, processes or processors."""

    kind: str
    amount: float = 0

    @classmethod
    def parse(cls, text: str) -> Condition:
        """As on the command line: nothing, loops:2, quota:0.5."""
        kind, _, amount = text.partition(":")
        digits = amount.replace(".", "", 1) if kind == "quota" else amount
        if text == "nothing" or (kind in KINDS and kind != "nothing" and digits.isdecimal() and float(amount) > 0):
            return cls(kind, float(amount or 0))
        raise ValueError(f"{text}: a condition is nothing or KIND:AMOUNT, KIND one of {', '.join(list(KINDS)[1:])}")

    def __str__(self) -> str:
        return f"{self.kind}:{self.amount:g}" if self.amount else self.kind

    @property
    def words(self) -> str:
        amount = f"{self.amount:g}"
        return KINDS[self.kind].format(amount, amount, s="" if self.amount == 1 else "s")

    @property
    def together(self) -> int:
        """Processes of ours that run at once."""
        return int(self.amount) if self.kind == "processes" else 1

    @property
    def is_fresh(self) -> bool:
        """Whether it takes processes that are started in it: what they find there decides on their threads."""
        return self.kind in ("processes", "quota", "processors")

    def fair(self, processors: int) -> float | None:
        """Processors that are ours where all threads that could run get the same time, and none more than one has.

        We have as many threads as there are processors. Beside k loops each of the n + k threads gets n / (n + k) of a
        processor, ours together n times that. All our processes together have the whole machine. None: it does not say.
        """
        if self.kind in ("nothing", "loops"):
            return processors * processors / (processors + self.amount)
        if self.kind in ("quota", "processors"):
            return min(self.amount, processors)
        return float(processors) if self.kind == "processes" else None


class Load:
    """The processes that a condition sets beside us. None outlives the `with`, nor this process, however it ends."""

    def __init__(self, condition: Condition) -> None:
        self.condition = condition
        self.processes: list[subprocess.Popen[str]] = []
        self._stack = ExitStack()

    def __enter__(self) -> Load:
        with ExitStack() as stack:
            self._stack = stack
            for words in self._commands():
                self._start(words)
            for process in self.processes:
                assert process.stdout
                process.stdout.readline()
            self.check()
            time.sleep(SETTLE_SECONDS if self.processes else 0)
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def check(self) -> None:
        """RuntimeError: something of it has ended, so what was measured was not beside it."""
        if any(process.poll() is not None for process in self.processes):
            raise RuntimeError(f"{self.condition}: the load ended")

    def _commands(self) -> Iterator[list[str]]:
        kind, amount = self.condition.kind, int(self.condition.amount)
        if kind in ("loops", "nice"):
            yield from [["loop", "19" if kind == "nice" else "0"]] * amount
        elif kind == "pulse":
            yield ["pulse", str(self.condition.amount / 1e3)]
        elif kind == "compile":
            if shutil.which("cc") is None:
                raise Unavailable("no C compiler")
            scratch = tempfile.TemporaryDirectory(prefix="fastlm-busy-", ignore_cleanup_errors=True)
            sources = sorted(str(path) for path in CORE.rglob("*.c") if "kernels" not in path.parts)
            yield ["compile", str(amount), self._stack.enter_context(scratch), *sources]

    def _start(self, words: list[str]) -> None:
        command = [sys.executable, str(WORKERS / "load.py"), *words]
        pipe = subprocess.PIPE
        process = subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, process_group=0)
        self._stack.callback(_end, process)
        self.processes.append(process)


def _end(process: subprocess.Popen[str]) -> None:
    """The whole group, before its leader is waited for: until then its number is nobody else's."""
    with suppress(ProcessLookupError):  # it has ended, and `check` has seen that
        os.killpg(process.pid, signal.SIGKILL)
    process.communicate()


@contextmanager
def confined(condition: Condition) -> Iterator[tuple[str, ...]]:
    """What to put before a command that is to run as the condition says."""
    if condition.kind == "quota":
        with quota.group(condition.amount) as group:
            yield "sh", "-c", 'echo $$ >"$0/cgroup.procs" && exec "$@"', str(group)
    elif condition.kind == "processors":
        if shutil.which("taskset") is None:
            raise Unavailable("no taskset")
        usable = sorted(os.sched_getaffinity(0))[: int(condition.amount)]
        yield "taskset", "-c", ",".join(map(str, usable))
    else:
        yield ()
