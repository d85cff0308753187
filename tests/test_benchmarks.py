"""benchmarks/: a run of a tiny model, and the arithmetic of its tables. Peers are not needed."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from support import ROOT

sys.path.append(str(ROOT))  # the last place: fastlm is the installed one

from benchmarks import protocol, records, report
from benchmarks.entrants import ENGINES, Entrant, Peer, entrants
from benchmarks.works import Cost, Work, parse

Json = dict[str, Any]


@pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler")
def test_command_writes_page_and_json(stories: Path, tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("# Figures\n\nwords\n")
    options = ["--work", "decode:16", "prompt:32", "--tokens", "8", "--bits", "32", "--threads", "1", "--runs", "2"]
    command = [sys.executable, "-m", "benchmarks", "--model", str(stories), *options]
    command += ["--cache", str(tmp_path / "cache"), "--out", str(page)]
    subprocess.run(command, check=True, cwd=ROOT, capture_output=True, timeout=120)
    (run,) = json.loads(page.with_suffix(".json").read_text())["runs"]
    (entrant,) = run["entrants"]
    assert {work: len(rates) for work, rates in entrant["rates"].items()} == {"decode at 16": 2, "prompt of 32": 2}
    assert 0 < entrant["shares"]["decode at 16"]["read"] < 2
    assert "read" not in entrant["shares"]["prompt of 32"] and len(entrant["reads"]["prompt of 32"]) == 2
    text = page.read_text()
    assert text.startswith("# Figures\n\nwords\n") and report.START in text
    assert str(tmp_path) not in text and str(ROOT) not in text


def test_two_builds_side_by_side(stories: Path, tmp_path: Path) -> None:
    options = ["--work", "decode:16", "--tokens", "8", "--bits", "32", "--threads", "1", "--runs", "1"]
    command = [sys.executable, "-m", "benchmarks.builds", "--before", sys.executable, "--model", str(stories), *options]
    command += ["--cache", str(tmp_path / "cache")]
    done = subprocess.run(command, check=True, cwd=ROOT, capture_output=True, timeout=120, text=True)
    head, _, row = done.stdout.strip().splitlines()
    assert "before" in head and row.startswith(f"| {stories.name} float32 | decode at 16 |")


def entrant(engine: str, bits: int, rates: Json) -> Json:
    about: Json = {"name": f"{engine} {bits}", "engine": engine, "bits": bits, "choice": "", "version": "1"}
    about |= {"details": "", "load_seconds": 1.0, "peak_bytes": 10}
    return {**about, "rates": rates, "reads": {}, "shares": {work: {} for work in rates}, "missing": {}}


def a_run(entrants: list[Json], works: list[str], model: str = "M", when: str = "1") -> Json:
    return {"model": model, "about": "", "when": when, "threads": 2, "works": works, "peaks": {}, "entrants": entrants}


def test_ratios_are_of_medians_of_equal_bits() -> None:
    work = "decode at 64"
    rates = [("fastlm", 8, [9.0, 10.0, 30.0]), ("fastlm", 4, [40.0]), ("peer", 8, [4.0, 5.0, 5.5]), ("peer", 4, [8.0])]
    table = report.Table([a_run([entrant(e, b, {work: r}) for e, b, r in rates], [work])])
    assert table.ratio(work, "peer 8") == 2.0
    assert table.ratio(work, "peer 4") == 5.0
    assert table.ratio(work, "fastlm 8") is None
    assert table.best_ratio(work, "peer") == 5.0


def test_a_new_run_takes_the_place_of_the_same_works_and_entrants() -> None:
    ours, others = entrant("fastlm", 8, {}), entrant("fastlm", 4, {})
    old = [a_run([ours], ["a", "b"]), a_run([others], ["a"]), a_run([ours], ["a"], model="N")]
    merged = records.merge(old, a_run([ours], ["a", "c"], when="2"))
    found = [(run["model"], run["when"], run["entrants"], run["works"]) for run in merged]
    assert found == [
        ("M", "1", [ours], ["b"]),
        ("M", "1", [others], ["a"]),
        ("M", "2", [ours], ["a", "c"]),
        ("N", "1", [ours], ["a"]),
    ]


def test_words_around_the_tables_stay() -> None:
    first = report.place("before\n", f"{report.START} old {report.END}")
    second = report.place(first + "after\n", f"{report.START} new {report.END}")
    assert second == f"before\n\n{report.START} new {report.END}\nafter\n"


def test_shares_of_the_bounds() -> None:
    fastlm = Entrant(ENGINES["fastlm"], "int8", 8, {}, "", ())
    decode, prompt = Work("decode", 100, 20), Work("prompt", 10)
    result = protocol.Result(fastlm, {decode.name: [5.0], prompt.name: [50.0]}, {decode.name: [1e4]})
    result.weight_bytes, result.kv_bytes = 900.0, 1.0
    cost = Cost(layers=100, head=20, words="")
    peaks = {"int8": 20400.0, "amx_int8": 0.0, "float32": 1.0}
    assert records.shares(result, decode, cost, peaks) == {"read": 5 * (900 + 110) / 1e4}
    assert records.shares(result, prompt, cost, peaks) == {"int8": 50 * (100 + 2) / 20400}


def test_only_hopeful_choices_run_larger_works(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    candidates = [Entrant(ENGINES["llama.cpp"], "Q8_0", 8, {"flash": f}, "", ()) for f in ("on", "off", "auto")]
    small, large = Work("decode", 64, 8), Work("decode", 4096, 8)
    deep = Work("decode", 512, 8)
    speeds = {"on": {small: 9.0, deep: 3.0}, "off": {small: 10.0, deep: 2.0}, "auto": {small: 5.0, deep: 99.0}}
    asked = []

    def trial(entrant: Entrant, work: Work, plan: protocol.Plan) -> float:
        asked.append((entrant.settings["flash"], work))
        return speeds[entrant.settings["flash"]][work]

    monkeypatch.setattr(protocol, "trial", trial)
    plan = protocol.Plan(tmp_path, tmp_path, [large, small], threads=2, runs=1)
    for _ in range(2):
        chosen = {e.settings["flash"]: works for e, works in protocol.choose(candidates, plan)}
        assert chosen == {"off": [small], "on": [large]}
    assert asked == [("on", small), ("off", small), ("auto", small), ("on", deep), ("off", deep)]


def test_works_and_peers_by_their_names() -> None:
    assert parse("decode:64", 32) == Work("decode", 64, 32)
    assert parse("prompt:512", 32).request() == {"do": "prompt", "tokens": 512}
    assert Peer.parse("llama.cpp/own=/env/python") == Peer("llama.cpp", "own", "/env/python")
    for text in ("decode", "decode:x", "prompt:1", "sing:3"):
        with pytest.raises(ValueError, match="a work is"):
            parse(text, 32)
    for text in ("llama.cpp", "fastlm=python", "unknown=python"):
        with pytest.raises(ValueError, match="a peer is"):
            Peer.parse(text)
    found = entrants([Peer("openvino", "", "python")], [8], ["fastlm", "openvino int8"])
    assert [e.engine.name for e in found] == ["fastlm"] + ["openvino"] * len(ENGINES["openvino"].settings)
