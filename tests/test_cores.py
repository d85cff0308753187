"""How many threads by default: csrc/base/cores.c, and csrc/base/topology.c on trees that stand in for /sys."""

from __future__ import annotations

import random
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import pytest
from support import ROOT, BuildC, core_files

HERE = ROOT / "tests/c"
pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="wraps functions as GNU's linker does")
Files = dict[str, str]  # by name under /sys/devices


@dataclass(frozen=True, slots=True)
class Core:
    cpus: str  # a list, as everywhere in /sys
    l2: str = "1024K"
    shared: str = ""  # the processors that share its L2 cache; "": its own
    capacity: int | None = None


def members(cpus: str) -> list[int]:
    ranges = [part.split("-") for part in cpus.split(",")]
    return [cpu for ends in ranges for cpu in range(int(ends[0]), int(ends[-1]) + 1)]


def cache(level: int, kind: str, size: str, shared: str) -> Files:
    return {"level": f"{level}\n", "type": f"{kind}\n", "size": f"{size}\n", "shared_cpu_list": f"{shared}\n"}


def machine(*cores: Core, siblings: str = "core_cpus_list", **others: str) -> Files:
    """Caches of data and instructions, an L2 and an L3 cache for each core; `others`: lists such as cpu_core."""
    files = {f"{name}/cpus": text for name, text in others.items()}
    for core in cores:
        shared = core.shared or core.cpus
        caches = [cache(1, "Data", "32K", core.cpus), cache(1, "Instruction", "64K", core.cpus)]
        caches += [cache(2, "Unified", core.l2, shared), cache(3, "Unified", "32768K", "0-63")]
        for cpu in members(core.cpus):
            folder = f"system/cpu/cpu{cpu}"
            files[f"{folder}/topology/{siblings}"] = f"{core.cpus}\n"
            if core.capacity is not None:
                files[f"{folder}/cpu_capacity"] = f"{core.capacity}\n"
            for i, of_cache in enumerate(caches):
                files |= {f"{folder}/cache/index{i}/{name}": text for name, text in of_cache.items()}
    return files


def without(files: Files, *parts: str) -> Files:
    return {name: text for name, text in files.items() if not any(part in name for part in parts)}


def alike(cpus: Iterable[int], capacity: int | None = None, l2: str = "1024K", shared: str = "") -> list[Core]:
    return [Core(str(cpu), l2, shared, capacity) for cpu in cpus]


PLAIN = machine(*alike(range(2)))
SMT = [Core(f"{cpu},{cpu + 4}") for cpu in range(4)]
HYBRID = machine(
    *(Core(f"{cpu}-{cpu + 1}", "1280K") for cpu in range(0, 12, 2)),
    *alike(range(12, 16), l2="2048K", shared="12-15"),
    *alike(range(16, 20), l2="2048K", shared="16-19"),
    cpu_core="0-11\n",
    cpu_atom="12-19\n",
)
LITTLE = alike(range(4), 446, "512K", "0-3")
BIG_LITTLE = machine(*LITTLE, *alike(range(4, 8), 1024, "2048K", "4-7"))
PHONE = machine(*alike(range(4), 325, "128K"), *alike(range(4, 7), 900, "512K"), *alike([7], 1024))
UNEQUAL_PHONE = machine(*alike(range(4), 160, "128K"), *alike(range(4, 7), 763, "256K"), *alike([7], 1024))
BOARD = machine(*alike(range(4), 530, "128K"), *alike(range(4, 8), 1024, "512K"))
SPLIT = {
    f"system/cpu/cpu0/cache/index{i}/{name}": text
    for i, (kind, size) in enumerate([("Data", "256K"), ("Data", "32K"), ("Instruction", "512K"), ("Data", "256K")])
    for name, text in cache(1 if i < 2 else 2, kind, size, "0").items()
}

CASES = {
    "plain": (PLAIN, "0-1", 2, 1024),
    "plain, one allowed": (PLAIN, "1", 1, 1024),
    "SMT": (machine(*SMT), "0-7", 4, 1024),
    "SMT, both of one core": (machine(*SMT), "1,5", 1, 1024),
    "SMT, three of two cores": (machine(*SMT), "1,5-6", 2, 1024),
    "SMT, by the older name": (machine(*SMT, siblings="thread_siblings_list"), "0-7", 4, 1024),
    "SMT, numbered side by side": (machine(*(Core(f"{cpu}-{cpu + 1}") for cpu in range(0, 8, 2))), "0-7", 4, 1024),
    "SMT of four": (machine(Core("0-3"), Core("4-7", "512K")), "0-7", 2, 512),
    "offline processors": (machine(Core("0"), Core("1,5"), Core("3,7")), "0-1,3,5,7", 3, 1024),
    "one core of four offline processors": (machine(Core("0,2-3")), "0,2-3", 1, 1024),
    "SMT that shares L2": (machine(*(Core(c.cpus, "4096K", "0-7") for c in SMT)), "0-7", 4, 1024),
    "hybrid": (HYBRID, "0-19", 6, 1280),
    "hybrid, some of both": (HYBRID, "0-2,12-13", 2, 1280),
    "hybrid, small cores only": (HYBRID, "12-19", 8, 512),
    "hybrid, without list of small cores": (without(HYBRID, "cpu_atom"), "0-19", 6, 1280),
    "big and little": (BIG_LITTLE, "0-7", 4, 512),
    "big and little, one big": (BIG_LITTLE, "0-4", 1, 512),
    "little only": (BIG_LITTLE, "0-3", 4, 128),
    "little and big at half": (BOARD, "0-7", 4, 512),
    "prime, big, little": (PHONE, "0-7", 4, 512),
    "prime, slower big, little": (UNEQUAL_PHONE, "0-7", 4, 256),
    "prime and little": (PHONE, "0,7", 1, 1024),
    "four alike": (machine(*alike(range(4), 1024, "1024K", "0-3")), "0-3", 4, 256),
    "turbo of some": (machine(*alike(range(6), 980), *alike([6, 7], 1024)), "0-7", 8, 1024),
    "capacity of some only": (machine(*alike(range(2), 100), *alike([2, 3])), "0-3", 4, 1024),
    "second of a fast core": (machine(Core("0-1", capacity=1024), Core("2", capacity=99)), "1-2", 1, 1024),
    "nothing": ({}, "0-3", 4, 0),
    "no caches": (without(machine(*SMT), "cache"), "0-7", 4, 0),
    "no sharers": (without(machine(*SMT), "shared_cpu_list"), "0-7", 4, 1024),
    "no size": (without(machine(*SMT), "size"), "0-7", 4, 0),
    "no L2": (without(machine(*SMT), "index2"), "0-7", 4, 0),
    "no siblings": (without(machine(*SMT), "topology"), "0-7", 8, 512),
    "L2 for data and instructions": (SPLIT, "0", 1, 256),
    "far numbers": (machine(*alike([0, 1023, 1024, 65535])), "0,1023-1024,65535", 4, 1024),
}


