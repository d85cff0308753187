"""Places and types that tests and their conftest files share."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

ROOT = Path(__file__).resolve().parents[1]
CSRC = ROOT / "csrc"
# The pool of threads, with all that it needs.
POOL = [
    "threads",
    "clock",
    "wait",
    "attendance",
    "rations",
    "help",
    "processors",
    "process",
    "cpu",
    "cores",
    "topology",
    "cpu_set",
    "prefault",
    "memory",
    "array",
    "cgroup",
    "text_file",
    "status",
]
# What tests/c/unit_walk.c puts in the place of the library's functions.
REPLACED = (
    "flm_team_choose",
    "flm_team_begin",
    "flm_team_help",
    "flm_is_long",
    "flm_slices_pay",
    "flm_clock",
    "nanosleep",
)
UNIT_WALK_FLAGS = ["-Wl," + ",".join(f"--wrap={name}" for name in REPLACED)]
SHARED_MODELS = ROOT.parent / "shared" / "models"


def core_files(*stems: str) -> list[Path]:
    """The C files of the core with these names, wherever they lie: names are unique."""
    found = {path.stem: path for path in CSRC.rglob("*.c")}
    return [found[stem] for stem in stems]


class BuildC(Protocol):
    """Compiles sources into a program, under a sanitizer ("plain": none), and returns its path."""

    def __call__(
        self, name: str, sources: Sequence[Path], *, sanitizer: str = "plain", flags: Sequence[str] = ()
    ) -> Path: ...
