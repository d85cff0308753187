"""Memory, threads and files do not grow with what a process did.

Each case runs in a process of its own: memory that earlier tests gave back would hide what a case loses.
"""

from __future__ import annotations

import gc
import os
import random
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

import fastlm

MEGABYTE = 1 << 20
FINE = {"logprobs": 2, "logit_bias": {5: 1.0}, "repetition_penalty": 1.1, "no_repeat_ngram_size": 3, "stop": ["zzz"]}

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc/self"),
]


def resident() -> int:
    gc.collect()
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def growth(work: Callable[[int], None], *, warm_up: int, n: int) -> int:
    """Bytes by which the process grew in n rounds after a warm-up.

    A megabyte more is not believed until n more rounds have taken it again, and then a third time: an allocator takes
    a piece of that size once, at any moment; a leak goes on.
    """
    for i in range(warm_up):
        work(i)
    grown = 0
    for turn in range(3):
        before = resident()
        for i in range(n):
            work(warm_up + turn * n + i)
        grown = resident() - before
        print(f"{n} rounds: {grown / 1024:.0f} KiB")
        if grown <= MEGABYTE:
            break
    return grown


def a_leak_is_seen(model: fastlm.Model) -> None:
    kept: list[bytes] = []
    assert growth(lambda i: kept.append(bytes(200)), warm_up=100, n=10_000) > MEGABYTE


def generations(model: fastlm.Model) -> None:
    """Short ones, which fill no page and so leave nothing in the prefix cache; each in one of several ways."""
    ways: list[Callable[[int], object]] = [
        lambda i: model.generate("Once", max_tokens=4),
        lambda i: model.generate([1, 2 + i % 500], max_tokens=4, temperature=1.0, top_k=40, top_p=0.9, seed=i),
        lambda i: model.generate("The cat", max_tokens=4, **FINE),
        lambda i: list(model.stream("A dog", max_tokens=4)),
        lambda i: model.generate("Lily", max_tokens=3, n=2, temperature=0.7),
        lambda i: model.forward([1, 2, 3], attentions=True, hidden_states=True),
        lambda i: model.next_tokens("Tim"),
    ]
    assert growth(lambda i: ways[i % len(ways)](i) and None, warm_up=2000, n=10_000) <= MEGABYTE


