"""What goes by the names of models: adapters, translators, and what a key's prompts leave behind."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from adapter_folders import low_rank, save_adapter
from folder_models import save_decoder
from models import byte_shape
from served import Running, running
from translators import translator

import fastlm
from fastlm.server import app

TEXT, CHAT, VECTORS = "/v1/completions", "/v1/chat/completions", "/v1/embeddings"
HELLO = [{"role": "user", "content": "Hello"}]
LONG = "Once upon a time there was a little girl. " * 10
TEMPLATE = "{% for m in messages %}{{ m.content }}{% endfor %}"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Iterator[fastlm.Model]:
    """A decoder with a chat template and two adapters."""
    path = tmp_path_factory.mktemp("names")
    with fastlm.load(save_decoder(path / "model", TEMPLATE), threads=1) as loaded:
        for name in ("one", "two"):
            loaded.load_adapter(name, save_adapter(path / name, low_rank(byte_shape(), 4, len(name)), lora_alpha=16))
        yield loaded


def answer(server: Running, path: str, body: object, **headers: str) -> Any:
    status, _, found = server.post(path, body, **headers)
    assert status == 200, found
    return found


def test_adapters_are_models(model: fastlm.Model, tmp_path: Path) -> None:
    options: dict[str, Any] = {"max_tokens": 8, "temperature": 0}
    with running(app({"base": model})) as server:
        cards = json.loads(server.get("/v1/models")[2])["data"]
        assert [(card["id"], card.get("parent")) for card in cards] == [
            ("base", None),
            ("one", "base"),
            ("two", "base"),
        ]
        assert json.loads(server.get("/v1/models/two")[2]) == cards[2]
        texts = set()
        for name, adapter in (("base", None), ("one", "one"), ("two", "two")):
            found = answer(server, TEXT, {"model": name, "prompt": "Once", **options})
            text = found["choices"][0]["text"]
            assert text == model.generate("Once", adapter=adapter, **options).text and found["model"] == name
            texts.add(text)
            said = answer(server, CHAT, {"model": name, "messages": HELLO, **options})["choices"][0]["message"]
            assert said["content"] == model.chat(HELLO, adapter=adapter, **options).text
            vector = answer(server, VECTORS, {"model": name, "input": "Once"})["data"][0]["embedding"]
            assert vector == pytest.approx(model.embed("Once", adapter=adapter).tolist())
        assert len(texts) > 1, "the adapters must tell"
        model.load_adapter("late", save_adapter(tmp_path / "late", low_rank(byte_shape(), 2, 9)))
        assert answer(server, TEXT, {"model": "late", "prompt": "a"})
        model.unload_adapter("late")
        status, _, found = server.post(TEXT, {"model": "late", "prompt": "a"})
        assert status == 404 and found["error"]["code"] == "model_not_found" and found["error"]["param"] == "model"
        assert "known are: base, one, two" in found["error"]["message"]
    with pytest.raises(fastlm.ParameterError, match="'one' is the name of two"):
        app({"one": model})


def test_keys_share_no_prefixes(model: fastlm.Model) -> None:
    """What one key asks is found again by its own requests only, also where they are scored or made vectors of."""

    def cached(server: Running, key: str, name: str = "base") -> int:
        body = {"model": name, "prompt": LONG, "max_tokens": 2}
        usage = answer(server, TEXT, body, Authorization=f"Bearer {key}")["usage"]
        count: int = usage["prompt_tokens_details"]["cached_tokens"]
        return count

    with running(app({"base": model}, api_keys=["first", "second"])) as server:
        assert [cached(server, key) > 0 for key in ("first", "first", "second", "second")] == [0, 1, 0, 1]
        assert [cached(server, "first", "one") > 0 for _ in range(2)] == [0, 1]
        assert cached(server, "second", "one") == 0
    with running(app({"base": model})) as server:  # a key's prompts are not those of requests without one
        assert [cached(server, "none") > 0 for _ in range(2)] == [0, 1]


def test_translators(tmp_path: Path) -> None:
    """Text in, translation out: languages, beams, and a length of their own."""
    with fastlm.load(translator(tmp_path / "model", "m2m_100", "m2m_100"), threads=1) as model:
        own: dict[str, Any] = {"source_lang": "en", "target_lang": "fr", "max_tokens": 9}
        with running(app(model)) as server:

            def texts(**fields: Any) -> list[str]:
                found = answer(server, TEXT, {"model": "fastlm", "prompt": ["the cat", "the dog"], **fields})
                return [choice["text"] for choice in found["choices"]]

            for more in ({}, {"num_beams": 3}, {"num_beams": 2, "length_penalty": 0.5, "early_stopping": True}):
                wanted = [model.generate(text, **own, **more).text for text in ("the cat", "the dog")]
                assert texts(**own, **more) == wanted
            body = {"model": "fastlm", "prompt": "the cat", "ignore_eos": True, "target_lang": "fr"}
            usage = answer(server, TEXT, body)["usage"]
            assert usage["completion_tokens"] > 16
            for wrong, param in (({"target_lang": "xx"}, "target_lang"), ({"num_beams": 2, "n": 2}, "n")):
                status, _, found = server.post(TEXT, {**body, **wrong})
                assert status == 400 and found["error"]["param"] == param, found
            status, _, found = server.post(CHAT, {"model": "fastlm", "messages": HELLO})
            assert status == 400 and "chat" in found["error"]["message"]
