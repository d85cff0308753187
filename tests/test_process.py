"""A process that used a model may fork, and may end at any moment without a word."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from models import Shape, save_llama

import fastlm

FORKS = 50
WATCHDOG = 30.0  # seconds
EQUAL, REFUSED, WRONG = 0, 3, 4  # how a child ends
WIDE = Shape(hidden=256, layers=4, heads=8, kv_heads=4, width=700, vocab=1000, context=1024)

needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
quiet = pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")


@pytest.fixture(scope="module")
def wide_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_llama(tmp_path_factory.mktemp("wide"), WIDE)


@pytest.fixture(params=[("stories", 1), ("stories", 2), ("wide_folder", 2)], ids=["1", "2", "wide-2"])
def place(request: pytest.FixtureRequest) -> tuple[Path, int]:
    """A model's folder and a number of threads."""
    name, threads = request.param
    return request.getfixturevalue(name), threads


def write(model: fastlm.Model, n: int = 20) -> list[int]:
    return model.generate([1, 5, 9], max_tokens=n, ignore_eos=True).token_ids


def fork(child: Callable[[], bool]) -> int:
    """How a child process ended that ran `child`: EQUAL if it returned True; killed if it hangs."""
    pid = os.fork()
    if pid == 0:
        code = WRONG
        try:
            code = EQUAL if child() else WRONG
        except fastlm.StateError as refusal:
            code = REFUSED if "forked" in str(refusal) else WRONG
        finally:
            os._exit(code)
    deadline = time.monotonic() + WATCHDOG
    while time.monotonic() < deadline:
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.001)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    pytest.fail(f"the child hangs for {WATCHDOG:.0f} s")


@needs_fork
@quiet
def test_fork_after_use(place: tuple[Path, int]) -> None:
    folder, threads = place
    with fastlm.load(folder, threads=threads) as model:
        expected, session = write(model), model.session()
        first = session.generate([1, 2], max_tokens=9, ignore_eos=True).token_ids
        with session.fork() as twin:
            second = twin.generate([3], max_tokens=9, ignore_eos=True).token_ids
        assert len(first) == len(second) == 9

        def child() -> bool:
            continued = session.generate([3], max_tokens=9, ignore_eos=True).token_ids == second
            streamed = [t for c in model.stream([1, 5, 9], max_tokens=20, ignore_eos=True) for t in c.token_ids]
            return continued and write(model) == expected == streamed

        def loading_child() -> bool:
            same = child()
            model.close()
            with fastlm.load(folder, threads=threads) as again:
                return same and write(again) == expected

        assert [fork(child) for _ in range(FORKS)] == [EQUAL] * FORKS
        assert [fork(loading_child) for _ in range(3)] == [EQUAL] * 3
        assert write(model) == expected
        assert session.generate([3], max_tokens=9, ignore_eos=True).token_ids == second


@needs_fork
@quiet
def test_fork_in_a_half_read_stream(place: tuple[Path, int]) -> None:
    folder, threads = place
    with fastlm.load(folder, threads=threads) as model:
        expected = write(model, 60)
        stream = model.stream([1, 5, 9], max_tokens=60, ignore_eos=True)
        tokens = [t for _ in range(5) for t in next(stream).token_ids]

        def child() -> bool:
            return tokens + [t for c in stream for t in c.token_ids] == expected

        assert [fork(child) for _ in range(10)] == [EQUAL] * 10
        assert tokens + [t for c in stream for t in c.token_ids] == expected


@needs_fork
@quiet
def test_grandchildren_generate(place: tuple[Path, int]) -> None:
    folder, threads = place
    with fastlm.load(folder, threads=threads) as model:
        expected = write(model)

        def child() -> bool:
            return write(model) == expected and fork(lambda: write(model) == expected) == EQUAL

        assert [fork(child) for _ in range(5)] == [EQUAL] * 5


