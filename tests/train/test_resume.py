"""Killed at any moment, a run goes on and ends as the unbroken one does; nothing half-written is left."""

from __future__ import annotations

import json
import os
import random
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from train.toy import SHAPE, VOCAB, recipe

from fastlm.train import folders
from fastlm.train.folders import PARTIAL
from fastlm.train.scratch import train

KILLS = 20
STEPS = 40
WHOLE = {"config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "training.json", "README.md"}


def run(corpus: Path, out: Path) -> Path:
    how = recipe(steps=STEPS, eval_every=15, save_seconds=0.0, dropout=0.1)
    return train([corpus], out, vocab=VOCAB, shape=SHAPE, recipe=how)


def outcome(out: Path) -> tuple[bytes, bytes, object]:
    """All that a run decides on."""
    log = json.loads((out / "training.json").read_text())
    return (out / "model.safetensors").read_bytes(), (out / "tokenizer.json").read_bytes(), log


def in_child(action: Callable[[], object]) -> int:
    """Process id of a child that does it; a fork, so that torch is loaded once."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
            action()
            status = 0
        finally:
            os._exit(status)
    return child


def check_folders(out: Path) -> None:
    """What is there is whole."""
    for path in [*out.parent.iterdir(), *(out.parent / (out.name + ".run")).glob("*")]:
        if path.name.endswith(PARTIAL):
            continue
        if path == out:
            assert {p.name for p in path.iterdir()} >= WHOLE
            outcome(out)
        elif path.name.startswith("step-"):
            assert {p.name for p in path.iterdir()} == {"state.pt", "state.json"}
            torch.load(path / "state.pt", weights_only=True)
            assert json.loads((path / "state.json").read_text())["step"] == int(path.name[5:])
        elif path.name == "tokenizer":
            assert {p.name for p in path.iterdir()} == {"tokenizer.json", "tokenizer_config.json"}


@pytest.fixture(scope="module")
def unbroken(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[bytes, bytes, object]:
    torch.set_num_threads(1)  # before the forks: a child has no threads of its parent
    return outcome(run(corpus, tmp_path_factory.mktemp("unbroken") / "out"))


def test_random_kills(corpus: Path, tmp_path: Path, unbroken: tuple[bytes, bytes, object]) -> None:
    draw = random.Random(0)
    kills = finished = 0
    while kills < KILLS or not finished:
        out = tmp_path / f"out{finished}"
        child = in_child(lambda out=out: run(corpus, out))
        time.sleep(draw.uniform(0.0, 0.6))
        if kills < KILLS:
            os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        check_folders(out)
        if os.WIFSIGNALED(status):
            kills += 1
            continue
        assert os.WEXITSTATUS(status) == 0 and outcome(out) == unbroken
        finished += 1
    left = {path.name for path in tmp_path.iterdir()}
    assert left - {f"out{finished}", f"out{finished}.run", f"out{finished}{PARTIAL}"} == {
        f"out{n}" for n in range(finished)
    }


def test_kills_at_every_kind_of_write(corpus: Path, tmp_path: Path, unbroken: tuple[bytes, bytes, object]) -> None:
    """Dies at the n-th sync: before, while and after each folder of a run gets its name."""
    whole = count_syncs(corpus, tmp_path / "counted")
    points = [*range(12), *range(12, whole, whole // 6), *range(whole - 12, whole)]
    out = tmp_path / "out"
    for point in points:
        child = in_child(lambda point=point: dying_at(point, lambda: run(corpus, out)))
        _, status = os.waitpid(child, 0)
        check_folders(out)
        if not os.WIFSIGNALED(status):
            assert os.WEXITSTATUS(status) == 0
            break
    run(corpus, out)
    assert outcome(out) == unbroken
    assert {path.name for path in tmp_path.iterdir()} == {"out", "counted"}


def dying_at(point: int, action: Callable[[], object]) -> None:
    sync, seen = folders._sync, [0]

    def dying(path: Path) -> None:
        if seen[0] == point:
            os.kill(os.getpid(), signal.SIGKILL)
        seen[0] += 1
        sync(path)

    folders._sync = dying
    action()


def count_syncs(corpus: Path, out: Path) -> int:
    sync, seen = folders._sync, []

    def counting(path: Path) -> None:
        seen.append(path)
        sync(path)

    folders._sync = counting
    try:
        run(corpus, out)
    finally:
        folders._sync = sync
    return len(seen)
