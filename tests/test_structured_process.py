"""The thread that makes masks: gone when nobody needs it, after a fork, and at the end of the interpreter."""

from __future__ import annotations

import gc
import subprocess
import sys
import threading
import time
import weakref
from pathlib import Path

import pytest
from grammar_models import save_bytes_model

import fastlm
from fastlm.structured import masking

pytest.importorskip("llguidance")


def test_nothing_stays_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither threads nor descriptors nor the context; also of texts that nobody reads to the end."""
    monkeypatch.setattr(masking, "LINGER_SECONDS", 0.05)
    gc.collect()
    before, open_files = threading.active_count(), len(list(Path("/proc/self/fd").iterdir()))
    model = fastlm.load(save_bytes_model(tmp_path), threads=1)
    for _ in range(3):
        model.generate("Once", regex="[a-z]{3}")
    next(model.stream("Once", regex="[a-z]{30}"))
    context = weakref.ref(model.engine.context)
    model.close()
    del model
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline and (context() is not None or threading.active_count() > before):
        gc.collect()
        time.sleep(0.02)
    assert context() is None and threading.active_count() <= before
    assert len(list(Path("/proc/self/fd").iterdir())) <= open_files


PROGRAM = """
import asyncio, os, sys, threading, time, fastlm
model = fastlm.load(sys.argv[1], threads=1)
text = model.generate("Once", regex="[a-z]{5}", seed=1).text
async def ask():
    return (await model.agenerate("Once", regex="[a-z]{5}", seed=1)).text
assert asyncio.run(ask()) == text
held = model.engine.grammars._lock  # as where another thread makes tables meanwhile
held.acquire()
child = os.fork()
if child == 0:
    assert asyncio.run(ask()) == text
    sys.exit(0)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
held.release()
if os.fork() == 0:  # the thread stays with the parent
    assert model.generate("Once", regex="[a-z]{5}", seed=1).text == text
    sys.exit(0)
assert os.waitstatus_to_exitcode(os.wait()[1]) == 0
def leave():  # texts that are still written when the interpreter ends
    model.batch(["Once"] * 20, regex="[a-z]{400,}", max_tokens=400)
before = model.engine.context.counters()["forwards"]
threading.Thread(target=leave, daemon=True).start()
while model.engine.context.counters()["forwards"] < before + 10:
    time.sleep(0.001)
print(text)
"""


def test_forks_and_the_end_of_the_interpreter(tmp_path: Path) -> None:
    folder = str(save_bytes_model(tmp_path))
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, folder], capture_output=True, text=True, timeout=60, cwd=sys.prefix
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert len(done.stdout.strip()) == 5
