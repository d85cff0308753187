"""Several Python threads on one model, and how long any of them keeps the others from running."""

from __future__ import annotations

import ctypes
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from models import Shape, save_llama, save_sparse_llama

import fastlm

THREADS = 8
WIDE = Shape(hidden=256, layers=4, heads=8, kv_heads=4, width=700, vocab=1000, context=1024)
HEAVY = Shape(hidden=1024, layers=6, heads=16, kv_heads=8, width=4096, vocab=16000, context=1024)  # 0.5 GB
SHARE = 0.06  # of a call: less than one of the ten steps of a generation, or than the largest tensor of a model


@pytest.fixture(scope="module")
def wide_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_llama(tmp_path_factory.mktemp("wide"), WIDE)


@pytest.fixture(scope="module", params=["stories", "wide"])
def folder(request: pytest.FixtureRequest) -> Path:
    return request.getfixturevalue("wide_folder" if request.param == "wide" else "stories")


@pytest.fixture(scope="module")
def model(folder: Path) -> Iterator[fastlm.Model]:
    with fastlm.load(folder, threads=2) as loaded:
        yield loaded


def prompt(i: int) -> list[int]:
    return np.random.default_rng(i).integers(3, 500, 3 + 11 * i).tolist()


# Each job asks the model for something in its own way and returns what can be compared bit by bit.


def generate(model: fastlm.Model, i: int) -> object:
    done = model.generate(prompt(i), max_tokens=40, ignore_eos=True, logprobs=2)
    return done.text, done.token_ids, done.logprobs


def sample(model: fastlm.Model, i: int) -> object:
    done = model.generate(prompt(i), max_tokens=40, temperature=0.9, top_k=50, seed=i, n=2)
    return [(c.text, c.token_ids) for c in (done, *done.alternatives)]


def stream(model: fastlm.Model, i: int) -> object:
    chunks = list(model.stream(prompt(i), max_tokens=40, ignore_eos=True, repetition_penalty=1.2))
    return "".join(c.text for c in chunks), [t for c in chunks for t in c.token_ids], chunks[-1].finish_reason


def half_a_stream(model: fastlm.Model, i: int) -> object:
    chunks = model.stream(prompt(i), max_tokens=60, ignore_eos=True)
    tokens: list[int] = []
    while len(tokens) < 10:
        tokens += next(chunks).token_ids
    chunks.close()
    return tokens[:10]


def forward(model: fastlm.Model, i: int) -> object:
    out = model.forward(prompt(i), attentions=True)
    assert out.logits is not None and out.attentions is not None
    return out.logits.tobytes(), out.hidden.tobytes(), [a.tobytes() for a in out.attentions]


def converse(model: fastlm.Model, i: int) -> object:
    with model.session() as session:
        texts = [session.generate(prompt(i), max_tokens=10, ignore_eos=True).token_ids]
        with session.fork() as twin:
            texts.append(twin.generate([7, 8], max_tokens=10, ignore_eos=True).token_ids)
        session.rewind(5)
        texts.append(session.generate([9], max_tokens=10, ignore_eos=True).token_ids)
        return texts, session.tokens


def together(model: fastlm.Model, i: int) -> object:
    return [c.token_ids for c in model.batch([prompt(i), prompt(i + 1)], max_tokens=20, ignore_eos=True)]


def score(model: fastlm.Model, i: int) -> object:
    return model.loglikelihood(prompt(i)), model.next_tokens(prompt(i), 5)


JOBS = (generate, sample, stream, half_a_stream, forward, converse, together, score)


