"""Which table runs, and whether the guard pages of these tests guard."""

from __future__ import annotations

import ctypes
import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest
from core_structs import ISAS, usable_isas

CALL = """
import ctypes, sys
sys.path[:0] = {folders!r}
from kernel_harness import declare, Guarded, address
lib = ctypes.CDLL({library!r})
declare(lib)
"""


def run(kernel_library: ctypes.CDLL, code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    here = Path(__file__).parent
    start = CALL.format(folders=[str(here), str(here.parent)], library=kernel_library._name)
    env = {name: value for name, value in os.environ.items() if name != "FASTLM_ISA"} | environment
    return subprocess.run([sys.executable, "-c", start + code], env=env, capture_output=True, text=True, check=False)


SHOW = "p = lib.flm_kernels_select(None); print(p.contents.isa.decode() if p else None)"


# What each table needs of the flags in /proc/cpuinfo, called features on aarch64; best last.
AVX2 = {"avx2", "fma", "f16c"}
AVX512 = AVX2 | {"avx512f", "avx512bw", "avx512vl", "avx512dq"}
DOTS = AVX512 | {"avx512_vnni", "avx512_bf16"}
FLAGS = {
    "scalar": set(),
    "avx2": AVX2,
    "avx2vnni": AVX2 | {"avx_vnni"},
    "avx512": AVX512,
    "avx512vnni": DOTS,
    "amx": DOTS | {"amx_tile", "amx_int8", "amx_bf16"},
    "neon": {"asimd"},
    "neondot": {"asimd", "asimddp"},
}
LANES = {"scalar": 4, "avx2": 8, "avx2vnni": 8, "avx512": 16, "avx512vnni": 16, "amx": 16, "neon": 4, "neondot": 4}


def test_names(kernel_library: ctypes.CDLL) -> None:
    usable = usable_isas(kernel_library)
    assert usable[0] == "scalar" and usable == [isa for isa in ISAS if isa in usable]
    for isa in ISAS:
        table = kernel_library.flm_kernels_select(isa.encode())
        assert bool(table) == (isa in usable)
        if table:
            assert (table.contents.isa.decode(), table.contents.vector_floats) == (isa, LANES[isa])
    assert kernel_library.flm_kernels_select(b"").contents.isa.decode() == usable[-1]
    for unknown in (b"sse9", b"AVX2", b"avx", b"avx2 ", b"avx512 vnni"):
        assert not kernel_library.flm_kernels_select(unknown)


def test_names_fit(kernel_library: ctypes.CDLL) -> None:
    """A buffer too small for all names is not overrun."""
    assert len(" ".join(ISAS)) < 64
    for n_bytes in range(1, 20):
        names = ctypes.create_string_buffer(b"?" * 30)
        kernel_library.flm_kernels_usable(names, n_bytes)
        assert names.raw[n_bytes:] == (b"?" * 30 + b"\0")[n_bytes:]
        assert b"\0" in names.raw[:n_bytes] and " ".join(usable_isas(kernel_library)).startswith(names.value.decode())


def test_environment(kernel_library: ctypes.CDLL) -> None:
    best = usable_isas(kernel_library)[-1]
    assert run(kernel_library, SHOW).stdout.strip() == best
    assert run(kernel_library, SHOW, FASTLM_ISA="").stdout.strip() == best
    assert run(kernel_library, SHOW, FASTLM_ISA="scalar").stdout.strip() == "scalar"
    assert run(kernel_library, SHOW, FASTLM_ISA="sse9").stdout.strip() == "None"


def test_flags_of_this_processor(kernel_library: ctypes.CDLL) -> None:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    called = "Features" if platform.machine() == "aarch64" else "flags"
    flags = next((set(line.split()) for line in lines if line.startswith(called)), None)
    if flags is None:
        pytest.skip("no flags in /proc/cpuinfo")
    assert FLAGS.keys() == LANES.keys() == set(ISAS)
    assert usable_isas(kernel_library) == [isa for isa in ISAS if FLAGS[isa] <= flags]


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
