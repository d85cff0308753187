"""Other people's clients on their main paths: litellm and LangChain, where they are installed.

They have requirements of their own, so that they are mostly in an environment of their own: `pip install litellm
langchain-openai` beside `fastlm[test]`, then `pytest tests/server/test_other_clients.py`.
"""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from served import Running

import fastlm

Models = dict[str, fastlm.Model]
HELLO: list[Any] = [{"role": "system", "content": "s"}, {"role": "user", "content": "Hello"}]
OPTIONS: dict[str, Any] = {"max_tokens": 12, "temperature": 0}


@pytest.fixture
def said(models: Models) -> str:
    """What the model answers alone."""
    return models["chat"].chat(HELLO, **OPTIONS).text


def test_litellm(server: Running, models: Models, said: str) -> None:
    litellm = pytest.importorskip("litellm")
    place: dict[str, Any] = {"api_base": f"{server.url}/v1", "api_key": "none", "num_retries": 0}
    done = litellm.completion(model="openai/chat", messages=HELLO, **OPTIONS, **place)
    assert done.choices[0].message.content == said and done.usage.completion_tokens > 0
    chunks = litellm.completion(model="openai/chat", messages=HELLO, stream=True, **OPTIONS, **place)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == said
    done = asyncio.run(litellm.acompletion(model="openai/chat", messages=HELLO, **OPTIONS, **place))
    assert done.choices[0].message.content == said
    text = litellm.text_completion(model="text-completion-openai/box", prompt="Once", **OPTIONS, **place)
    assert text.choices[0].text == models["box"].generate("Once", **OPTIONS).text
    vectors = litellm.embedding(model="openai/vectors", input=["the animal", "who"], **place)
    own = models["vectors"].embed(["the animal", "who"])
    for given, wanted in zip(vectors.data, own, strict=True):
        assert given["embedding"] == pytest.approx(wanted.tolist(), rel=1e-5)
    with pytest.raises(litellm.exceptions.NotFoundError):
        litellm.completion(model="openai/none", messages=HELLO, **place)
    with pytest.raises(litellm.exceptions.BadRequestError):
        litellm.completion(model="openai/chat", messages=HELLO, **{**OPTIONS, "max_tokens": -1}, **place)


def test_langchain(server: Running, models: Models, said: str) -> None:
    langchain = pytest.importorskip("langchain_openai")
    place: dict[str, Any] = {"base_url": f"{server.url}/v1", "api_key": "none", "max_retries": 0}
    chat = langchain.ChatOpenAI(model="chat", **OPTIONS, **place)
    messages = [(one["role"], one["content"]) for one in HELLO]
    answer = chat.invoke(messages)
    assert answer.content == said and answer.usage_metadata["output_tokens"] > 0
    assert "".join(chunk.content for chunk in chat.stream(messages)) == said
    assert [one.content for one in chat.batch([messages, messages])] == [said, said]
    assert asyncio.run(chat.ainvoke(messages)).content == said
    texts = langchain.OpenAI(model="box", **OPTIONS, **place)
    assert texts.invoke("Once") == models["box"].generate("Once", **OPTIONS).text
    vectors = langchain.OpenAIEmbeddings(model="vectors", check_embedding_ctx_length=False, **place)
    assert vectors.embed_query("who") == pytest.approx(models["vectors"].embed("who").tolist(), rel=1e-5)