@needs_fork
@quiet
def test_fork_while_another_thread_generates(place: tuple[Path, int]) -> None:
    """The child works, or is told that it cannot use this model and can load it again; the parent does not notice."""
    folder, threads = place
    with fastlm.load(folder, threads=threads) as model:
        expected, long = write(model), write(model, 300)
        stop, found = threading.Event(), []

        def keep_writing() -> None:
            while not stop.is_set():
                found.append(write(model, 300) == long)

        def child() -> bool:
            return write(model) == expected

        def loading_child() -> bool:
            model.close()
            with fastlm.load(folder, threads=threads) as again:
                return write(again) == expected

        writer = threading.Thread(target=keep_writing)
        writer.start()
        try:
            ends = []
            for i in range(FORKS):
                time.sleep(0.0007 * i % 0.01)
                ends.append(fork(child))
            assert [fork(loading_child) for _ in range(5)] == [EQUAL] * 5
        finally:
            stop.set()
            writer.join()
        print(f"{ends.count(EQUAL)} children worked, {ends.count(REFUSED)} were refused")
        assert set(ends) <= {EQUAL, REFUSED} and REFUSED in ends
        assert found and all(found)
        assert write(model) == expected


# ---- the end of the interpreter ------------------------------------------------------------------

START = """
import contextlib, sys, threading, time
import fastlm
model = fastlm.load(sys.argv[1], threads=int(sys.argv[2]))
def write(n=400, **params):
    return model.generate([1, 5, 9], max_tokens=n, ignore_eos=True, **params).token_ids
def stream(n=400):
    return model.stream([1, 5, 9], max_tokens=n, ignore_eos=True)
def unless_closed():
    with contextlib.suppress(fastlm.StateError):
        write()
def in_thread(work, daemon=True):
    started = threading.Event()
    def run():
        started.set()
        work()
    thread = threading.Thread(target=run, daemon=daemon)
    thread.start()
    started.wait()
def forever(work):
    def run():
        while True:
            work()
    return run
"""

ENDS = {
    "model not closed": "write(10)",
    "model closed twice": "write(10); model.close(); model.close()",
    "stream half read": "half = stream(); next(half)",
    "stream never read": "half = stream()",
    "stream half read, model closed": "half = stream(); next(half); model.close()",
    "stream in a cycle": "half = [stream()]; half.append(half); next(half[0]); del half",
    "sessions open": "one = model.session(); one.generate([1], max_tokens=9); two = one.fork(); kept = [one, two]",
    "sys.exit in a stream": "for chunk in stream(): sys.exit(0)",
    "exit handler generates": "import atexit; atexit.register(write, 10)",
    "model in a module": "write(10); sys.kept = model; del model",
    "daemon generates": "in_thread(forever(write))",
    "daemon streams": "in_thread(forever(lambda: list(stream())))",
    "daemon with cancel": "in_thread(forever(lambda: write(cancel=threading.Event())))",
    "daemon reads": "in_thread(forever(lambda: model.forward(list(range(1, 200)))))",
    "daemon loads": "in_thread(forever(lambda: fastlm.load(sys.argv[1], threads=2)))",
    "daemons generate": "[in_thread(forever(write)) for _ in range(4)]",
    "daemons, model closed": "[in_thread(unless_closed) for _ in range(4)]; model.close()",
    "daemon, name deleted": "in_thread(lambda work=write: work()); del write",
    "thread is waited for": "in_thread(write, daemon=False)",
    "thread is cancelled": "stop = threading.Event(); in_thread(lambda: write(cancel=stop), False); stop.set()",
}


def run(program: str, folder: Path) -> tuple[int, str]:
    """Exit code and stderr; outside of the repository, whose package is not built in place."""
    command = [sys.executable, "-W", "ignore::DeprecationWarning", "-c", program, str(folder), "2"]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=WATCHDOG, cwd=folder, check=False)
    return ended.returncode, ended.stderr


@pytest.mark.parametrize("end", ENDS)
def test_the_end_is_quiet(wide_folder: Path, end: str) -> None:
    """Ended at several moments of what a thread may be doing: exit code 0, and nothing on stderr."""
    delays = (0.0, 0.003, 0.02) if end.startswith("daemon") else (0.0,)
    for delay in delays:
        program = START + textwrap.dedent(ENDS[end]) + f"\ntime.sleep({delay})\n"
        assert run(program, wide_folder) == (0, ""), f"after {delay} s"


@needs_fork
def test_a_child_ends_quietly(wide_folder: Path) -> None:
    """A forked child that runs into the interpreter's own end, model in hand."""
    program = START + textwrap.dedent(
        """
        import os
        expected = write(20)
        half = stream(); next(half)
        pid = os.fork()
        assert write(20) == expected
        if pid:
            assert os.waitpid(pid, 0)[1] == 0
        """
    )
    assert run(program, wide_folder) == (0, "")
