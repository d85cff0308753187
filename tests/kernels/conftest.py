"""Builds the kernels (and nothing else of the core) as one shared library and hands out their tables."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from core_structs import ISAS, usable_isas
from support import CSRC, BuildC

sys.path.insert(0, str(Path(__file__).parent))  # tests are imported by path: make the helper modules importable
from kernel_harness import Guarded, Kernels, declare

SOURCES = sorted(CSRC.glob("kernels/*.c")) + sorted(CSRC.glob("kernels/isa/*.c")) + [CSRC / "matrix.c", CSRC / "cpu.c"]


@pytest.fixture(scope="session")
def kernel_library(build_c: BuildC) -> ctypes.CDLL:
    lib = ctypes.CDLL(str(build_c("kernels", SOURCES, flags=["-shared"])))
    declare(lib)
    return lib


@pytest.fixture(scope="session")
def tables(kernel_library: ctypes.CDLL, build_c: BuildC) -> dict[str, Kernels]:
    """The tables of all instruction sets that this processor can run; those of AMX also where it lacks only tiles."""
    found = {isa: kernel_library.flm_kernels_select(isa.encode()).contents for isa in usable_isas(kernel_library)}
    if "avx512vnni" in found and "amx" not in found:
        tiles = f"-include{Path(__file__).with_name('tiles.h')}"
        library = build_c("kernels_amx", [CSRC / "kernels/isa/amx.c", CSRC / "matrix.c"], flags=["-shared", tiles])
        found["amx"] = Kernels.in_dll(ctypes.CDLL(str(library)), "flm_kernels_amx")
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
