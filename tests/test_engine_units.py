"""The engine around a stand-in step (tests/c/unit_engine.c), plain and under sanitizers."""

from __future__ import annotations

import subprocess

import pytest
from support import CSRC, ROOT, BuildC

NAMES = ["gate", "kv_pages", "prefix", "engine", "schedule", "session", "request", "batch", "encode", "sampler"]
NAMES += ["sampler_filters", "text", "detok", "memory", "cgroup", "status", "threads"]


@pytest.mark.parametrize("case", ["sessions", "limits", "batch", "threads", "cancel", "fork"])
def test_engine(build_c: BuildC, sanitizer: str, case: str) -> None:
    sources = [ROOT / "tests/c/unit_engine.c", *(CSRC / f"{name}.c" for name in NAMES)]
    program = build_c("unit_engine", sources, sanitizer=sanitizer)
    result = subprocess.run([program, case], capture_output=True, text=True, timeout=240, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
