"""The engine around a stand-in step (tests/c/unit_engine.c and its like) and its pages, also under sanitizers."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from support import POOL, ROOT, BuildC, core_files

NAMES = [
    "gate",
    "kv_pool",
    "page_table",
    "prefix",
    "engine",
    "queue",
    "inbox",
    "drive",
    "schedule",
    "line",
    "encoding",
    "session",
    "source",
    "room",
    "branches",
    "beams",
    "drafter",
    "drafts",
    "lookup",
    "pace",
    "request",
    "generation",
    "batch",
    "meter",
    "mask",
    "masking",
]
NAMES += [
    "adapters",
    "adapter",
    "slots",
    "matrix",
    "encode",
    "readers",
    "texts",
    "sampler",
    "sampler_edits",
    "sampler_filters",
    "text",
    "detok",
    "options",
    "spec",
]
NAMES += POOL
SMALL = {
    "unit_pages": core_files("kv_pool", "page_table", "prefix", "array", "memory", "cgroup", "text_file", "status"),
    "unit_gate": core_files("gate", "process", "memory", "cgroup", "text_file", "status"),
}
SOURCES = core_files(*NAMES)
METER = ("flm_now", "flm_clock", "flm_cpu_seconds", "flm_pool_worker_seconds", "flm_pool_attendance")
WRAPPED = {
    "unit_faults": ["-Wl,--wrap=calloc,--wrap=mmap"],
    "unit_drafts": ["-Wl,--wrap=calloc"],
    "unit_meter": ["-Wl," + ",".join(f"--wrap={name}" for name in METER)],
}
CASES = {
    "unit_pages": ["pages"],
    "unit_gate": ["order", "itself"],
    "unit_engine": ["sessions", "limits", "batch"],
    "unit_meter": ["alone", "together", "others", "bounded", "between", "unread", "meanwhile"],
    "unit_branches": ["alone", "crowd", "cancelled", "threads", "refused"],
    "unit_schedule": ["threads", "turns", "cancel", "progress", "fork"],
    "unit_drafts": ["lookup", "pace", "texts", "together", "leaves", "gives_way", "refused", "allocations"],
    "unit_masks": ["alone", "crowd", "driven", "both", "late", "ended"],
    "unit_drive": ["posts", "beside", "idle", "leave", "forks"],
    "unit_faults": [
        "no_room",
        "in_vain",
        "polls",
        "own_call",
        "left",
        "allocations",
        "waits_all",
        "waiting",
        "read_beside",
    ],
}


def run(program: Path, case: str) -> None:
    result = subprocess.run([program, case], capture_output=True, text=True, timeout=240, check=False)
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.mark.parametrize(("name", "case"), [(name, case) for name in CASES for case in CASES[name]])
def test_engine(build_c: BuildC, sanitizer: str, name: str, case: str) -> None:
    sources = [ROOT / f"tests/c/{name}.c", *SMALL.get(name, SOURCES)]
    run(build_c(name, sources, sanitizer=sanitizer, flags=WRAPPED.get(name, [])), case)


def test_colliding_hashes(build_c: BuildC, tmp_path: Path) -> None:
    """With a hash that is always 0 the prefix index must still find the right pages, by what they hold."""
    text = core_files("prefix")[0].read_text()
    assert "0xD6E8FEB86659FD93u" in text
    colliding = tmp_path / "prefix.c"
    text = text.replace('"prefix.h"', '"cache/prefix.h"')
    colliding.write_text(text.replace("0xD6E8FEB86659FD93u", "0"))
    sources = [path for path in SOURCES if path.name != "prefix.c"]
    run(build_c("colliding", [ROOT / "tests/c/unit_engine.c", *sources, colliding]), "sessions")
