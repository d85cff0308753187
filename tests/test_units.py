"""C units that no Python call reaches by itself: the programs tests/c/unit_*.c, also under sanitizers."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest
from support import CSRC, POOL, UNIT_WALK_FLAGS, BuildC, core_files

HERE = Path(__file__).parent / "c"
BASE = core_files(*POOL)
NO_LIMIT = "18446744073709551615"


def run(program: Path, *arguments: str, seconds: float = 120, environment: dict[str, str] | None = None) -> str:
    result = subprocess.run(
        [program, *arguments],
        env={**os.environ, **(environment or {})},
        capture_output=True,
        text=True,
        timeout=seconds,
        check=False,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


THREAD_CASES = ["run", "barrier", "crowded", "environment", "two_pools", "fork", "refused", "prefault", "same_pid"]


@pytest.mark.parametrize("case", THREAD_CASES)
def test_threads(build_c: BuildC, sanitizer: str, case: str) -> None:
    if sanitizer == "thread" and case in ("fork", "refused", "prefault", "same_pid"):
        pytest.skip("the thread sanitizer cannot start threads in a forked child")
    flags = ["-Wl,--wrap=pthread_create,--wrap=getpid"]
    run(build_c("unit_threads", [HERE / "unit_threads.c", *BASE], sanitizer=sanitizer, flags=flags), case)


def test_walks(build_c: BuildC, sanitizer: str) -> None:
    """Nobody passes a barrier early in a team that changes at every one; nobody does a unit of work that is over."""
    sources = [HERE / "unit_walk.c", *sorted(CSRC.rglob("*.c"))]
    program = build_c("unit_walk", sources, sanitizer=sanitizer, flags=UNIT_WALK_FLAGS)
    joined, left = run(program, "phases").split()[1::2]
    assert int(joined) > 20 and int(left) > 20
    assert int(run(program, "units").split()[1]) > 20


@pytest.mark.skipif(shutil.which("clang") is None, reason="only clang's sanitizer sees that null + 0 is undefined")
def test_prefault_before_any_request(tmp_path: Path) -> None:
    """A worker of a pool whose model never ran has nothing to populate, and no address to count from."""
    source = tmp_path / "idle.c"
    source.write_text(
        '#include "base/prefault.h"\n'
        "int main(void) {\n"
        "    flm_prefault prefault;\n"
        "    return flm_prefault_init(&prefault) || flm_prefault_populate(&prefault);\n"
        "}\n"
    )
    null_plus = tmp_path / "null_plus.c"
    program = "int main(int argc, char **argv) { char *volatile p = 0; return argv && p + (argc - 1) != p; }"
    null_plus.write_text(program + "\n")
    sources = [source, *core_files("prefault", "memory", "array", "cgroup", "text_file")]
    flags = [
        "-std=c11",
        "-pthread",
        "-fsanitize=undefined",
        "-fsanitize-trap=all",
        f"-I{CSRC}",
        f"-I{CSRC / 'include'}",
    ]
    subprocess.run(["clang", *flags, str(null_plus), "-o", str(tmp_path / "null_plus")], check=True)
    if subprocess.run([tmp_path / "null_plus"], check=False).returncode == 0:
        pytest.skip("this clang takes null + 0 for defined, as clang 20 and later do in C")
    subprocess.run(["clang", *flags, *map(str, sources), "-o", str(tmp_path / "idle")], check=True)
    run(tmp_path / "idle")


def test_memory(build_c: BuildC, sanitizer: str) -> None:
    sources = [HERE / "unit_memory.c", *core_files("memory", "array", "cgroup", "text_file")]
    flags = ["-Wl,--wrap=sysconf,--wrap=mmap,--wrap=madvise"]
    program = build_c("unit_memory", sources, sanitizer=sanitizer, flags=flags)
    # an allocation that cannot be had is to return NULL, as without a sanitizer
    options = "allocator_may_return_null=1"
    run(program, environment={"ASAN_OPTIONS": options, "TSAN_OPTIONS": options})


def test_process(build_c: BuildC, sanitizer: str) -> None:
    if sanitizer == "thread":
        pytest.skip("the thread sanitizer takes a lock that was held at the fork for one that is initialised twice")
    sources = [HERE / "unit_process.c", *core_files("gate", "process", "status")]
    run(build_c("unit_process", sources, sanitizer=sanitizer, flags=["-Wl,--wrap=getpid"]))


def test_status(build_c: BuildC, sanitizer: str) -> None:
    run(build_c("unit_status", [HERE / "unit_status.c", *core_files("status")], sanitizer=sanitizer))


def test_slices(build_c: BuildC, sanitizer: str) -> None:
    """Failed before: slices began at any token, whatever the kernels' inputs can be cut at."""
    files = dict.fromkeys([*POOL, "slice", "step", "scratch", "memory", "cgroup", "text_file", "status"])
    run(build_c("unit_slice", [HERE / "unit_slice.c", *core_files(*files)], sanitizer=sanitizer))


