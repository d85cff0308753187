"""Many threads that do everything at once, with and without sanitizers: see hammer.c."""

import re
import subprocess

import pytest
from support import CSRC, ROOT

OPERATIONS = {"plain": 3000, "address": 1000, "thread": 1000}  # some seconds each
THREADS = 8


@pytest.mark.slow
def test_everything_at_once(build_c, sanitizer, long_files):
    sources = [ROOT / "tests/c/hammer.c", *sorted(CSRC.rglob("*.c"))]
    program = build_c("hammer", sources, sanitizer=sanitizer, flags=["-Wl,--wrap=flm_is_long"])
    command = [program, str(THREADS), str(OPERATIONS[sanitizer]), "1", *long_files]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=280, check=False)
    assert ended.returncode == 0 and not ended.stderr, f"{ended.returncode}\n{ended.stderr[-8000:]}"
    counts = {name: int(n) for name, n in re.findall(r"(\w[a-z ]*) (\d+)", ended.stdout)}
    del counts["short of memory"]
    assert sum(counts.values()) == OPERATIONS[sanitizer] and min(counts.values()) > 0, ended.stdout
