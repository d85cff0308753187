"""What other processes took of the processors, from samples that are given."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from fastlm import disturbance
from fastlm.disturbance import Disturbance, Sample, between, busy_seconds, sample

TICK = 0.01  # of the texts below
STAT = """cpu  1000 200 300 9000 50 7 8 40 0 0
cpu0 600 100 100 4500 25 3 4 30 0 0
cpu1 400 100 200 4500 25 4 4 10 0 0
cpu10 1 1 1 1 1 1 1 1 0 0
intr 12345 0 0
"""


@pytest.fixture(autouse=True)
def ticks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(disturbance.os, "sysconf", lambda name: {"SC_CLK_TCK": 100}[name])


def at(wall: float, busy: float | None, own: float, switches: int = 0, processors: int = 2) -> Sample:
    return Sample(wall, processors, busy, own, switches)


@pytest.mark.parametrize(
    ("after", "share"),
    [
        pytest.param(at(20, 36, 10, 5), 0.3, id="two processors for ten seconds: 16 used, 10 by this process"),
        pytest.param(at(20, 30, 10), 0.0, id="alone"),
        pytest.param(at(20, 29.9, 10), 0.0, id="ticks are not exact"),
        pytest.param(at(20, 45, 2), 1.0, id="never more than all"),
        pytest.param(at(20, 30, 0), 0.5, id="this process slept"),
        pytest.param(at(20, 20, 10), None, id="a sandbox that shows no times"),
        pytest.param(at(20, None, 10), None, id="another system"),
        pytest.param(at(10.15, 20.2, 0.1), None, id="too short"),
        pytest.param(at(20, 30, 10, processors=1), None, id="other processors"),
    ],
)
def test_share_of_others(after: Sample, share: float | None) -> None:
    assert between(at(10, 20, 0, 3), after) == Disturbance(pytest.approx(share), after.switches - 3)


@pytest.mark.parametrize(("processors", "ticks"), [([0], 830), ([1], 710), ([0, 1], 1540), ([10], 4)])
def test_busy_seconds(processors: list[int], ticks: int) -> None:
    """User, nice, system and stolen time of these processors."""
    assert busy_seconds(STAT, processors) == pytest.approx(ticks * TICK)


@pytest.mark.parametrize("text", ["", STAT.replace("cpu1 ", "cpu2 "), "cpu0 1 2 3\ncpu1 1 2 3\n", "cpu0 a\n" * 2])
def test_texts_that_do_not_tell(text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError):
        busy_seconds(text, [0, 1])
    monkeypatch.setattr(disturbance, "STAT", tmp_path / "stat")
    assert sample().busy is None  # there is no such file
    (tmp_path / "stat").write_text(text)
    assert sample().busy is None


def test_a_sample(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "stat").write_text(STAT)
    monkeypatch.setattr(disturbance, "STAT", tmp_path / "stat")
    monkeypatch.setattr(disturbance, "_allowed", lambda: {0, 1})
    first, second = sample(), sample()
    assert first.busy == pytest.approx(15.4) and first.processors == 2
    assert 0 < first.own <= second.own and first.wall <= second.wall and first.switches <= second.switches


@pytest.mark.parametrize(("share", "is_much"), [(0.43, True), (0.1, True), (0.05, False), (0.0, False), (None, False)])
def test_what_is_told(share: float | None, is_much: bool) -> None:
    found = Disturbance(share, 7)
    assert found.is_much is is_much
    told: Any = "an unknown part" if share is None else f"{round(100 * share)} %"
    assert str(found) == f"other processes took {told} of the processors' time"
