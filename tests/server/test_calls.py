"""Reasoning and calls of functions through OpenAI's client, of a model that writes what it is made to."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator
from typing import Any

import openai
import pytest
from folder_models import save_decoder
from served import running

import fastlm
from fastlm.results import Chunk
from fastlm.server import app, writing

TEMPLATE = (
    "{% if tools %}{{ tools | tojson }}<tool_call></tool_call>{% endif %}"
    "{% for m in messages %}{{ m.role }}{{ m.content }}{{ m.tool_calls[0].function.arguments.city if m.tool_calls }}"
    "{% endfor %}<think></think>"
)
TOOLS: list[Any] = [{"type": "function", "function": {"name": "weather", "parameters": {}}}]
CALL = '{"name": "weather", "arguments": {"city": "Paris"}}'
WRITTEN = f"<think>Hm</think>Well.<tool_call>{CALL}</tool_call><tool_call>{CALL}</tool_call>"
ASKED: list[Any] = [{"role": "user", "content": "How is it?"}]


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[openai.OpenAI]:
    chat = fastlm.load(save_decoder(tmp_path_factory.mktemp("calls") / "calls", TEMPLATE), threads=1)
    unknown = fastlm.load(
        save_decoder(tmp_path_factory.mktemp("none") / "none", "{{ tools }}{{ messages }}"), beside=chat
    )
    with chat, unknown, running(app({"calls": chat, "none": unknown})) as server:
        yield openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0)


@pytest.fixture(autouse=True)
def writes(monkeypatch: pytest.MonkeyPatch) -> None:
    async def turns(engine: Any, runs: Any, whole: bool) -> AsyncIterator[list[tuple[int, Chunk]]]:
        size = len(WRITTEN) if whole else 5
        for at in range(0, len(WRITTEN), size):
            finish = "stop" if at + size >= len(WRITTEN) else None
            for run in runs:
                run.finish = finish
            yield [(index, Chunk(WRITTEN[at : at + size], [1], finish)) for index in range(len(runs))]
        for run in runs:
            run.close()

    monkeypatch.setattr(writing.posted, "turns", turns)


def test_calls(client: openai.OpenAI) -> None:
    done = client.chat.completions.create(model="calls", messages=ASKED, tools=TOOLS, n=2)
    for choice in done.choices:
        message = choice.message
        assert choice.finish_reason == "tool_calls" and message.content == "Well." and message.tool_calls is not None
        assert [call.function.name for call in message.tool_calls] == ["weather"] * 2  # type: ignore[union-attr]
        assert json.loads(message.tool_calls[0].function.arguments) == {"city": "Paris"}  # type: ignore[union-attr]
        assert message.model_extra == {"reasoning_content": "Hm"}
    answered = [*ASKED, done.choices[0].message, {"role": "tool", "tool_call_id": "1", "content": "warm"}]
    assert client.chat.completions.create(model="calls", messages=answered, tools=TOOLS).choices


def test_calls_in_a_stream(client: openai.OpenAI) -> None:
    with client.chat.completions.stream(model="calls", messages=ASKED, tools=TOOLS) as stream:
        for _ in stream:
            pass
        choice = stream.get_final_completion().choices[0]
    assert choice.finish_reason == "tool_calls" and choice.message.content == "Well."
    assert [call.function.arguments for call in choice.message.tool_calls or ()] == ['{"city": "Paris"}'] * 2


def test_without_tools_there_are_no_calls(client: openai.OpenAI) -> None:
    said = WRITTEN.partition("</think>")[2]
    for more in ({}, {"tools": TOOLS, "tool_choice": "none"}):
        done = client.chat.completions.create(model="calls", messages=ASKED, **more)  # type: ignore[call-overload]
        assert done.choices[0].message.content == said and done.choices[0].finish_reason == "stop"
    assert client.responses.create(model="calls", input="Hi").output_text == said
    with client.responses.stream(model="calls", input="Hi") as stream:
        assert "".join(event.delta for event in stream if event.type == "response.output_text.delta") == said


def test_what_is_refused(client: openai.OpenAI) -> None:
    for more, param in (({"tools": TOOLS}, "tools"), ({"tools": TOOLS, "tool_choice": "required"}, "tools")):
        with pytest.raises(openai.BadRequestError) as caught:
            client.chat.completions.create(model="none", messages=ASKED, **more)  # type: ignore[call-overload]
        assert caught.value.param == param
