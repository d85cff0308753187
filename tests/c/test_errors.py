"""Faults in every operation of the library: see unit_errors.c for what is asked of it afterwards."""

import re
import subprocess

import pytest
from support import CSRC, ROOT

WRAP = ["-Wl,--wrap=calloc,--wrap=mmap,--wrap=pthread_create,--wrap=flm_now"]
FILES = [f"{name}_{format}" for name in ("llama", "moe", "t5", "bert") for format in ("float32", "int8")]
FILES += ["moe_int4", "bert_int4", "twins_float32"]


def run(build_c, sanitizer, name, *arguments):
    sources = [ROOT / f"tests/c/{name}.c", *sorted(CSRC.rglob("*.c"))]
    program = build_c(name, sources, sanitizer=sanitizer, flags=WRAP)
    ended = subprocess.run([program, *arguments], capture_output=True, text=True, timeout=280, check=False)
    assert ended.returncode == 0 and not ended.stderr, ended.stdout + ended.stderr[-8000:]
    return ended.stdout


@pytest.mark.parametrize("name", FILES)
def test_faults(build_c, sanitizer, chunked_files, name):
    """Each fault strikes, and the calls after it give what they give without it."""
    if sanitizer != "address" and name not in ("llama_int8", "t5_float32"):
        pytest.skip("two of the models are enough to see races, and to run without a sanitizer")
    can_fork = [] if sanitizer == "thread" else ["fork"]  # this sanitizer cannot start threads in a forked child
    printed = run(build_c, sanitizer, "unit_errors", chunked_files[name], *can_fork)
    strikes = {fault: int(n) for fault, n in re.findall(r"^(.*) (\d+)$", printed, re.MULTILINE)}
    assert len(strikes) > 10 and min(strikes.values()) > 0, strikes


@pytest.mark.parametrize("name", [name for name in FILES if name.endswith("float32")])
def test_refusals(build_c, sanitizer, chunked_files, name):
    """What is refused changes nothing."""
    if sanitizer == "thread":
        pytest.skip("one thread calls")
    assert int(run(build_c, sanitizer, "unit_refusals", chunked_files[name])) > 30