def test_context(build_c: BuildC, libfastlm: Path) -> None:
    run(
        build_c("unit_context", [HERE / "unit_context.c", libfastlm]),
        environment={"FASTLM_ISA": "", "FASTLM_THREADS": ""},
    )


V2 = "0::{}\n"
V1 = "4:memory:{0}\n3:cpuset,cpu,cpuacct:{0}\n1:name=systemd:/x\n"


@pytest.mark.parametrize(
    ("own", "files", "expected"),
    [
        pytest.param("", {}, f"0 {NO_LIMIT}", id="no cgroups"),
        pytest.param(V2.format("/"), {}, f"0 {NO_LIMIT}", id="v2 without limits"),
        pytest.param(
            V2.format("/"), {"cpu.max": "150000 100000\n", "memory.max": "1073741824\n"}, "1.5 1073741824", id="v2 root"
        ),
        pytest.param(
            V2.format("/a/b"), {"cpu.max": "max 100000\n", "memory.max": "max\n"}, f"0 {NO_LIMIT}", id="v2 max"
        ),
        pytest.param(
            V2.format("/a/b"),
            {"a/b/cpu.max": "400000 100000\n", "a/cpu.max": "50000 100000\n", "cpu.max": "300000 100000\n"},
            f"0.5 {NO_LIMIT}",
            id="v2 smallest of the ancestors",
        ),
        pytest.param(
            V2.format("/a"), {"ab/cpu.max": "1 1\n", "b/cpu.max": "1 1\n"}, f"0 {NO_LIMIT}", id="v2 not another's"
        ),
        pytest.param(
            V1.format("/docker/1"),
            {
                "cpu/cpu.cfs_quota_us": "200000\n",
                "cpu/cpu.cfs_period_us": "100000\n",
                "memory/docker/1/memory.limit_in_bytes": "2097152\n",
                "memory/memory.limit_in_bytes": "9223372036854771712\n",
            },
            "2 2097152",
            id="v1",
        ),
        pytest.param(
            V1.format("/"),
            {"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"},
            f"0 {NO_LIMIT}",
            id="v1 unlimited",
        ),
        pytest.param(V2.format("/"), {"cpu.max": "garbage", "memory.max": "-5"}, f"0 {NO_LIMIT}", id="garbage"),
        pytest.param(V2.format("/"), {"cpu.max": "1000 0", "memory.max": ""}, f"0 {NO_LIMIT}", id="zero period"),
        pytest.param("0:\n::\n\n:", {}, f"0 {NO_LIMIT}", id="malformed list"),
    ],
)
def test_cgroup(build_c: BuildC, tmp_path: Path, own: str, files: dict[str, str], expected: str) -> None:
    source = [HERE / "unit_cgroup.c", *core_files("cgroup", "text_file")]
    program = build_c("unit_cgroup", source, sanitizer="plain", flags=["-Wl,--wrap=open"])
    if own:
        (tmp_path / "proc" / "self").mkdir(parents=True)
        (tmp_path / "proc" / "self" / "cgroup").write_text(own)
    for name, text in files.items():
        path = tmp_path / "sys" / "fs" / "cgroup" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    assert run(program, str(tmp_path)).strip() == expected
