"""What is built by compilers that are old, and where none can build it: pretended, since tests have one compiler."""

from __future__ import annotations

import ctypes
import os
import platform
import shutil
import subprocess
from pathlib import Path

import pytest
from core_structs import usable_isas
from support import CSRC, BuildC, core_files


@pytest.mark.parametrize(
    ("flags", "text"),
    [
        (["-U__GNUC__", "-U__clang__"], "needs GCC or Clang"),
        (["-D__clang__", "-D__clang_major__=16"], "Clang 16 crashes"),
        (["-D__clang__", "-D__clang_major__=8"], "needs GCC 10 or Clang 9"),
        (["-U__clang__", "-U__GNUC__", "-D__GNUC__=9"], "needs GCC 10 or Clang 9"),
        (["-U__BYTE_ORDER__", "-D__BYTE_ORDER__=__ORDER_BIG_ENDIAN__"], "needs a little-endian machine"),
        (["-U__SIZEOF_POINTER__", "-D__SIZE_TYPE__=unsigned int"], "needs a 64-bit machine"),
        ([], ""),
    ],
)
def test_what_cannot_build_says_so(tmp_path: Path, flags: list[str], text: str) -> None:
    source = tmp_path / "machine.c"
    source.write_text('#include "base/machine.h"\n')
    compiler = (os.environ.get("CC") or shutil.which("cc") or "gcc").split()
    command = [*compiler, "-std=c11", "-fsyntax-only", "-w", f"-I{CSRC}", *flags, str(source)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (result.returncode == 0) == (not text) and text in result.stderr, result.stderr


X86_TABLES = ["scalar", "avx2", "avx2vnni", "avx512", "avx512vnni", "amx"]


@pytest.mark.skipif(platform.machine().lower() not in ("x86_64", "amd64"), reason="these tables are of x86-64")
@pytest.mark.parametrize(
    ("flags", "left_out"),
    [
        ([], []),
        (["-DFLM_ISA_AVXVNNI=0"], ["avx2vnni"]),
        (["-DFLM_ISA_AMX=0"], ["amx"]),
        (["-DFLM_ISA_AVX2=0", "-DFLM_ISA_AVX512=0"], ["avx2", "avx512"]),
        (["-DFLM_ISA_AVX512VNNI=0"], ["avx512vnni"]),
        (["-DFLM_ISA_NAMED=0"], ["avx2vnni", "amx"]),
    ],
)
def test_old_compilers_leave_tables_out(build_c: BuildC, tmp_path: Path, flags: list[str], left_out: list[str]) -> None:
    """What an older compiler cannot name is neither built nor offered to a processor that has all of it."""
    kept = [isa for isa in X86_TABLES if isa not in left_out]
    stand_in = tmp_path / "tables.c"
    stand_in.write_text(
        '#include "base/cpu.h"\n#include "kernels/isa/isa.h"\n'
        "uint32_t flm_cpu_features(void) { return UINT32_MAX; }\n"
        "int flm_cpu_permit_amx(void) { return 1; }\n"
        + "".join(f'const flm_kernels flm_kernels_{isa} = {{.isa = "{isa}"}};\n' for isa in kept)
    )
    name = "-".join(["tables_but", *left_out])
    sources = [stand_in, *core_files("select", *left_out)]
    library = ctypes.CDLL(str(build_c(name, sources, flags=["-shared", *flags])))
    assert usable_isas(library) == kept
    assert not any(hasattr(library, f"flm_kernels_{isa}") for isa in left_out)
