"""Builds fastlm._core: the Cython module and every C file of the core as one extension.

Instruction sets are chosen in the C sources, so all files share these flags and none names a CPU.
Everything else about the package is in pyproject.toml.
"""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from Cython.Build import cythonize
from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

COMPILE_ARGS = [
    "-std=c11",
    "-O3",
    "-g0",
    "-ffp-contract=off",  # sums are bit-identical only if the compiler fuses nothing on its own
    "-fno-math-errno",
    "-fvisibility=hidden",
    "-pthread",
]


def processors() -> int:
    """How many this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


class ParallelBuild(build_ext):
    """Compiles the sources of the extension side by side."""

    def build_extensions(self) -> None:
        compile_files = self.compiler.compile

        def compile_parallel(sources, *args, **kwargs):  # type: ignore[no-untyped-def]
            with ThreadPoolExecutor(processors()) as pool:
                objects = pool.map(lambda source: compile_files([source], *args, **kwargs), sources)
                return [name for names in objects for name in names]

        self.compiler.compile = compile_parallel
        super().build_extensions()


def core() -> list[Extension]:
    sources = sorted(path.as_posix() for path in Path("csrc").rglob("*.c"))
    extension = Extension(
        "fastlm._core",
        ["fastlm/_core.pyx", *sources],
        include_dirs=["csrc/include", "csrc"],
        depends=[
            "fastlm/_core.pxd",
            *sorted(path.as_posix() for path in Path("fastlm").glob("*.pxi")),
            *sorted(path.as_posix() for path in Path("csrc").rglob("*") if path.suffix in (".h", ".inc")),
        ],
        extra_compile_args=COMPILE_ARGS,
        extra_link_args=["-pthread"],
        libraries=["m"],
    )
    return cythonize([extension], build_dir="build/cython", language_level=3)  # type: ignore[no-any-return]


setup(ext_modules=core(), cmdclass={"build_ext": ParallelBuild})
