"""Short runs of the fuzzer and of the load test, which go on for hours by hand (docs/developing.md)."""

from __future__ import annotations

import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest
from served import Running, received
from support import ROOT

import fastlm

sys.path.insert(0, str(Path(__file__).parents[1] / "fuzz"))

import fuzz_server


def test_wrong_requests(server: Running, models: dict[str, fastlm.Model]) -> None:
    @cache
    def alone(name: str, prompt: str) -> str:
        return models[name].generate(prompt, max_tokens=4, temperature=0).text

    fuzzer = fuzz_server.Fuzzer(server.address, alone, left=600, seed=3)
    fuzzer.run(clients=8)
    assert not fuzzer.failures, "\n".join(fuzzer.failures)
    assert fuzzer.statuses["200"] > 60 and fuzzer.statuses["400"] > 60 and fuzzer.statuses["none"] > 20
    assert fuzz_server.settled(server.address)


def test_bodies_that_are_none(server: Running, caplog: pytest.LogCaptureFixture) -> None:
    """They are refused before the application has begun to answer, and after it."""
    head = b"POST /tokenize HTTP/1.1\r\nHost: a\r\nContent-Type: text/plain\r\nTransfer-Encoding: chunked\r\n\r\n"
    with server.raw(head + b"zz\r\n") as connection:
        assert received(connection).startswith(b"HTTP/1.1 400 ")
    with server.raw(head) as connection:
        assert connection.recv(4096).startswith(b"HTTP/1.1 415 ")
        connection.sendall(b"zz\r\n")
        received(connection)
    assert server.get("/health")[0] == 200
    assert not [record for record in caplog.records if record.levelname == "ERROR"], caplog.text


def test_many_clients() -> None:
    for mode in ([], ["--whole"]):
        options = ["--clients", "16", "--seconds", "1", "--tokens", "8", *mode]
        command = [sys.executable, str(ROOT / "benchmarks" / "serving.py"), *options]
        done = subprocess.run(command, cwd=sys.prefix, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stdout + done.stderr
        assert " 0 failures" in done.stdout and ("first token: p50" in done.stdout) == (not mode)
