"""SIGINT, `cancel` and closing a stream stop a model of 1.1 billion float32 parameters in mid-step.

What is counted is not seconds but the steps that end after the call was stopped: one of decoding reads 4.4 GB, and one
of a prompt takes seconds.
"""

from __future__ import annotations

import os
import signal
import statistics
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from models import TINY_LLAMA_1B, save_sparse_llama

import fastlm
from fastlm import _core
from fastlm.arch import registry
from fastlm.arch.spec import encode
from fastlm.engine import Engine
from fastlm.tokenizer.prompts import Prompts
from fastlm.weights.folder import CheckpointFolder

TRIALS = 7
NEEDED_GB = 10
SHORT = [1, 2, 3]

pytestmark = [pytest.mark.slow, pytest.mark.skipif(os.name != "posix", reason="sends SIGINT to itself")]


def available_gb() -> float:
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return 0.0
    return sum(float(line.split()[1]) for line in lines if line.startswith("MemAvailable")) / 1e6


def build_model() -> fastlm.Model:
    """Weights are windows of one random buffer, each at a place of its own, so that building takes seconds."""
    config = TINY_LLAMA_1B.config()
    spec = registry.read(config, Path("config.json")).spec
    context = _core.Context(2)
    core = _core.Model.create(context, encode(spec), format="float32")
    block, slack = 1 << 22, 1 << 16
    values = np.random.default_rng(0).standard_normal(block + slack, dtype=np.float32)
    values *= np.float32(TINY_LLAMA_1B.hidden**-0.5)
    windows = iter(range(0, 1 << 40, 4099))
    for index, tensor in enumerate(core.tensors()):
        step = block // tensor.cols // 16 * 16
        for at in range(0, tensor.rows, step):
            rows = min(step, tensor.rows - at)
            if tensor.is_matrix:
                start = next(windows) % slack
                part = values[start : start + rows * tensor.cols].reshape(rows, tensor.cols)
            else:
                part = np.ones((rows, tensor.cols), np.float32)
            core.load_rows(index, at, part)
    core.finish()
    return fastlm.Model(
        Engine(
            core=core,
            context=context,
            info=core.info(),
            spec=spec,
            source=CheckpointFolder(Path("nowhere")),
            config=config,
            defaults={},
            prompts=Prompts(None, TINY_LLAMA_1B.vocab),
            templates=None,
        )
    )


@pytest.fixture(scope="module")
def model() -> Iterator[fastlm.Model]:
    if available_gb() < NEEDED_GB:
        pytest.skip(f"less than {NEEDED_GB} GB of memory are available")
    with build_model() as built:
        yield built


@pytest.fixture(scope="module")
def expected(model: fastlm.Model) -> list[int]:
    tokens = model.generate(SHORT, max_tokens=6, ignore_eos=True).token_ids
    assert len(set(tokens)) > 2
    return tokens


@pytest.fixture(autouse=True)
def default_sigint() -> Iterator[None]:
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def prompts(seed: int) -> list[list[int]]:
    """A prompt of some 20 s per trial; they share no beginning, which would be found in the prefix cache."""
    return np.random.default_rng(seed).integers(0, TINY_LLAMA_1B.vocab, (TRIALS, 1000)).tolist()


def delays(longest: float) -> list[float]:
    return np.random.default_rng(1).uniform(0.1, longest, TRIALS).tolist()


def interrupt() -> None:
    os.kill(os.getpid(), signal.SIGINT)


def forwards(model: fastlm.Model) -> int:
    """Steps that have ended; an abandoned one does not."""
    return int(model.engine.context.counters()["forwards"])


def later_steps(model: fastlm.Model, work: Callable[[], object], stop: Callable[[], None], after: float) -> int:
    """How many steps end once `stop` was called, from another thread, that many seconds after the start of `work`."""
    before: list[int] = []

    def wait_and_stop() -> None:
        time.sleep(after)
        before.append(forwards(model))
        stop()

    stopper = threading.Thread(target=wait_and_stop)
    stopper.start()
    try:
        work()
        assert before, "the call ended before it was stopped"
        return forwards(model) - before[0]
    finally:
        stopper.join()


def interrupted(work: Callable[[], object]) -> Callable[[], None]:
    def run() -> None:
        with pytest.raises(KeyboardInterrupt):
            work()

    return run


def check(what: str, steps: list[int], *, most: int = 0) -> None:
    """The median counts: a step may end just when the call is stopped, and decoding has several a second."""
    print(f"{what}: steps that ended after the stop: {sorted(steps)}")
    assert statistics.median(steps) <= most


def check_usable(model: fastlm.Model, expected: list[int]) -> None:
    assert model.generate(SHORT, max_tokens=len(expected), ignore_eos=True).token_ids == expected


def stream_to_end(stream: Iterator[fastlm.Chunk]) -> str | None:
    finish = None
    for chunk in stream:
        finish = chunk.finish_reason
    return finish


