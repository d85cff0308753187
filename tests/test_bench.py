"""`fastlm bench`: what it times, and what it says of the machine."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest
from models import Shape, save_llama

import fastlm
from fastlm.bench import bench, read_bandwidth, summary, weights_per_token
from fastlm.errors import ParameterError


def test_command_gives_every_run(stories260k: Path) -> None:
    options = ["--prompt", "40", "--tokens", "8", "--runs", "3", "--threads", "1", "--json"]
    command = [sys.executable, "-m", "fastlm", "bench", str(stories260k), *options]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60, cwd=sys.prefix)
    found = json.loads(done.stdout)
    assert {name: len(rates) for name, rates in found["rates"].items()} == {"prompt": 3, "decode": 3, "read": 3}
    assert all(rate > 0 for rates in found["rates"].values() for rate in rates)
    assert (found["prompt_tokens"], found["written_tokens"], found["threads"]) == (40, 8, 1)
    assert found["peak_bytes"] > found["weight_bytes"] == found["weight_bytes_per_token"]
    assert "prompt of 40" in summary(found)


def test_rates_are_those_of_the_clock(stories260k: Path) -> None:
    """All runs together take as long as prompts and tokens at these rates, but for loading and reading of memory."""
    with fastlm.load(stories260k) as model:
        start = time.perf_counter()
        model.generate([7] * 100, max_tokens=401, ignore_eos=True)
        one_run = time.perf_counter() - start
    found = bench(lambda: fastlm.load(stories260k), prompt=100, tokens=400, runs=3)
    said = [100 / p + 400 / d for p, d in zip(found["rates"]["prompt"], found["rates"]["decode"], strict=True)]
    assert one_run / 10 < min(said) < one_run * 10


def test_a_token_reads_all_weights_but_a_table_of_its_own(tmp_path: Path) -> None:
    shape = Shape(hidden=64, vocab=320, width=128)
    with fastlm.load(save_llama(tmp_path, shape), dtype="float32") as model:
        table = 4 * 64 * 320
        assert weights_per_token(model) == model.memory()["weight_bytes"] - table


def test_reading_a_cache_is_no_slower_than_memory() -> None:
    near, far = read_bandwidth(1 << 19, 1), read_bandwidth(1 << 28, 1)
    assert 1e8 < far < 3 * near < 1e13


@pytest.mark.parametrize("wrong", [{"prompt": 500, "tokens": 64}, {"prompt": 0}, {"tokens": 0}, {"runs": 0}])
def test_numbers_that_cannot_be(stories260k: Path, wrong: dict[str, int]) -> None:
    with pytest.raises(ParameterError, match=next(iter(wrong))):
        bench(lambda: fastlm.load(stories260k), **wrong)
