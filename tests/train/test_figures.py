"""Figures that other processes disturbed: measured again, and told. Needs no torch."""

from __future__ import annotations

from typing import Any

import pytest

from fastlm.train import figures
from fastlm.train.figures import Figures, least_disturbed, table


def timed(share: float | None) -> dict[str, Any]:
    return {"others_share": share, "involuntary_switches": 0}


@pytest.mark.parametrize(
    ("shares", "kept", "tries"),
    [
        ([0.0, 0.5], 0.0, 1),
        ([None, 0.5], None, 1),
        ([0.5, 0.04, 0.0], 0.04, 2),
        ([0.5, 0.3, 0.4, 0.0], 0.3, figures.TRIES),
    ],
)
def test_disturbed_figures_are_measured_again(shares: list[float | None], kept: float | None, tries: int) -> None:
    results = iter(map(timed, shares))
    assert least_disturbed(lambda: next(results)) == timed(kept)
    assert len(list(results)) == len(shares) - tries


def test_the_table_says_which_were_disturbed() -> None:
    def row(name: str, share: float | None, speed: float | None = 10.0) -> Figures:
        return Figures(name=name, parameters=1, bits={"all": 1.0}, speed=speed, others_share=share)

    quiet = [row("a", 0.0), row("b", None), row("c", 0.5, None)]
    assert len(table(quiet)) == 5 and all(line.startswith("|") for line in table(quiet))
    lines = table([*quiet, row("d", 0.43), row("e", 0.2)])
    assert lines[7:] == [
        "",
        "Tokens/s that are lower than on an idle machine: d: other processes took 43 % of the processors' time; "
        "e: other processes took 20 % of the processors' time.",
    ]
