"""What a completion says of its cost, beside what the system says of the process."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time

import pytest

import fastlm
from fastlm.results import Timings

SLACK = 0.02  # seconds of processor time: workers that wait for the next step, the interpreter


class Set:
    def is_set(self) -> bool:
        return True


@pytest.fixture(scope="module", params=[1, 2])
def model(request: pytest.FixtureRequest) -> fastlm.Model:
    with fastlm.load(threads=request.param) as model:
        yield model


def write(model: fastlm.Model, seed: int, n: int = 300) -> Timings:
    prompt = [(7 * i + seed) % model.vocab for i in range(100)]
    return model.generate(prompt, max_tokens=n, temperature=0, ignore_eos=True).timings


def test_cost_of_one(model: fastlm.Model) -> None:
    """Nearly all that a process uses that does nothing but write, and no more."""
    write(model, 0)
    before = time.process_time()
    found = [write(model, seed) for seed in range(1, 6)]
    used = time.process_time() - before
    cost = sum(t.cpu_seconds for t in found)
    assert 0.5 * used < cost <= used + SLACK
    for t in found:
        assert 0 < t.prompt_cpu_seconds < t.cpu_seconds
        assert t.cpu_seconds <= (t.prompt_seconds + t.decode_seconds) * model.threads + SLACK


def test_cost_of_a_batch(model: fastlm.Model) -> None:
    """Each pays for its tokens, and all together for the steps."""
    prompts = [[(11 * i + n) % model.vocab for i in range(length)] for n, length in enumerate((10, 200, 200, 200))]
    before = time.process_time()
    found = [done.timings for done in model.batch(prompts, max_tokens=200, temperature=0, ignore_eos=True)]
    used = time.process_time() - before
    assert 0.5 * used < sum(t.cpu_seconds for t in found) <= used + SLACK
    assert 3 * found[0].prompt_cpu_seconds < min(t.prompt_cpu_seconds for t in found[1:])


def test_who_takes_part(model: fastlm.Model) -> None:
    found = write(model, 100).threads
    assert 1 <= found <= model.threads + 1e-9
    counters = model.engine.context.counters()
    assert 0 < counters["step_seconds"] <= counters["thread_seconds"]
    assert counters["thread_seconds"] <= model.threads * counters["step_seconds"] * (1 + 1e-9)
    assert model.threads == model.engine.context.threads and (model.threads > 1 or found == 1)


def test_without_a_step(model: fastlm.Model) -> None:
    done = model.generate("Once", cancel=Set())
    assert done.finish_reason == "cancelled"
    assert (done.timings.cpu_seconds, done.timings.threads) == (0.0, 0.0)


def test_many_callers(model: fastlm.Model) -> None:
    """Whoever leads the steps: threads of the interpreter hand each other the lead."""
    found: list[Timings] = []
    before = time.process_time()
    team = [threading.Thread(target=lambda n=n: found.append(write(model, 200 + n, 100))) for n in range(4)]
    for thread in team:
        thread.start()
    for thread in team:
        thread.join()
    used = time.process_time() - before
    assert len(found) == 4 and min(t.cpu_seconds for t in found) > 0
    assert sum(t.cpu_seconds for t in found) <= used + SLACK


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
def test_in_a_child_process() -> None:
    """Its workers are others, whose clocks begin at 0."""
    program = (
        "import os, time, fastlm\n"
        "model = fastlm.load(threads=2)\n"
        "write = lambda: model.generate([1, 2], max_tokens=300, temperature=0, ignore_eos=True).timings\n"
        "write()\n"
        "pid = os.fork()\n"
        "before = time.process_time()\n"
        "cost = write().cpu_seconds\n"
        f"assert 0 < cost <= time.process_time() - before + {SLACK}\n"
        "if pid: raise SystemExit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))\n"
        "os._exit(0)\n"
    )
    subprocess.run([sys.executable, "-W", "ignore", "-c", program], check=True, timeout=60, cwd=sys.prefix)
