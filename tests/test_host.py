"""What the process that fastlm runs in must not lose: its life when memory runs out, and its floating-point mode."""

from __future__ import annotations

import ctypes
import platform
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from models import Shape, save_llama
from support import BuildC

import fastlm

GOLDEN = Path(__file__).with_name("golden")

STARVE = """
import gc, resource, sys, fastlm
folder, threads = sys.argv[1], int(sys.argv[2])
def size():
    return 4096 * int(open("/proc/self/statm").read().split()[0])
def work():
    with fastlm.load(folder, threads=threads) as model:
        model.generate([1] * 100, max_tokens=3, logprobs=5)
        model.batch([[1, i] for i in range(20)], max_tokens=3, n=2, temperature=1.0)
        model.forward([1] * 300, attentions=True, hidden_states=True)
        return model.perplexity([1] * 900)
expected, room, failures = work(), 1 << 17, 0
while room < 1 << 30:
    gc.collect()
    resource.setrlimit(resource.RLIMIT_AS, (size() + room, resource.RLIM_INFINITY))
    try:
        assert work() == expected
    except fastlm.errors.ModelMemoryError:
        failures += 1
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    room = room * 5 // 4
assert work() == expected
print(failures)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="limits address space")
@pytest.mark.parametrize("threads", [1, 3])
def test_running_out_of_memory_anywhere(tmp_path: Path, threads: int) -> None:
    """Whichever allocation fails: a ModelMemoryError, never an abort, and the process can go on."""
    shape = Shape(hidden=128, layers=3, heads=4, kv_heads=2, width=300, vocab=6000, context=1024)
    command = [sys.executable, "-c", STARVE, str(save_llama(tmp_path, shape)), str(threads)]
    result = subprocess.run(command, capture_output=True, text=True, timeout=120, cwd=tmp_path)
    assert result.returncode == 0, result.stderr[-2000:]
    assert int(result.stdout) >= 10


READ_WRITE = """
#include <xmmintrin.h>
unsigned get(void);
void set(unsigned value);
unsigned get(void) { return _mm_getcsr(); }
void set(unsigned value) { _mm_setcsr(value); }
"""
FLAGS = 0x3F  # sticky notes of what happened; the rest is rounding, masks, flush to zero


@pytest.mark.skipif(platform.machine() != "x86_64", reason="MXCSR is a register of x86")
def test_the_floating_point_mode_stays(build_c: BuildC, tmp_path: Path) -> None:
    """The caller's mode, whatever it is, survives calls; denormal numbers stay numbers."""
    source = tmp_path / "mxcsr.c"
    source.write_text(READ_WRITE)
    library = ctypes.CDLL(str(build_c("mxcsr", [source], flags=["-shared", "-fPIC"])))
    library.get.restype = ctypes.c_uint32
    usual = library.get()
    assert usual & ~FLAGS == 0x1F80
    encoder, decoder = fastlm.load(GOLDEN / "bert"), fastlm.load(save_llama(tmp_path), threads=2)
    expected = decoder.generate([1, 2], max_tokens=9).token_ids
    assert library.get() & ~FLAGS == 0x1F80 and np.float32(1e-45) * np.float32(1) != 0
    try:
        library.set(usual | 0x8040)  # flush to zero, denormals are zero
        found = decoder.generate([1, 2], max_tokens=9).token_ids
        decoder.forward([1, 2], attentions=True)
        encoder.forward([1, 2])
        after = library.get()
    finally:
        library.set(usual)
    assert after & ~FLAGS == 0x9FC0 and found == expected
