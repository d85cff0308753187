"""benchmarks.busy: a short run of a tiny model, loads that end with whoever started them, and its arithmetic."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from models import Shape, save_llama
from support import ROOT

if not hasattr(os, "sched_getaffinity"):
    pytest.skip("benchmarks.busy needs Linux", allow_module_level=True)
sys.path.append(str(ROOT))  # the last place: fastlm is the installed one

from benchmarks import beside, busy, busy_report, options, protocol, quota, report, turns
from benchmarks.beside import Condition, Load
from benchmarks.entrants import ENGINES, Entrant
from benchmarks.worker import Unavailable, Worker
from benchmarks.workers import load
from benchmarks.works import Work

Json = dict[str, Any]
LOADS = ["loops:2", "nice:1", "pulse:50", "compile:2"]
PATIENCE = 30.0  # seconds, for what happens at once on an idle machine


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(turns, "PAUSE_SECONDS", 0.0)
    monkeypatch.setattr(turns, "LATE_SECONDS", 0.01)
    monkeypatch.setattr(beside, "SETTLE_SECONDS", 0.05)


def members(groups: list[int]) -> list[int]:
    """Processes of these groups that run; not those that have ended and that nobody has waited for."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            state, _, group = (folder / "stat").read_text().rpartition(")")[2].split()[:3]
        except OSError:
            continue  # it ended meanwhile
        if int(group) in groups and state != "Z":
            found.append(int(folder.name))
    return found


def wait_for_end(groups: list[int]) -> None:
    end = time.monotonic() + PATIENCE
    while members(groups):
        assert time.monotonic() < end, "a load is left behind"
        time.sleep(0.01)


def wait_for_compilers(groups: list[int]) -> None:
    """Until a load of compilers has started some."""
    end = time.monotonic() + PATIENCE
    while len(members(groups)) <= len(groups):
        assert time.monotonic() < end
        time.sleep(0.01)


def condition_or_skip(text: str) -> Condition:
    condition = Condition.parse(text)
    if condition.kind == "compile" and beside.shutil.which("cc") is None:
        pytest.skip("no C compiler")
    return condition


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
@pytest.mark.parametrize("text", LOADS)
def test_an_exception_ends_a_load(text: str, error: type[BaseException]) -> None:
    condition = condition_or_skip(text)
    groups: list[int] = []
    with pytest.raises(error), Load(condition) as running:
        groups += [process.pid for process in running.processes]
        if condition.kind == "compile":
            wait_for_compilers(groups)
        assert members(groups)
        raise error
    wait_for_end(groups)


@pytest.mark.parametrize("text", LOADS)
def test_a_load_ends_with_a_killed_process(text: str, tmp_path: Path) -> None:
    condition = condition_or_skip(text)
    program = (
        "import sys, time\n"
        f"sys.path.append({str(ROOT)!r})\n"
        "from benchmarks.beside import Condition, Load\n"
        f"with Load(Condition.parse({text!r})) as load:\n"
        "    print(*(process.pid for process in load.processes), flush=True)\n"
        "    time.sleep(600)\n"
    )
    command = [sys.executable, "-c", program]
    environment = {**os.environ, "TMPDIR": str(tmp_path)}  # nobody is left to remove what compilers wrote
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as starter:
        assert starter.stdout
        groups = [int(word) for word in starter.stdout.readline().split()]
        if condition.kind == "compile":
            wait_for_compilers(groups)
        assert members(groups)
        starter.kill()
    wait_for_end(groups)


def test_a_load_that_fails_to_start_leaves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    running = Load(Condition.parse("loops:2"))

    def stop() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(running, "check", stop)
    with pytest.raises(KeyboardInterrupt):
        running.__enter__()
    assert running.processes
    wait_for_end([process.pid for process in running.processes])


def test_a_load_that_has_ended_is_noticed() -> None:
    with Load(Condition.parse("loops:1")) as running:
        running.check()
        os.killpg(running.processes[0].pid, signal.SIGKILL)
        running.processes[0].wait(PATIENCE)
        with pytest.raises(RuntimeError, match="loops:1: the load ended"):
            running.check()


def test_a_load_does_not_end_whoever_else_is_in_its_group(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "getpgrp", lambda: 0)
    with pytest.raises(AssertionError, match="a session of its own"):
        load.main()


