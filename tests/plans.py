"""Plans of golden models as text. `python tests/plans.py` writes tests/golden/plans/ anew: read the diff then."""

from __future__ import annotations

from pathlib import Path

import fastlm

GOLDEN = Path(__file__).parent / "golden"
NAMES = ("llama", "gemma2", "mixtral", "bert", "t5")


def plan_of(name: str) -> str:
    """The operations of a golden model with float32 matrices, which are the same on every machine."""
    with fastlm.load(GOLDEN / name, dtype="float32", threads=1) as model:
        return model.engine.core.plan()


def path_of(name: str) -> Path:
    return GOLDEN / "plans" / f"{name}.txt"


if __name__ == "__main__":
    for each in NAMES:
        path_of(each).write_text(plan_of(each))
