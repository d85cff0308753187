"""Rows of Ray's datasets through actors: the same as without Ray, also where one of the actors dies."""

from __future__ import annotations

import importlib.util
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from folder_models import BASES, TEXTS

import fastlm
import fastlm.batch
from fastlm.batch.ray import Pool, classify, embed, generate

needs_ray = pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="ray is not installed")
OPTIONS: dict[str, Any] = {"max_tokens": 12, "temperature": 0}
Rows = list[dict[str, Any]]


@pytest.fixture(scope="module")
def ray() -> Iterator[Any]:
    """A cluster on this machine, for two actors."""
    import ray

    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, object_store_memory=100 << 20)
    ray.data.DataContext.get_current().enable_progress_bars = False
    yield ray
    ray.shutdown()


def own(rows: Rows, prompt: str, **options: Any) -> Rows:
    """What the rows become without Ray; columns that a row lacks are null in tables."""
    with fastlm.load(threads=1) as model:
        found = fastlm.batch.generate(rows, model, prompt, **options)
        return [{"output": None, "finish_reason": None, "error": None, **row} for row in found]


@needs_ray
def test_texts(ray: Any) -> None:
    """Order, errors beside their rows, and parameters of rows."""
    rows: Rows = [{"id": i, "text": f"Tom had {i} cats", "own": None} for i in range(300)]
    rows[7]["own"] = '{"max_tokens": 3}'
    rows[8]["own"] = '{"max_token": 3}'
    rows[9]["text"] = "word " * 2000
    options = {**OPTIONS, "row_params": "own"}
    pool = Pool(actors=2, batch_rows=16)
    dataset = ray.data.from_items(rows, override_num_blocks=8)
    found = generate(dataset, None, "{text} and", pool=pool, **options).take_all()
    assert found == own(rows, "{text} and", **options)
    assert len(found[7]["output"]) < len(found[6]["output"])
    assert [row["id"] for row in found if row["error"]] == [8, 9] and "max_tokens" in found[8]["error"]


@needs_ray
def test_an_actor_that_dies(ray: Any) -> None:
    """Every row is answered once, and as without Ray."""
    rows: Rows = [{"id": i, "text": f"Lily saw {i} dogs"} for i in range(1200)]
    dataset = ray.data.from_items(rows, override_num_blocks=24)
    options = {**OPTIONS, "max_tokens": 24}
    mapped = generate(dataset, None, "{text}", pool=Pool(actors=2, batch_rows=50), **options)
    batches = iter(mapped.iter_batches(batch_size=50, batch_format="pyarrow", prefetch_batches=0))
    found = next(batches).to_pylist()
    before = actors()
    os.kill(before[0], signal.SIGKILL)
    for batch in batches:
        found += batch.to_pylist()
    assert len(before) == 2 and found == own(rows, "{text}", **options)


def actors() -> list[int]:
    """The processes that hold a model."""
    return sorted(int(path.name) for path in Path("/proc").glob("[0-9]*") if _is_actor(path))


def _is_actor(process: Path) -> bool:
    try:
        return (process / "cmdline").read_bytes().startswith(b"ray::MapWorker")
    except OSError:  # it has ended
        return False


@needs_ray
def test_vectors_and_labels(ray: Any, tmp_path: Path) -> None:
    rows: Rows = [{"id": i, "text": text} for i, text in enumerate([*TEXTS, "street " * 600])]
    dataset = ray.data.from_items(rows)
    folder = BASES["bert"](tmp_path / "vectors")
    found = embed(dataset, folder, "{text}", dimensions=8).take_all()
    with fastlm.load(folder, threads=1) as model:
        vectors = model.embed(TEXTS, dimensions=8)
        (*_, last) = fastlm.batch.embed(rows, model, "{text}", dimensions=8)
    np.testing.assert_array_equal([row["embedding"] for row in found[:-1]], vectors)
    assert found[-1]["embedding"] is None and found[-1]["error"] == last["error"] and "tokens" in last["error"]
    folder = BASES["label"](tmp_path / "labels")
    found = classify(dataset, folder, "{text}").take_all()
    with fastlm.load(folder, threads=1) as model:
        labels = model.classify(TEXTS)
    assert [row["labels"] for row in found[:-1]] == [[asdict(label) for label in one] for one in labels]


@needs_ray
def test_wrong_use(ray: Any) -> None:
    dataset = ray.data.from_items([{"text": "a"}])
    with fastlm.load(threads=1) as model, pytest.raises(fastlm.ParameterError, match="must be a path"):
        generate(dataset, model, "{text}")  # type: ignore[arg-type]
    with pytest.raises(fastlm.ParameterError, match=r"ray\.data\.Dataset"):
        generate([{"text": "a"}], None, "{text}")
    with pytest.raises(Exception, match="did you mean 'max_tokens'"):
        generate(dataset, None, "{text}", max_token=3).take_all()


def test_pools() -> None:
    strange = ({"actors": ()}, {"actors": (3,)}, {"actors": None}, {"load": 5})
    for wrong in (
        *strange,
        {"actors": 0},
        {"actors": (3, 2)},
        {"threads": 0},
        {"batch_rows": 0},
        {"load": {"threads": 2}},
    ):
        with pytest.raises(fastlm.ParameterError, match=next(iter(wrong))):
            Pool(**wrong)  # type: ignore[arg-type]
    with pytest.raises(fastlm.ParameterError, match="brace"):
        generate(None, None, "{")


def test_without_the_extra() -> None:
    code = (
        "import sys; sys.modules['ray'] = None\n"
        "import fastlm.batch.ray as r\n"
        "try: r.generate(None, None, '{text}')\n"
        "except r.UnsupportedError as error: print(error)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, cwd=sys.prefix)
    assert "pip install 'fastlm[ray]'" in done.stdout, done.stderr
