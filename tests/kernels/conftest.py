"""Builds the kernels (and nothing else of the core) as one shared library and hands out their tables."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from core_structs import ISAS, usable_isas
from support import CSRC, BuildC, core_files

sys.path.insert(0, str(Path(__file__).parent))  # tests are imported by path: make the helper modules importable
from kernel_harness import Guarded, Kernels, declare

SOURCES = sorted(CSRC.glob("kernels/**/*.c")) + core_files("matrix", "cpu")


@pytest.fixture(scope="session")
def kernel_library(build_c: BuildC) -> ctypes.CDLL:
    lib = ctypes.CDLL(str(build_c("kernels", SOURCES, flags=["-shared"])))
    declare(lib)
    return lib


@pytest.fixture(scope="session")
def tables(kernel_library: ctypes.CDLL, build_c: BuildC) -> dict[str, Kernels]:
    """The tables of all instruction sets that this processor can run, or for which there is a stand-in: of AMX where it
    lacks only tiles, of NEON on x86-64."""
    found = {isa: kernel_library.flm_kernels_select(isa.encode()).contents for isa in usable_isas(kernel_library)}
    here = Path(__file__).parent
    stand_ins: dict[str, list[str]] = {}
    if "avx512vnni" in found:
        stand_ins["amx"] = [f"-include{here / 'tiles.h'}"]
    if "avx2" in found:
        plain_c = [f"-I{here / 'neon'}", "-DFLM_ISA_ARM=1", "-mavx2", "-mfma", "-mf16c"]
        stand_ins["neon"] = stand_ins["neondot"] = plain_c
    for isa, flags in stand_ins.items():
        if isa not in found:
            sources = core_files(isa, "matrix")
            library = build_c(f"kernels_{isa}", sources, flags=["-shared", *flags])
            found[isa] = Kernels.in_dll(ctypes.CDLL(str(library)), f"flm_kernels_{isa}")
    return found


@pytest.fixture(params=ISAS)
def kernels(request: pytest.FixtureRequest, tables: dict[str, Kernels]) -> Kernels:
    """The table of each instruction set in turn; skips those this processor cannot run."""
    if request.param not in tables:
        pytest.skip(f"this processor runs {list(tables)}")
    table = tables[request.param]
    assert table.isa.decode() == request.param
    return table


@pytest.fixture
def guarded() -> Iterator[Guarded]:
    yield Guarded()
