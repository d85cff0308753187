"""Grammars that take too long to compile: what waits for them, and for how long."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from grammar_models import save_bytes_model

import fastlm
from fastlm.structured import compiling, library

pytest.importorskip("llguidance")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Iterator[fastlm.Model]:
    with fastlm.load(save_bytes_model(tmp_path_factory.mktemp("model")), threads=1) as loaded:
        yield loaded


def test_compiling_has_bounds(model: fastlm.Model, monkeypatch: pytest.MonkeyPatch) -> None:
    """What takes too long is given up, and goes on; as many as may do so are all there are, until they end."""
    made, end = library._made, threading.Event()

    def slow(*args: Any) -> library.Matcher:
        end.wait(60)
        return made(*args)

    monkeypatch.setattr(library, "_made", slow)
    monkeypatch.setattr(compiling, "SECONDS", 0.02)
    for i in range(compiling.AT_A_TIME):
        with pytest.raises(fastlm.UnsupportedError, match=r"regex: takes longer than 0\.02 s to compile"):
            model.generate("Once", regex=f"slow{i}")
    with pytest.raises(fastlm.StateError, match="regex: 4 grammars are compiled already"):
        model.generate("Once", regex="slow")
    end.set()
    monkeypatch.setattr(compiling, "SECONDS", 60.0)
    assert model.generate("Once", regex="slow").text == "slow"


def test_compiling_holds_no_thread_of_a_loop(model: fastlm.Model, monkeypatch: pytest.MonkeyPatch) -> None:
    made, end = library._made, threading.Event()

    def slow(*args: Any) -> library.Matcher:
        assert end.wait(60)
        return made(*args)

    async def ask() -> str:
        asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(1))
        asked = asyncio.create_task(model.agenerate("Once", regex="held"))
        await asyncio.sleep(0.02)
        await asyncio.to_thread(end.set)
        return (await asked).text

    monkeypatch.setattr(library, "_made", slow)
    assert asyncio.run(ask()) == "held"