def test_command_writes_page_and_json(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Every kind of condition; a quota only where there are rights."""
    monkeypatch.setattr(protocol, "PAUSE_SECONDS", 0.0)
    model = save_llama(tmp_path / "tiny", Shape(vocab=512))
    page = tmp_path / "page.md"
    page.write_text("# Figures\n\nwords\n")
    conditions = ["nothing", "loops:1", "pulse:20", "processes:2", "quota:1", "processors:1"]
    words = ["--model", str(model), "--work", "decode:16", "prompt:24", "--tokens", "4", "--bits", "32", "--runs", "1"]
    words += ["--seconds", "0.02", "--before", sys.executable, "--threads", "2", "--latency"]
    words += ["--cache", str(tmp_path / "cache"), "--out", str(page), "--beside", *conditions]
    busy.main(words)
    found = json.loads(page.with_suffix(".json").read_text())["busy"]
    assert [run["work"] for run in found] == ["decode at 16", "prompt of 24"]
    decode, prompt = found
    names = ["default", "2 threads before"]
    assert [setting["name"] for setting in decode["settings"]] == names
    assert decode["settings"][1]["threads"] == 2
    skipped = set(decode["missing"])
    assert skipped <= {"quota:1"}
    assert set(decode["beside"]) == set(conditions) - skipped
    assert set(prompt["beside"]) == set(conditions) - skipped - {"processes:2"}
    for cells in (*decode["beside"].values(), *prompt["beside"].values()):
        for name in names:
            assert len(cells[name]["rate"]) == 1 and min(cells[name]["rate"]) > 0 < min(cells[name]["processor"])
    assert all(0 < least <= 1 for least in decode["beside"]["processes:2"]["default"]["least"])
    assert [decode["beside"]["processors:1"][name]["threads"] for name in names] == [1, 2], "it decides on the default"
    gaps = decode["beside"]["nothing"]["default"]["gaps"]
    assert len(gaps) == 1 and all(0 < gap["median"] <= gap["99 %"] <= gap["most"] for gap in gaps)
    assert "gaps" not in prompt["beside"]["nothing"]["default"]
    text = page.read_text()
    assert text.startswith("# Figures\n\nwords\n") and text.count(busy_report.START) == 1
    assert str(tmp_path) not in text and str(ROOT) not in text


def test_a_run_that_is_half_in_the_time_counts_half() -> None:
    runs = [
        [9.0, 11.0, 1.0, 10, 4.0],
        [11.0, 12.0, 0.5, 10, 1.0],
        [12.0, 14.0, 1.0, 10, 4.0],
        [14.0, 15.0, 9.0, 9, 9.0],
    ]
    turn = turns.Turn.of({"runs": runs, "gaps": []}, at=10.0, seconds=3.0)
    assert (turn.seconds, turn.tokens, turn.processor) == (1.5, 20.0, 5.0)
    late = turns.Turn.of({"runs": runs[-1:], "gaps": []}, at=10.0, seconds=3.0)
    assert (late.seconds, late.tokens, late.processor) == (9.0, 9.0, 9.0)


def test_figures_of_several_processes() -> None:
    both = [turns.Turn(1.0, 30.0, 2.0), turns.Turn(2.0, 20.0, 3.0)]
    assert turns.figures(both) == {"rate": 40.0, "least": 0.5, "processor": 0.1}
    both[0].gaps, both[1].gaps = [float(n) for n in range(1, 100)], [1000.0, 0.5]
    assert turns.gap_figures(both) == {"median": 50.0, "99 %": 99.0, "most": 1000.0}


def test_conditions_by_their_names() -> None:
    for text in (*beside.USUAL, "quota:.5"):
        condition = Condition.parse(text)
        assert Condition.parse(str(condition)) == condition and condition.words
    assert Condition.parse("loops:1").words == "1 busy loop"
    assert Condition.parse("quota:0.5").words == "a quota of 0.5 processors"
    for text in ("", "loops", "loops:0", "loops:1.5", "quota:", "quota:x", "nothing:1", "sing:3"):
        with pytest.raises(ValueError, match="a condition is"):
            Condition.parse(text)


def test_a_fair_share_of_the_processors() -> None:
    shares = {
        "nothing": 2.0,
        "loops:1": 4 / 3,
        "loops:2": 1.0,
        "loops:4": 2 / 3,
        "quota:0.5": 0.5,
        "quota:3": 2.0,
        "processors:1": 1.0,
        "processes:8": 2.0,
        "nice:2": None,
        "compile:2": None,
        "pulse:100": None,
    }
    assert {text: Condition.parse(text).fair(2) for text in shares} == shares


def a_run() -> Json:
    names = {"default": "fastlm", "1 thread": "fastlm", "2 threads before": "fastlm", "peer 8": "peer"}
    settings = [
        {"name": name, "engine": engine, "format": "int8", "threads": 2, "version": "1", "details": "", "choice": ""}
        | {"is_fixed": name not in ("default", "peer 8")}
        for name, engine in names.items()
    ]
    rates = {
        "nothing": [[100.0, 90.0, 110.0], [50.0], [101.0, 95.0, 102.0], [20.0]],
        "loops:1": [[60.0, 66.0, 54.0], [48.0, 40.0, 60.0], [10.0], [5.0]],
        "pulse:100": [[60.0], [49.0], [50.0], []],
        "processes:2": [[80.0], [90.0], [], []],
    }
    cells = {
        text: {
            name: {"rate": list(each), "least": [0.9] * len(each), "processor": [0.01] * len(each)}
            for name, each in zip(names, columns, strict=True)
            if each
        }
        for text, columns in rates.items()
    }
    about = {"model": "M", "about": "", "bits": 8, "format": "int8", "work": "decode at 64", "when": "1"}
    turn = {"processors": 2, "rounds": 3, "seconds": 1.0, "settings": settings, "beside": cells}
    return {**about, **turn, "missing": {"quota:1": "no rights"}}


def test_ratios() -> None:
    found = busy_report.Found(a_run())
    nothing, one, pulse, together = found.conditions
    assert found.best_fixed(nothing) == ("2 threads before", 101.0)
    assert found.best_fixed(one) == ("1 thread", 48.0)
    assert [found.fair(c) for c in found.conditions] == [101.0, pytest.approx(202 / 3), None, 101.0]
    assert found.fair_time(one, "default") == pytest.approx(60 * 0.01 / (4 / 3))
    assert found.fair_time(pulse, "default") is None
    assert found.oracle(pulse) == (101.0 + 60.0) / 2 and found.oracle(one) is None and found.oracle(together) is None
    text = busy_report.page([a_run()])
    assert "| 1 busy loop | 1.25 (1 thread) | 0.90 - 1.65 | 0.89 | 0.45 |  | 12.00 (8) |" in text
    assert "| a loop, 100 ms on, 100 ms off | 1.20 (2 threads before) | 1.20 - 1.20 |  |  | 0.75 |  |" in text
    assert "| 2 processes in all | 0.89 (1 thread) | 0.89 - 0.89 | 0.79 | 0.40 |  |  |" in text
    assert "- quota:1: no rights" in text


def test_both_parts_of_a_page_stay() -> None:
    first = report.place("words\n", f"{report.START} a {report.END}")
    both = report.place(first, f"{busy_report.START} b {report.END}", busy_report.START)
    again = report.place(both, f"{report.START} c {report.END}")
    assert again == f"words\n\n{report.START} c {report.END}\n\n{busy_report.START} b {report.END}\n"


def test_a_newer_run_takes_the_place_of_an_older() -> None:
    old, other = a_run(), {**a_run(), "work": "prompt of 512"}
    new = {**a_run(), "when": "2"}
    assert busy.merge([other, old], new) == [new, other]


def test_settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    decode, prompt = Work("decode", 64, 8), Work("prompt", 512)
    flash, plain = (Entrant(ENGINES["llama.cpp"], "Q8_0", 8, {"flash": f}, "", ("python",)) for f in ("on", "off"))

    def choose(candidates: list[Entrant], plan: protocol.Plan) -> list[tuple[Entrant, list[Work]]]:
        assert {c.engine.name for c in candidates} == {"llama.cpp"}
        return [(flash, [decode]), (plain, [prompt])] if plan.threads == 0 else [(plain, [decode, prompt])]

    monkeypatch.setattr(busy, "choose", choose)
    monkeypatch.setattr(busy, "processors", lambda: 4)
    words = ["--model", str(tmp_path), "--work", "decode:64", "prompt:512", "--peer", "llama.cpp=python"]
    plan = protocol.Plan(tmp_path, tmp_path, [decode, prompt], 0, 5)
    found = busy.settings(busy.options([*words, "--before", "old"]), 8, plan)
    assert [(s.name, s.threads, list(s.works), s.is_fixed) for s in found] == [
        ("default", 0, [decode, prompt], False),
        ("1 thread", 1, [decode, prompt], True),
        ("4 threads before", 4, [decode, prompt], True),
        ("llama.cpp Q8_0", 0, [decode], False),
        ("llama.cpp Q8_0", 0, [prompt], False),
        ("llama.cpp Q8_0, 1 thread", 1, [decode, prompt], False),
    ]
    assert found[2].entrant.command[0] == "old"
    found = busy.settings(busy.options([*words, "--threads", "1", "3"]), 8, plan)
    assert [(s.name, s.is_fixed) for s in found[1:3]] == [("1 thread", True), ("3 threads", False)]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--work", "batch:8"], "decode:DEPTH or prompt:TOKENS"),
        ([], "decode:DEPTH or prompt:TOKENS"),
        (["--work", "decode:8", "--beside", "songs:3"], "a condition is"),
    ],
)
def test_wrong_options(words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        busy.options(["--model", "folder", *words])
    assert message in capsys.readouterr().err


def test_real_time_is_refused_beside_something_else(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(os, "sched_getscheduler", lambda _: os.SCHED_FIFO)
    with pytest.raises(SystemExit):
        busy.options(["--model", "folder", "--work", "decode:8"])
    assert "nothing could run beside it" in capsys.readouterr().err


def test_real_time_only_where_it_is_asked_for(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError("not you")

    monkeypatch.setattr(os, "sched_setscheduler", refuse)
    parser = options.parser("", runs=1)
    options.add_team(parser)
    assert not options.parse(parser, ["--model", "folder"]).real_time
    with pytest.raises(SystemExit):
        options.parse(parser, ["--model", "folder", "--real-time"])
    assert "cannot have the priority (not you)" in capsys.readouterr().err


def test_where_control_groups_are_made() -> None:
    mounts = (
        "tmpfs /sys/fs/cgroup tmpfs rw 0 0\n"
        "cgroup /sys/fs/cgroup/cpu,cpuacct cgroup rw,cpu,cpuacct 0 0\n"
        "cgroup /sys/fs/cgroup/cpuset cgroup rw,cpuset 0 0\n"
        "cgroup2 /sys/fs/cgroup/unified cgroup2 rw 0 0\n"
    )
    own = "4:cpu,cpuacct:/box\n3:cpuset:/\n0::/user.slice\n"
    root = Path("/sys/fs/cgroup")
    assert quota.homes(mounts, own) == [
        (root / "unified/user.slice", 2),
        (root / "unified", 2),
        (root / "cpu,cpuacct/box", 1),
        (root / "cpu,cpuacct", 1),
    ]


@pytest.mark.parametrize("version", [1, 2])
def test_the_files_of_a_quota(version: int, tmp_path: Path) -> None:
    made = tmp_path / "group"
    made.mkdir()
    if version == 2:
        with pytest.raises(OSError):  # in cgroupfs, where no file can be made, this is what the missing controller does
            quota.limit(tmp_path / "nowhere", version, 1.5)
        (made / "cpu.max").write_text("max 100000")
    quota.limit(made, version, 1.5)
    found = {path.name: path.read_text() for path in made.iterdir()}
    v1 = {"cpu.cfs_period_us": "100000", "cpu.cfs_quota_us": "150000"}
    assert found == (v1 if version == 1 else {"cpu.max": "150000 100000"})


def test_without_rights_a_quota_is_missing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(quota, "homes", lambda *_: [(tmp_path / "not there", 2)])
    with pytest.raises(Unavailable, match="no rights to make a control group"), quota.group(1.0):
        pass
    monkeypatch.setattr(quota, "homes", lambda *_: [])
    with pytest.raises(Unavailable, match="no controller"), quota.group(1.0):
        pass


def test_a_condition_that_fails_is_missing_and_the_others_go_on(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    asked = []

    def turn(workers: list[Worker], *_: object) -> list[turns.Turn]:
        asked.append(len(workers))
        raise Unavailable("it sings")

    monkeypatch.setattr(busy, "take", turn)
    monkeypatch.setattr(quota, "homes", lambda *_: [])
    plan = protocol.Plan(tmp_path, tmp_path, [Work("decode", 8, 8)], 0, 2)
    measuring = busy.Measuring(plan, 1.0, False)
    entrant = Entrant(ENGINES["fastlm"], "int8", 8, {}, "", ())
    seat = busy.Seat(busy.Setting("default", entrant, 0, plan.works), plan, None, {})  # type: ignore[arg-type]
    measuring.seats.append(seat)
    measuring.run([], [Condition.parse(text) for text in ("quota:1", "nothing")])
    assert measuring.missing == {
        "quota:1": "no controller of processor time is mounted",
        "nothing, default, decode at 8": "it sings",
    }
    assert asked == [1, 1] and not measuring.found
