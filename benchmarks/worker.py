"""Our end of a worker: a process that keeps one entrant alive and answers JSON lines (workers/serve.py)."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
from pathlib import Path
from types import TracebackType
from typing import Any

from .entrants import Entrant


class Unavailable(Exception):
    """The entrant cannot do this, for a reason that belongs in the table."""


class Worker:
    """Start the entrant's process; its messages go to a log file."""

    def __init__(self, entrant: Entrant, log: Path) -> None:
        self.entrant = entrant
        self.log = log
        environment = {**os.environ, "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
        with log.open("a") as messages:
            pipe = subprocess.PIPE
            self.process = subprocess.Popen(
                entrant.command, stdin=pipe, stdout=pipe, stderr=messages, text=True, bufsize=1, env=environment
            )

    def __enter__(self) -> Worker:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def ask(self, do: str, **arguments: Any) -> dict[str, Any]:
        """One request, one answer."""
        self.send(do, **arguments)
        return self.answer()

    def send(self, do: str, **arguments: Any) -> None:
        """A request whose answer is asked for later."""
        assert self.process.stdin
        with contextlib.suppress(BrokenPipeError):  # there will be no answer
            self.process.stdin.write(json.dumps({"do": do, **arguments}) + "\n")

    def answer(self) -> dict[str, Any]:
        """That of the oldest request without one."""
        assert self.process.stdout
        line = self.process.stdout.readline()
        if not line:
            raise Unavailable(f"its process ended ({self.process.wait()}; {self.log})")
        answer: dict[str, Any] = json.loads(line)
        reason = answer.get("unavailable") or answer.get("error")
        if reason:
            raise Unavailable(str(reason))
        return answer

    def close(self) -> None:
        """Let it end by itself: its pipe closes."""
        if self.process.stdin:
            with contextlib.suppress(BrokenPipeError):  # what was not sent is not missed
                self.process.stdin.close()
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        if self.process.stdout:
            self.process.stdout.close()
