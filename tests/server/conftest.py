"""A running server with the packaged model and tiny ones of each kind, and clients that speak to it."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from folder_models import BASES, save_decoder
from models import Shape, add_byte_tokenizer, save_sparse_llama
from served import Running, running

import fastlm

NEEDED = ("starlette", "uvicorn", "openai")
collect_ignore_glob = [] if all(map(importlib.util.find_spec, NEEDED)) else ["test_*.py"]
SLOW = Shape(hidden=512, layers=6, heads=8, kv_heads=4, width=1536, vocab=256, context=4096)  # 4096 steps: a minute
TEMPLATE = (
    "{% for m in messages %}<{{ m.role }}>{{ m.content }}\n{% endfor %}{% if shout %}!{% endif %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, fastlm.Model]]:
    """One of each kind, on one context."""
    folder = tmp_path_factory.mktemp("models")
    box = fastlm.load(threads=1)
    paths: dict[str, Path] = {
        "chat": save_decoder(folder / "chat", TEMPLATE),
        "vectors": BASES["bert"](folder / "vectors"),
        "scores": BASES["label"](folder / "scores"),
        "slow": add_byte_tokenizer(save_sparse_llama(folder / "slow", SLOW)),
    }
    found = {"box": box, **{name: fastlm.load(path, beside=box) for name, path in paths.items()}}
    yield found
    for model in found.values():
        model.close()


@pytest.fixture(scope="session")
def server(models: dict[str, fastlm.Model]) -> Iterator[Running]:
    from fastlm.server import Limits, app

    with running(app(models, limits=Limits(body_bytes=200_000))) as one:
        yield one


@pytest.fixture(scope="session")
def client(server: Running) -> Any:
    import openai

    return openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0)