def long_generations_stay_within_the_memory_for_keys_and_values(model: fastlm.Model) -> None:
    """What the prefix cache keeps is bounded by what pages may take; no page is lost however often it is full."""
    most = model.memory()["kv_bytes"]

    def work(i: int) -> None:
        model.generate([1, 2 + i % 500, 2 + i // 500], max_tokens=200, temperature=1.0, seed=i, ignore_eos=True)

    assert growth(work, warm_up=20, n=300) <= most + MEGABYTE
    assert growth(work, warm_up=300, n=200) <= MEGABYTE


def failed_calls(model: fastlm.Model) -> None:
    def work(i: int) -> None:
        for params in ({"max_token": 1}, {"temperature": -1}, {"stop_token_ids": [1 << 20]}, {"top_k": 4}):
            with pytest.raises(fastlm.ParameterError):
                model.generate("Once", **params)
        with pytest.raises(fastlm.ContextLengthError):
            model.generate([1] * (model.context + 1))
        with pytest.raises(fastlm.ParameterError):
            model.generate([1, 1 << 20])

    assert growth(work, warm_up=200, n=1000) <= MEGABYTE


def abandoned_streams(model: fastlm.Model) -> None:
    """Each had all pages of a full sequence promised: were they not given back, 64 would take all there are."""
    expected = model.generate([1, 2], max_tokens=30).token_ids

    def work(i: int) -> None:
        stream = model.stream([1, 2 + i % 500], max_tokens=500, ignore_eos=True)
        for _ in range(i % 4):
            next(stream)
        if i % 2:
            stream.close()

    assert growth(work, warm_up=100, n=500) <= MEGABYTE
    assert model.generate([1, 2], max_tokens=30).token_ids == expected


def streams_abandoned_in_cycles(model: fastlm.Model) -> None:
    """They live until they are collected, and meanwhile may take pages, but not for ever."""

    def work(i: int) -> None:
        cycle: list[object] = [model.stream([1, 2 + i % 500], max_tokens=500, ignore_eos=True)]
        cycle.append(cycle)
        next(cycle[0])
        if i % 32 == 0:
            gc.collect()

    assert growth(work, warm_up=100, n=500) <= model.memory()["kv_bytes"]
    assert growth(work, warm_up=500, n=500) <= MEGABYTE


def sessions_forked_and_dropped(model: fastlm.Model) -> None:
    root = model.session()
    tokens = root.generate([1, 2], max_tokens=150, ignore_eos=True).token_ids
    expected = root.fork().generate([3], max_tokens=5).token_ids

    def work(i: int) -> None:
        twin = root.fork()
        twin.rewind(i % 100)
        twin.generate([3 + i % 200], max_tokens=3, ignore_eos=True)
        forks = [twin.fork() for _ in range(3)]
        forks[0].generate([4], max_tokens=2)
        if i % 2:
            forks[1].close()
            twin.close()

    assert growth(work, warm_up=500, n=1000) <= MEGABYTE
    assert root.tokens[2:] == tokens
    assert root.fork().generate([3], max_tokens=5).token_ids == expected


def loading_and_closing(model: fastlm.Model) -> None:
    folder = model.engine.source.path

    def work(i: int) -> None:
        other = fastlm.load(folder, threads=1 + i % 3)
        other.generate("Once", max_tokens=2)
        if i % 2:
            other.close()

    def open_things() -> tuple[int, int]:
        return sum(1 for _ in Path("/proc/self/task").iterdir()), sum(1 for _ in Path("/proc/self/fd").iterdir())

    work(0)
    before = open_things()
    assert growth(work, warm_up=60, n=200) <= MEGABYTE
    assert open_things() == before


def failed_loading(model: fastlm.Model) -> None:
    """Of a file that is cut short in its last tensor, and of one whose last weight is no number."""
    good = model.engine.source.path
    data = (good / "model.safetensors").read_bytes()
    contents = (data[:-100], data[:-4] + b"\xff\xff\xff\xff")
    with tempfile.TemporaryDirectory() as name:
        bad = Path(name)
        for kept in ("config.json", "tokenizer.json"):
            (bad / kept).write_bytes((good / kept).read_bytes())

        def work(i: int) -> None:
            (bad / "model.safetensors").write_bytes(contents[i % 2])
            with pytest.raises(fastlm.ModelFormatError):
                fastlm.load(bad, threads=2)

        assert growth(work, warm_up=40, n=100) <= MEGABYTE


def translations(model: fastlm.Model) -> None:
    """By a small T5: one source, beams, batches, and some that are cancelled."""
    rng = random.Random(0)
    with fastlm.load(Path(__file__).parent / "golden" / "t5", threads=1) as translator:
        cancelled = threading.Event()
        cancelled.set()

        def work(i: int) -> None:
            sources = [[rng.randrange(3, 90) for _ in range(rng.randrange(1, 60))] for _ in range(1 + i % 4)]
            translator.batch(sources, num_beams=1 + i % 5, max_tokens=8, no_repeat_ngram_size=i % 3)
            translator.generate(sources[0], num_beams=1 + i % 2, max_tokens=4, cancel=cancelled if i % 8 == 0 else None)

        assert growth(work, warm_up=200, n=500) <= MEGABYTE


CASES = (
    a_leak_is_seen,
    generations,
    long_generations_stay_within_the_memory_for_keys_and_values,
    failed_calls,
    abandoned_streams,
    streams_abandoned_in_cycles,
    sessions_forked_and_dropped,
    loading_and_closing,
    failed_loading,
    translations,
)


@pytest.mark.parametrize("case", [case.__name__ for case in CASES])
def test_nothing_grows(case: str, stories: Path) -> None:
    command = [sys.executable, __file__, case, str(stories)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=250, check=False)
    print(ended.stdout)
    assert (ended.returncode, ended.stderr) == (0, "")


if __name__ == "__main__":
    next(case for case in CASES if case.__name__ == sys.argv[1])(fastlm.load(sys.argv[2], dtype="int4", threads=1))
