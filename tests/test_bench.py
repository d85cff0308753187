"""`fastlm bench`: what it times, and what it says of the machine."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from models import Shape, save_llama

import fastlm
from fastlm.bench import READ_BYTES, bench, read_bandwidth, summary, weights_per_token
from fastlm.errors import ParameterError


def test_command_gives_every_run(stories: Path) -> None:
    options = ["--prompt", "40", "--tokens", "8", "--runs", "3", "--threads", "1", "--json"]
    command = [sys.executable, "-m", "fastlm", "bench", str(stories), *options]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60, cwd=sys.prefix)
    found = json.loads(done.stdout)
    assert {name: len(rates) for name, rates in found["rates"].items()} == {"prompt": 3, "decode": 3, "read": 3}
    assert all(rate > 0 for rates in found["rates"].values() for rate in rates)
    assert (found["prompt_tokens"], found["written_tokens"], found["threads"]) == (40, 8, 1)
    assert found["peak_bytes"] > found["weight_bytes"] == found["weight_bytes_per_token"]
    assert "prompt of 40" in summary(found)


def test_rates_are_those_of_the_timings(stories: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tokens read and written in each run but the first, divided by the seconds that the run gave."""
    generate, seen = fastlm.Model.generate, []

    def watched(model: fastlm.Model, *args: Any, **params: Any) -> fastlm.Completion:
        seen.append(generate(model, *args, **params))
        return seen[-1]

    monkeypatch.setattr(fastlm.Model, "generate", watched)
    rates = bench(lambda: fastlm.load(stories), prompt=100, tokens=30, runs=3)["rates"]
    assert [len(c.token_ids) for c in seen] == [31] * 4 and all(c.usage.cached_tokens == 0 for c in seen)
    assert rates["prompt"] == [100 / c.timings.prompt_seconds for c in seen[1:]]
    assert rates["decode"] == [30 / c.timings.decode_seconds for c in seen[1:]]


def test_a_token_reads_all_weights_but_a_table_of_its_own(tmp_path: Path) -> None:
    shape = Shape(hidden=64, vocab=320, width=128)
    with fastlm.load(save_llama(tmp_path, shape), dtype="float32") as model:
        table = 4 * 64 * 320
        assert weights_per_token(model) == model.memory()["weight_bytes"] - table


@pytest.mark.parametrize("n_bytes", [100, 1 << 19, 1 << 28])
def test_reading_rate(monkeypatch: pytest.MonkeyPatch, n_bytes: int) -> None:
    """By a clock that counts a second per pass over so many bytes, or at least 8 KiB."""
    ticks = iter(range(100))
    monkeypatch.setattr(time, "perf_counter", lambda: next(ticks))
    buffer = max(n_bytes, 8192)
    assert read_bandwidth(n_bytes, 1) == (READ_BYTES // buffer + 1) * buffer


@pytest.mark.parametrize("wrong", [{"prompt": 500, "tokens": 64}, {"prompt": 0}, {"tokens": 0}, {"runs": 0}])
def test_numbers_that_cannot_be(stories: Path, wrong: dict[str, int]) -> None:
    with pytest.raises(ParameterError, match=next(iter(wrong))):
        bench(lambda: fastlm.load(stories), **wrong)