def run_threads(work: Callable[[int], None], n: int = THREADS) -> None:
    """Run work(0) ... work(n - 1) at once; what one of them raises is raised here."""
    failures: list[BaseException] = []
    barrier = threading.Barrier(n)

    def guarded(i: int) -> None:
        try:
            barrier.wait()
            work(i)
        except BaseException as failure:
            failures.append(failure)

    threads = [threading.Thread(target=guarded, args=(i,), daemon=True) for i in range(n)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
        assert not thread.is_alive(), "a call hangs"
    if failures:
        raise failures[0]


@pytest.mark.parametrize("job", JOBS)
def test_eight_threads_give_what_one_gives(model: fastlm.Model, job: Callable[[fastlm.Model, int], object]) -> None:
    expected = [job(model, i) for i in range(THREADS)]
    assert len({repr(e) for e in expected}) == THREADS, "the calls must differ"

    def work(i: int) -> None:
        for turn in range(3):
            assert job(model, (i + turn) % THREADS) == expected[(i + turn) % THREADS]

    run_threads(work)


def test_different_calls_at_once(model: fastlm.Model) -> None:
    expected = {(job, i): job(model, i) for job in JOBS for i in range(THREADS)}

    def work(i: int) -> None:
        for turn in np.random.default_rng(i).permutation(len(JOBS) * 2).tolist():
            job, which = JOBS[(turn + i) % len(JOBS)], turn % THREADS
            assert job(model, which) == expected[job, which], job.__name__

    run_threads(work)


def test_two_models_at_once(folder: Path, model: fastlm.Model) -> None:
    with fastlm.load(folder, threads=2) as other:
        expected = [generate(model, i) for i in range(THREADS)]

        def work(i: int) -> None:
            for turn in range(4):
                assert generate((model, other)[(i + turn) % 2], i) == expected[i]

        run_threads(work)


def test_one_session_serves_one_call_at_a_time(model: fastlm.Model) -> None:
    """The second call is refused with a text that says so, and harms neither the first nor the session."""
    expected = model.generate(prompt(2), max_tokens=100, ignore_eos=True).token_ids
    with model.session() as session:
        chunks = session.stream(prompt(2), max_tokens=100, ignore_eos=True)
        tokens = next(chunks).token_ids
        refused: list[str] = []

        def intrude(i: int) -> None:
            with pytest.raises(fastlm.StateError, match="in use") as failure:
                session.generate([5], max_tokens=3) if i % 2 else session.rewind(1)
            refused.append(str(failure.value))

        run_threads(intrude)
        tokens += [t for c in chunks for t in c.token_ids]
        assert tokens == expected and len(refused) == THREADS


def test_close_while_others_generate(folder: Path) -> None:
    """Calls that run end as if nothing had happened; later ones are refused."""
    model = fastlm.load(folder, threads=2)
    expected = [generate(model, i) for i in range(THREADS)]
    running, closed = threading.Semaphore(0), threading.Event()
    late: list[int] = []

    def work(i: int) -> None:
        while True:
            was_closed = closed.is_set()
            try:
                running.release()
                assert generate(model, i) == expected[i]
                assert not was_closed, "the model was closed before this call"
            except fastlm.StateError as refusal:
                assert "closed" in str(refusal)
                late.append(i)
                return

    def close() -> None:
        for _ in range(2 * THREADS):
            running.acquire()
        model.close()
        closed.set()

    closer = threading.Thread(target=close)
    closer.start()
    run_threads(work)
    closer.join()
    assert sorted(late) == list(range(THREADS))


def test_close_keeps_a_half_read_stream(folder: Path) -> None:
    model = fastlm.load(folder, threads=2)
    expected = model.generate(prompt(1), max_tokens=30, ignore_eos=True).token_ids
    chunks = model.stream(prompt(1), max_tokens=30, ignore_eos=True)
    tokens = next(chunks).token_ids
    model.close()
    try:
        tokens += [t for c in chunks for t in c.token_ids]
    except fastlm.StateError as refusal:
        assert "closed" in str(refusal)
    assert tokens == expected[: len(tokens)]
    with pytest.raises(fastlm.StateError, match="closed"):
        model.generate([1], max_tokens=1)


# ---- the interpreter's lock ----------------------------------------------------------------------


def longest_share(work: Callable[[], object]) -> float:
    """The longest part of the work, as a share of it, in which a thread that wants to run always could not."""
    times: list[float] = []
    ready, done = threading.Event(), threading.Event()

    def tick() -> None:
        while not done.is_set():
            times.append(time.perf_counter())
            ready.set()
            time.sleep(0.001)

    ticker = threading.Thread(target=tick)
    ticker.start()
    ready.wait()
    start = time.perf_counter()
    work()
    end = time.perf_counter()
    done.set()
    ticker.join()
    moments = np.array([start, *(t for t in times if start < t < end), end])
    return float(np.diff(moments).max() / (end - start))


def smallest_longest_share(what: str, work: Callable[[], object]) -> float:
    """Of five runs, for other processes keep threads from running, too."""
    shares = [longest_share(work) for _ in range(5)]
    print(f"{what}: longest shares " + " ".join(f"{100 * share:.1f}" for share in sorted(shares)) + " %")
    return min(shares)


@pytest.fixture(scope="module")
def heavy_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_sparse_llama(tmp_path_factory.mktemp("heavy"), HEAVY)


def test_the_ticker_sees_a_held_lock() -> None:
    keeping_the_lock = ctypes.PyDLL(None)  # the process itself, so the C library
    assert longest_share(lambda: keeping_the_lock.usleep(100_000)) > 0.5


def test_loading_lets_others_run(heavy_folder: Path) -> None:
    assert smallest_longest_share("load and drop", lambda: fastlm.load(heavy_folder, threads=1)) < SHARE
    assert smallest_longest_share("load and close", lambda: fastlm.load(heavy_folder, threads=1).close()) < SHARE


def test_generating_lets_others_run(heavy_folder: Path) -> None:
    with fastlm.load(heavy_folder, threads=1) as model:
        ids = np.random.default_rng(0).integers(0, 100, 300).tolist()

        def write() -> None:
            model.generate([1, 2], max_tokens=10, ignore_eos=True)

        def write_pieces() -> None:
            for _ in model.stream([1, 2], max_tokens=10, ignore_eos=True):
                pass

        assert smallest_longest_share("generate", write) < SHARE
        assert smallest_longest_share("stream", write_pieces) < SHARE
        assert smallest_longest_share("forward", lambda: model.forward(ids, attentions=True)) < SHARE


def test_generating_beside_a_thread_that_keeps_the_lock(wide_folder: Path) -> None:
    """Without `cancel`, and off the main thread that alone sees signals, nobody need be asked within a step."""
    with fastlm.load(wide_folder, threads=1) as model:

        def steps() -> int:
            return int(model.engine.context.counters()["forwards"])

        thread = threading.Thread(target=lambda: model.generate([1], max_tokens=1000, ignore_eos=True))
        before = sys.getswitchinterval()
        sys.setswitchinterval(30.0)
        try:
            thread.start()
            while steps() == 0:
                time.sleep(0)  # the last time that the lock is let go of
            for _ in range(100_000):
                sum(range(10_000))  # looking takes the context's lock
                if steps() >= 300:
                    break
            assert steps() >= 300
        finally:
            sys.setswitchinterval(before)
            thread.join()
