"""Which table runs, and whether the guard pages of these tests guard."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
from pathlib import Path

import pytest

CALL = """
import ctypes, sys
sys.path.insert(0, {here!r})
from kernel_harness import declare, Guarded, address
lib = ctypes.CDLL({library!r})
declare(lib)
"""


def run(kernel_library: ctypes.CDLL, code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    start = CALL.format(here=str(Path(__file__).parent), library=kernel_library._name)
    env = {name: value for name, value in os.environ.items() if name != "FASTLM_ISA"} | environment
    return subprocess.run([sys.executable, "-c", start + code], env=env, capture_output=True, text=True, check=False)


SHOW = "p = lib.flm_kernels_select(None); print(p.contents.isa.decode() if p else None)"


def test_names(kernel_library: ctypes.CDLL) -> None:
    usable = kernel_library.flm_kernels_usable().decode().split()
    assert usable == ["scalar", "avx2", "avx512"][: len(usable)]
    for name, lanes in (("scalar", 4), ("avx2", 8), ("avx512", 16)):
        table = kernel_library.flm_kernels_select(name.encode())
        assert bool(table) == (name in usable)
        if table:
            assert (table.contents.isa.decode(), table.contents.vector_floats) == (name, lanes)
    assert kernel_library.flm_kernels_select(b"").contents.isa.decode() == usable[-1]
    for unknown in (b"sse9", b"AVX2", b"avx", b"avx2 "):
        assert not kernel_library.flm_kernels_select(unknown)


def test_environment(kernel_library: ctypes.CDLL) -> None:
    best = kernel_library.flm_kernels_usable().decode().split()[-1]
    assert run(kernel_library, SHOW).stdout.strip() == best
    assert run(kernel_library, SHOW, FASTLM_ISA="").stdout.strip() == best
    assert run(kernel_library, SHOW, FASTLM_ISA="scalar").stdout.strip() == "scalar"
    assert run(kernel_library, SHOW, FASTLM_ISA="sse9").stdout.strip() == "None"


def test_flags_of_this_processor(kernel_library: ctypes.CDLL) -> None:
    info = Path("/proc/cpuinfo")
    flags = next((line.split() for line in info.read_text().splitlines() if line.startswith("flags")), None) \
        if info.exists() else None  # fmt: skip
    if flags is None:
        pytest.skip("no flags in /proc/cpuinfo")
    usable = kernel_library.flm_kernels_usable().decode().split()
    assert ("avx2" in usable) == {"avx2", "fma", "f16c"}.issubset(flags)
    assert ("avx512" in usable) == {"avx2", "avx512f", "avx512bw", "avx512vl", "avx512dq"}.issubset(flags)


@pytest.mark.parametrize("length", [16, 17])
def test_guard_pages_stop_an_access_outside(kernel_library: ctypes.CDLL, length: int) -> None:
    code = f"""
table = lib.flm_kernels_select(b"scalar").contents
guarded = Guarded()
x = guarded.copy([1.0] * 16)
table.scale(address(x), 2.0, {length})
print("fine", x.sum())
"""
    result = run(kernel_library, code)
    assert (result.stdout.strip() == "fine 32.0") == (length == 16)
    assert (result.returncode == 0) == (length == 16)
