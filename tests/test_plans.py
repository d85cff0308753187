"""What the core makes of a spec: the golden plans, and the rules of where threads meet."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from core_structs import ISAS
from plans import GOLDEN, NAMES, path_of, plan_of
from random_models import build, exotic_spec, usable

ALL = sorted(path.parent.name for path in GOLDEN.glob("*/config.json"))


def operations(plan: str) -> list[tuple[str, str]]:
    """Kind and line of each operation, in order."""
    lines = [line for line in plan.splitlines() if line[:4].strip().isdigit()]
    return [(line[23:].split()[0], line) for line in lines]


@pytest.mark.parametrize("name", NAMES)
def test_golden_plans(name: str) -> None:
    """If a change of the plan is meant, write them anew with tests/plans.py."""
    assert plan_of(name) == path_of(name).read_text()


@pytest.mark.parametrize("name", ALL)
def test_threads_go_on_without_a_barrier_only_to_attend(name: str) -> None:
    found = operations(plan_of(name))
    assert len(found) > 5
    for (kind, line), (following, _) in zip(found, [*found[1:], ("end", "")], strict=True):
        assert line.count("| barrier") == 1
        if "barrier unless heads are owned" in line:
            assert (kind, following) == ("finish_qkv", "attend"), line


def test_threads_meet_after_a_source_is_stored() -> None:
    """What follows is the next layer's product, which overwrites K and V."""
    stored = [line for kind, line in operations(plan_of("t5")) if kind == "finish_qkv" and "source_kv" in line]
    assert len(stored) == 2 and all(line.endswith("| barrier") for line in stored)


@pytest.mark.parametrize("isa", ISAS)
def test_plans_are_the_same_everywhere(isa: str) -> None:
    if not usable(isa):
        pytest.skip(f"this processor has no {isa}")
    texts = {build(exotic_spec(), threads=n, isa=name)[1].plan() for name in (isa, "scalar") for n in (1, 2)}
    assert len(texts) == 1


@pytest.mark.parametrize("format", ["int8", "int4"])
def test_quantised_plans_say_what_is_fused(format: str) -> None:
    plan = build(exotic_spec(), threads=1, format=format)[1].plan()
    assert plan.count(f"fused quantize {format}") == 2  # the products of its one feed-forward layer
    assert "expert_quant" in plan and "if there are several tokens" not in plan


def test_an_unfinished_model_has_no_plan() -> None:
    from fastlm import _core
    from fastlm.arch.spec import encode

    assert _core.Model.create(_core.Context(1), encode(exotic_spec()), format="float32").plan() == ""


def test_info_prints_the_plan(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "fastlm", "info", GOLDEN / "llama", "--plan", "--dtype", "float32"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=True)
    assert done.stdout == path_of("llama").read_text()