def test_sigint(model: fastlm.Model, expected: list[int]) -> None:
    def read(prompt: list[int]) -> Callable[[], object]:
        return interrupted(lambda: model.generate(prompt, max_tokens=5))

    trials = zip(prompts(2), delays(0.6), strict=True)
    check("prompt, SIGINT", [later_steps(model, read(prompt), interrupt, delay) for prompt, delay in trials])
    found = []
    for delay in delays(0.6):
        stream = model.stream(SHORT, max_tokens=500, ignore_eos=True)
        next(stream)
        work = interrupted(lambda stream=stream: stream_to_end(stream))
        found.append(later_steps(model, work, interrupt, delay))
    check("decoding, SIGINT", found, most=1)
    check_usable(model, expected)


def test_cancel(model: fastlm.Model, expected: list[int]) -> None:
    reading, decoding = [], []
    for delay, prompt in zip(delays(0.6), prompts(3), strict=True):
        event = threading.Event()

        def read(prompt: list[int] = prompt, event: threading.Event = event) -> None:
            completion = model.generate(prompt, max_tokens=5, cancel=event)
            assert completion.finish_reason == "cancelled" and completion.token_ids == []

        reading.append(later_steps(model, read, event.set, delay))
        event = threading.Event()
        stream = model.stream(SHORT, max_tokens=500, ignore_eos=True, cancel=event)
        next(stream)

        def decode(stream: Iterator[fastlm.Chunk] = stream) -> None:
            assert stream_to_end(stream) == "cancelled"

        decoding.append(later_steps(model, decode, event.set, delay))
    check("prompt, cancel", reading)
    check("decoding, cancel", decoding, most=1)
    check_usable(model, expected)


def test_closing_a_stream(model: fastlm.Model, expected: list[int]) -> None:
    """In the middle of steps that another thread runs for this stream and for a neighbour, who does not notice."""
    event, neighbours = threading.Event(), []

    def write() -> None:
        neighbours.append(model.generate(SHORT, max_tokens=500, ignore_eos=True, cancel=event))

    neighbour = threading.Thread(target=write)
    neighbour.start()

    def steps_while_closing(prompt: list[int], delay: float, read: int) -> int:
        stream = model.stream(prompt, max_tokens=500, ignore_eos=True)
        for _ in range(read):
            next(stream)
        time.sleep(delay)
        before = forwards(model)
        stream.close()
        return forwards(model) - before

    try:
        reading = [steps_while_closing(prompt, d, 0) for d, prompt in zip(delays(0.6), prompts(4), strict=True)]
        decoding = [steps_while_closing([5, 6], d, 1) for d in delays(0.6)]
    finally:
        event.set()
        neighbour.join()
    (completion,) = neighbours
    assert completion.finish_reason == "cancelled", "it wrote all the time"
    assert completion.token_ids[: len(expected)] == expected
    check("prompt, closing", reading)
    check("decoding, closing", decoding, most=1)
    check_usable(model, expected)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if available_gb() < NEEDED_GB:
        pytest.skip(f"less than {NEEDED_GB} GB of memory are available")
    return save_sparse_llama(tmp_path_factory.mktemp("billion"), TINY_LLAMA_1B)


def test_sigint_while_loading(folder: Path) -> None:
    """Loading ends with the piece that it is at."""
    pieces: list[int] = []

    def progress(done: int, total: int, name: str) -> None:
        pieces.append(done)
        if len(pieces) == 5:
            interrupt()

    with pytest.raises(KeyboardInterrupt):
        fastlm.load(folder, threads=2, progress=progress)
    assert len(pieces) <= 6


def test_progress_may_end_loading(folder: Path) -> None:
    """load() has no `cancel`: what an embedder has is `progress`, which comes often and may raise."""
    pieces: list[int] = [0]

    def progress(done: int, total: int, name: str) -> None:
        pieces.append(done)
        if done > total // 4:
            raise InterruptedError

    with pytest.raises(InterruptedError):
        fastlm.load(folder, threads=2, progress=progress)
    assert max(np.diff(pieces)) <= 16 << 20


def test_stopping_while_another_thread_runs_a_long_step(model: fastlm.Model, expected: list[int]) -> None:
    """What is in no step yet need not wait for the one that a neighbour runs, which goes on."""
    event, neighbours = threading.Event(), []
    long = [token for prompt in prompts(5)[:2] for token in prompt]  # some 40 s

    def read() -> None:
        neighbours.append(model.generate(long, max_tokens=1, cancel=event))

    neighbour = threading.Thread(target=read)
    neighbour.start()
    waited: dict[str, list[int]] = {"cancel": [], "SIGINT": [], "forward, SIGINT": []}
    try:
        for delay, prompt in zip(delays(0.3), prompts(6), strict=True):
            stop = threading.Event()

            def write(prompt: list[int] = prompt, stop: threading.Event = stop) -> None:
                assert model.generate(prompt, max_tokens=5, cancel=stop).finish_reason == "cancelled"

            waited["cancel"].append(later_steps(model, write, stop.set, delay))
            for name, call in (("SIGINT", model.generate), ("forward, SIGINT", model.forward)):
                work = interrupted(lambda call=call, prompt=prompt: call(prompt[:300]))
                waited[name].append(later_steps(model, work, interrupt, delay))
        assert neighbour.is_alive()
    finally:
        event.set()
        neighbour.join()
    assert [n.finish_reason for n in neighbours] == ["cancelled"], "it read all the time"
    for name, steps in waited.items():
        check(f"waiting, {name}", steps)
    check_usable(model, expected)
