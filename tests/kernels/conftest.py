"""Builds the kernels (and nothing else of the core) as one shared library and hands out their tables."""

from __future__ import annotations

import ctypes
import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))  # tests are imported by path: make the helper module importable
from kernel_harness import Guarded, Kernels, declare

CSRC = Path(__file__).resolve().parents[2] / "csrc"
SOURCES = sorted(CSRC.glob("kernels/*.c")) + sorted(CSRC.glob("kernels/isa/*.c")) + [CSRC / "matrix.c", CSRC / "cpu.c"]
FLAGS = ["-std=c11", "-O3", "-g0", "-ffp-contract=off", "-fno-math-errno", "-fPIC", "-Wall", "-Wextra", "-Werror"]
ISAS = ["scalar", "avx2", "avx512"]


@pytest.fixture(scope="session")
def kernel_library(request: pytest.FixtureRequest) -> ctypes.CDLL:
    """Compiled once per state of the sources; later runs find it in pytest's cache folder."""
    compiler = os.environ.get("CC") or shutil.which("cc") or "gcc"
    digest = hashlib.sha256(compiler.encode() + " ".join(FLAGS).encode())
    for path in sorted([*CSRC.rglob("*.h"), *CSRC.glob("kernels/**/*.inc"), *SOURCES]):
        digest.update(path.read_bytes())
    folder = Path(request.config.cache.mkdir("kernels"))
    library = folder / f"{digest.hexdigest()[:24]}.so"
    if not library.exists():
        for old in folder.glob("*.so"):
            old.unlink(missing_ok=True)
        partial = folder / f"{os.getpid()}.partial"
        command = [*compiler.split(), *FLAGS, f"-I{CSRC / 'include'}", f"-I{CSRC}", "-shared", "-o", str(partial)]
        subprocess.run([*command, *map(str, SOURCES), "-lm"], check=True)
        partial.replace(library)
    lib = ctypes.CDLL(str(library))
    declare(lib)
    return lib


@pytest.fixture(params=ISAS)
def kernels(request: pytest.FixtureRequest, kernel_library: ctypes.CDLL) -> Kernels:
    """The table of each instruction set in turn; skips those this processor cannot run."""
    usable = kernel_library.flm_kernels_usable().decode().split()
    if request.param not in usable:
        pytest.skip(f"this processor runs {usable}")
    table: Kernels = kernel_library.flm_kernels_select(request.param.encode()).contents
    assert table.isa.decode() == request.param
    return table


@pytest.fixture
def guarded() -> Iterator[Guarded]:
    yield Guarded()
