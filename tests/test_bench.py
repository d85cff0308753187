"""`fastlm bench`: what it times, and what it says of the machine."""

from __future__ import annotations

import json
import re
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
    costs = found["cpu_seconds_per_token"]
    assert set(costs) == {"prompt", "decode"} and all(
        len(c) in (0, 3) and min(c, default=1) > 0 for c in costs.values()
    )
    assert found["threads_present"] == [1.0] * 3
    assert found["others_share"] is None or 0 <= found["others_share"] <= 1
    assert found["involuntary_switches"] >= 0
    text = summary(found)
    assert "prompt of 40" in text and re.search(r"threads +1\.0 of 1\n", text)
    assert text.count(" cpu ms/token") == (2 if costs["prompt"] else 0)


def test_rates_are_those_of_the_timings(stories: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tokens read and written in each run but the first, divided by the seconds that the run gave."""
    generate, seen = fastlm.Model.generate, []

    def watched(model: fastlm.Model, *args: Any, **params: Any) -> fastlm.Completion:
        seen.append(generate(model, *args, **params))
        return seen[-1]

    monkeypatch.setattr(fastlm.Model, "generate", watched)
    found = bench(lambda: fastlm.load(stories), prompt=100, tokens=30, runs=3)
    rates = found["rates"]
    assert [len(c.token_ids) for c in seen] == [31] * 4 and all(c.usage.cached_tokens == 0 for c in seen)
    assert rates["prompt"] == [100 / c.timings.prompt_seconds for c in seen[1:]]
    assert rates["decode"] == [30 / c.timings.decode_seconds for c in seen[1:]]
    costs = found["cpu_seconds_per_token"]
    assert costs["prompt"] == [c.timings.prompt_cpu_seconds / 100 for c in seen[1:]]
    assert costs["decode"] == [(c.timings.cpu_seconds - c.timings.prompt_cpu_seconds) / 30 for c in seen[1:]]
    assert found["threads_present"] == [c.timings.threads for c in seen[1:]]


def test_what_people_see() -> None:
    found: dict[str, Any] = {
        "model_type": "llama",
        "parameters": 1000,
        "dtype": "int8",
        "kv_dtype": "bfloat16",
        "isa": "avx2",
        "threads": 2,
        "prompt_tokens": 8,
        "written_tokens": 8,
        "load_seconds": 0.1,
        "weight_bytes": 1000,
        "weight_bytes_per_token": 1000,
        "peak_bytes": 1000,
        "threads_present": [1.0, 1.8],
        "rates": {"prompt": [100.0, 300.0], "decode": [10.0, 20.0], "read": [1e9]},
        "cpu_seconds_per_token": {"prompt": [0.001, 0.003], "decode": [0.05, 0.15]},
        "others_share": 0.43,
        "involuntary_switches": 1234,
    }
    lines = summary(found).splitlines()
    assert "100.0 - 300.0)   2 cpu ms/token" in lines[1] and "10.0 - 20.0)   100 cpu ms/token" in lines[2]
    assert re.fullmatch(r"  threads +1\.4 of 2", lines[3])
    assert lines[-1] == (
        "warning: other processes took 43 % of the processors' time, and this one's threads were taken off them 1,234 "
        "times; figures are lower than on an idle machine"
    )
    unknown = {"prompt": [], "decode": []}
    quiet = summary({**found, "others_share": 0.02, "cpu_seconds_per_token": unknown})
    assert "warning" not in quiet and "cpu ms" not in quiet


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