def write(folder: Path, files: Files) -> str:
    for name, text in files.items():
        path = folder / "sys/devices" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text.encode())
    return str(folder)


@pytest.fixture
def program(build_c: BuildC, sanitizer: str) -> Path:
    sources = [HERE / "unit_topology.c", *core_files("topology", "cpu_set", "text_file")]
    return build_c("unit_topology", sources, sanitizer=sanitizer, flags=["-Wl,--wrap=open"])


def run(program: Path, *arguments: str) -> list[list[int]]:
    done = subprocess.run([program, *arguments], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return [[int(number) for number in line.split()] for line in done.stdout.splitlines()]


def test_lists(program: Path) -> None:
    run(program)


def test_machines(program: Path, tmp_path: Path) -> None:
    arguments = []
    for i, (files, allowed, _, _) in enumerate(CASES.values()):
        arguments += [write(tmp_path / str(i), files), allowed]
    found = {name: tuple(line[:2]) for name, line in zip(CASES, run(program, *arguments), strict=True)}
    assert found == {name: (cores, kilobytes << 10) for name, (_, _, cores, kilobytes) in CASES.items()}


HOSTILE = ["", "\n", "abc", "-1", "-", "0-", "0", "1", "5-2", "0-1", "0,", "0,,1", "0-4294967295", "9" * 40, "é", "0x4"]
HOSTILE += ["\0", "0\0", "0-65535", "65535", "65536", "0-63,4000", "1,0", "2", "2\nK", "0K", "-1024K", "1K", "K"]
HOSTILE += ["1024M", "9" * 5000, ",".join(map(str, range(0, 60000, 2))), "0-9," * 2000, " 1", "Unified", "Instruction"]


@pytest.mark.parametrize("kept", [0, 0.5, 0.95])
def test_hostile_files(program: Path, tmp_path: Path, kept: float) -> None:
    """Whatever stands there, the cores are at least one and at most the allowed processors, and the work is bounded."""
    rng = random.Random(kept)
    usual = list(HYBRID) + [f"system/cpu/cpu{cpu}/cpu_capacity" for cpu in range(20)]
    arguments, most = [], []
    for i in range(40):
        texts = {name: rng.choice(HOSTILE) for name in usual}
        texts |= {name: text for name, text in HYBRID.items() if rng.random() < kept}
        allowed = sorted(rng.sample(range(24), rng.randint(1, 24)))
        arguments += [write(tmp_path / str(i), texts), ",".join(map(str, allowed))]
        most.append(len(allowed))
    for (cores, _, opened), allowed in zip(run(program, *arguments), most, strict=True):
        assert 1 <= cores <= allowed and opened <= 30 * allowed


def test_folders_and_loops(program: Path, tmp_path: Path) -> None:
    """Folders where files should be, and links that lead nowhere."""
    cpu = tmp_path / "sys/devices/system/cpu"
    (cpu / "cpu0/topology/core_cpus_list").mkdir(parents=True)
    (cpu / "cpu0/cpu_capacity").symlink_to("cpu_capacity")
    (cpu / "cpu1").symlink_to("cpu0")
    (cpu / "cpu2").write_text("")
    long_name = str(tmp_path) + "/." * 2100
    assert [line[:2] for line in run(program, str(tmp_path), "0-2", long_name, "0-2")] == [[3, 0], [3, 0]]


def test_few_files_are_read(program: Path, tmp_path: Path) -> None:
    """A context on a large machine costs a few files a core."""
    servers = [machine(*alike(range(64), 1024)), machine(*(Core(f"{cpu},{cpu + 32}") for cpu in range(32)))]
    arguments = [text for i, files in enumerate(servers) for text in (write(tmp_path / str(i), files), "0-63")]
    found = run(program, *arguments)
    assert [line[0] for line in found] == [64, 32]
    assert found[0][2] <= 2 * 64 + 33 and found[1][2] <= 32 + 42


@pytest.mark.parametrize("case", ["two_numbers", "quota", "unknown"])
def test_cores(build_c: BuildC, sanitizer: str, case: str) -> None:
    flags = ["-Wl,--wrap=sched_getaffinity,--wrap=flm_cgroup_cpus,--wrap=flm_topology_read,--wrap=sysconf"]
    sources = [HERE / "unit_cores.c", *core_files("cores", "cpu_set", "text_file")]
    program = build_c("unit_cores", sources, sanitizer=sanitizer, flags=flags)
    assert subprocess.run([program, case], timeout=60, check=False).returncode == 0
