"""Something else for a machine to do, in a process group of its own, all of which ends when its input closes.

usage: load.py loop NICENESS | load.py pulse SECONDS | load.py compile JOBS FOLDER FILE.c ...
"""

from __future__ import annotations

import itertools
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn


def end() -> NoReturn:
    """This process and all that it has started."""
    os.killpg(0, signal.SIGKILL)
    os._exit(1)


def end_with_input() -> NoReturn:
    """Whoever started this holds the other end, and when that process is gone, however it went, nobody does."""
    sys.stdin.buffer.read()
    end()


def loop(niceness: int) -> NoReturn:
    os.nice(niceness)
    while True:
        pass


def pulse(seconds: float) -> NoReturn:
    """Busy for so long, asleep for so long, by the clock."""
    at = time.monotonic()
    while True:
        at += seconds
        while time.monotonic() < at:
            pass
        at += seconds
        time.sleep(max(0.0, at - time.monotonic()))


def compile_files(sources: Iterator[str], folder: Path, job: int) -> NoReturn:
    """One after another, for ever, or until a compiler fails. folder: for what compilers write."""
    core = Path(__file__).parents[2] / "csrc"
    flags = ["-std=c11", "-O2", f"-I{core}", f"-I{core / 'include'}", "-c", "-o", str(folder / f"{job}.o")]
    environment, quiet = {**os.environ, "TMPDIR": str(folder)}, subprocess.DEVNULL
    while True:
        command = ["cc", *flags, next(sources)]
        done = subprocess.run(command, stdin=quiet, stdout=quiet, stderr=subprocess.PIPE, env=environment)
        if done.returncode:
            print(done.stderr.decode(errors="replace"), file=sys.stderr, flush=True)
            end()


def main() -> None:
    assert os.getpgrp() == os.getpid(), "start it in a session of its own: it ends its whole process group"
    threading.Thread(target=end_with_input, daemon=True).start()
    print("ready", flush=True)
    kind, amount, *rest = sys.argv[1:]
    if kind == "loop":
        loop(int(amount))
    if kind == "pulse":
        pulse(float(amount))
    folder, *sources = rest
    random.shuffle(sources)  # each time another part of them is compiled beside the first turn
    files = itertools.cycle(sources)
    for job in range(int(amount)):
        threading.Thread(target=compile_files, args=(files, Path(folder), job)).start()


if __name__ == "__main__":
    main()
