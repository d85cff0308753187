"""Python code that runs inside a call of the core: a cancel flag, a signal handler, the garbage collector.

It runs on the thread that waits, which may be in the midst of a step that it runs for others. Before, destroying a
request of that step waited for the step's end, which only this thread could bring about: the model froze, whatever
other threads did.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = """
import faulthandler, gc, os, signal, sys, threading
import fastlm

faulthandler.dump_traceback_later(100, exit=True)
model = fastlm.load(threads=1)
LONG = list(range(3, 253))  # steps of many milliseconds with scalar kernels, so that polls come in their midst
alone = model.generate(LONG, max_tokens=5, ignore_eos=True, temperature=0).token_ids


class Flag:
    '''A cancel flag that does something when it is asked for the third time, in the midst of the prompt's step.'''

    def __init__(self, act):
        self.asked, self.act = 0, act

    def is_set(self):
        self.asked += 1
        if self.asked == 3:
            self.act()
        return False


def other_stream():
    stream = model.stream([5, 6, 7], max_tokens=400, ignore_eos=True)
    next(stream)
    return stream


def check(act):
    '''The call that is asked goes on undisturbed, and so do later ones.'''
    flag = Flag(act)
    assert model.generate(LONG, max_tokens=5, ignore_eos=True, temperature=0, cancel=flag).token_ids == alone
    assert flag.asked >= 3
    assert model.generate(LONG, max_tokens=5, ignore_eos=True, temperature=0).token_ids == alone


def close():
    stream = other_stream()
    check(stream.close)


def collect():
    class Node:
        pass

    node = Node()
    node.itself, node.stream = node, other_stream()
    del node
    check(gc.collect)


def session():
    with model.session() as session:
        stream = session.stream([5, 6, 7], max_tokens=400, ignore_eos=True)
        next(stream)
        check(session.close)


def look():
    check(lambda: (model.memory(), model.session().tokens, repr(model)))


def handler():
    stream = other_stream()
    signal.signal(signal.SIGUSR1, lambda *_: stream.close())
    check(lambda: os.kill(os.getpid(), signal.SIGUSR1))
    try:
        next(stream)
    except StopIteration:
        pass
    else:
        raise AssertionError("the handler did not run")


def generate():
    '''A call that would wait for the step of its own thread says so, and ends the call that asked.'''
    flag = Flag(lambda: model.generate([9], max_tokens=1))
    try:
        model.generate(LONG, max_tokens=5, ignore_eos=True, temperature=0, cancel=flag)
    except fastlm.StateError as error:
        assert "poll" in str(error), error
    else:
        raise AssertionError("a step inside a step")
    assert model.generate(LONG, max_tokens=5, ignore_eos=True, temperature=0).token_ids == alone


def threads():
    '''Threads generate with flags that allocate, others abandon streams in reference cycles.'''
    class Node:
        pass

    ends = threading.Event()
    gc.set_threshold(50, 2, 2)
    failures = []

    def abandon():
        while not ends.is_set():
            node = Node()
            node.itself, node.stream = node, other_stream()

    def work():
        for _ in range(12):
            seen = []
            flag = Flag(lambda: seen.append([object()]))
            if model.generate(LONG, max_tokens=5, ignore_eos=True, temperature=0, cancel=flag).token_ids != alone:
                failures.append(flag.asked)

    abandoning = threading.Thread(target=abandon)
    abandoning.start()
    workers = [threading.Thread(target=work) for _ in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    ends.set()
    abandoning.join()
    assert not failures


globals()[sys.argv[1]]()
print("well")
"""


@pytest.mark.parametrize("case", ["close", "collect", "session", "look", "handler", "generate", "threads"])
def test_a_poll_may_call_the_model(case: str, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, case],
        env={**os.environ, "FASTLM_ISA": "scalar"},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=150,
        check=False,
    )
    assert done.returncode == 0 and done.stdout.strip() == "well", done.stderr[-4000:]
