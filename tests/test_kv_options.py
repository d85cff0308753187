"""load(kv_bytes=, prefix_cache=): how much memory keys and values may take, and whether prompts share them."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from models import save_llama

import fastlm
from fastlm.cli import main
from fastlm.errors import ModelMemoryError, ParameterError

PROMPT = [i % 90 for i in range(200)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_llama(tmp_path_factory.mktemp("tiny") / "model")


def test_errors_name_the_argument_that_helps(folder: Path) -> None:
    with fastlm.load(folder) as model:
        per_token = model.memory()["kv_bytes_per_token"]
        expected = model.generate(PROMPT, max_tokens=5).token_ids
    with fastlm.load(folder, kv_bytes=128 * per_token) as model:
        assert model.memory()["kv_bytes"] == 128 * per_token
        with pytest.raises(ModelMemoryError, match="raise `kv_bytes`"):
            model.generate(PROMPT, max_tokens=5)
        with pytest.raises(ModelMemoryError, match="raise `kv_bytes`"):
            model.forward(PROMPT)
    with fastlm.load(folder, kv_bytes=256 * per_token) as model:
        assert model.generate(PROMPT, max_tokens=5).token_ids == expected
    with pytest.raises(ModelMemoryError, match="kv_bytes is 1, but one page"):
        fastlm.load(folder, kv_bytes=1)


@pytest.mark.parametrize("kv_bytes", [None, 10**15, 2**63])
def test_a_limit_that_is_never_reached(folder: Path, kv_bytes: int | None) -> None:
    with fastlm.load(folder, kv_bytes=kv_bytes) as model:
        assert model.generate(PROMPT, max_tokens=1).usage.completion_tokens == 1


@pytest.mark.parametrize("prefix_cache", [True, False])
def test_prefix_cache(folder: Path, prefix_cache: bool) -> None:
    with fastlm.load(folder, prefix_cache=prefix_cache) as model:
        first, second = (model.generate(PROMPT, max_tokens=5) for _ in range(2))
        assert first.usage.cached_tokens == 0
        assert (second.usage.cached_tokens > 0) == prefix_cache
        assert second.token_ids == first.token_ids


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"kv_bytes": 0}, "kv_bytes must be at least 1, not 0"),
        ({"kv_bytes": -5}, "kv_bytes must be at least 1"),
        ({"kv_bytes": 2**63 + 1}, "kv_bytes"),
        ({"kv_bytes": 1e9}, "kv_bytes must be an integer"),
        ({"kv_bytes": True}, "kv_bytes must be an integer"),
        ({"kv_bytes": "1GB"}, "kv_bytes must be an integer"),
        ({"prefix_cache": None}, "prefix_cache must be True or False, not None"),
        ({"prefix_cache": 1}, "prefix_cache must be True or False, not 1"),
    ],
)
def test_wrong_values(folder: Path, options: dict[str, Any], text: str) -> None:
    with pytest.raises(ParameterError, match=text):
        fastlm.load(folder, **options)


def test_command_line(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info", str(folder), "--kv-bytes", "1"]) == 1
    assert "kv_bytes is 1" in capsys.readouterr().err
    assert main(["info", str(folder), "--kv-bytes", "1000000"]) == 0


def pages(path: Path, n: int) -> fastlm.Model:
    """With memory for n pages."""
    with fastlm.load(path, dtype="float32", threads=1) as model:
        page = 64 * model.memory()["kv_bytes_per_token"]
    return fastlm.load(path, dtype="float32", threads=1, kv_bytes=n * page)


def test_a_known_prefix_takes_no_page_that_was_promised(folder: Path) -> None:
    """The first request was promised three pages of four, two of which are kept for a prefix that the second has."""
    prompt = [5 + i % 80 for i in range(130)]
    requests = [
        fastlm.Request([7], max_tokens=140, ignore_eos=True),
        fastlm.Request(prompt, max_tokens=20, ignore_eos=True),
    ]
    with fastlm.load(folder, dtype="float32", threads=1) as model:
        expected = [done.token_ids for done in model.batch(requests)]
    with pages(folder, 4) as model:
        model.generate(prompt, max_tokens=1)
        with model.session() as idle:
            idle.generate([9], max_tokens=1)
            assert [done.token_ids for done in model.batch(requests)] == expected


def test_several_texts_wait_for_memory_as_one_does(folder: Path) -> None:
    prompt = [5 + i % 80 for i in range(60)]

    async def ask(model: fastlm.Model) -> None:
        for _ in range(5):
            stream = model.astream(prompt, max_tokens=190, ignore_eos=True)  # which needs all pages
            await anext(stream)
            done = await model.agenerate(prompt[::-1], max_tokens=3, ignore_eos=True, n=2)
            await stream.aclose()
            assert done.token_ids == done.alternatives[0].token_ids and len(done.token_ids) == 3

    with pages(folder, 4) as model:
        asyncio.run(ask(model))
