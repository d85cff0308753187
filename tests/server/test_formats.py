"""Answers by schemas and forced calls, through OpenAI's client: whole, as streams, and refused."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import openai
import pytest
from grammar_models import closing_bias, save_bytes_model
from served import running

import fastlm
from fastlm.server import app

pytest.importorskip("llguidance")

TEMPLATE = (
    "{% if tools %}{{ tools | tojson }}<tool_call></tool_call>{% endif %}"
    "{% for m in messages %}{{ m.role }}{{ m.content }}{% endfor %}"
)
ASKED: list[Any] = [{"role": "user", "content": "How is it?"}]
SCHEMA: Any = {
    "type": "object",
    "properties": {"n": {"enum": [1, 2]}},
    "required": ["n"],
    "additionalProperties": False,
}
NAMED: Any = {"name": "answer", "schema": SCHEMA, "strict": True}
TOOLS: list[Any] = [
    {"type": "function", "function": {"name": "weather", "parameters": SCHEMA}},
    {"type": "function", "function": {"name": "time", "parameters": SCHEMA}},
]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Iterator[fastlm.Model]:
    with fastlm.load(save_bytes_model(tmp_path_factory.mktemp("formats"), TEMPLATE), threads=1) as loaded:
        yield loaded


@pytest.fixture(scope="module")
def client(model: fastlm.Model) -> Iterator[openai.OpenAI]:
    with running(app({"m": model})) as server:
        yield openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0)


@pytest.fixture
def options(model: fastlm.Model) -> dict[str, Any]:
    bias = {str(token): value for token, value in closing_bias(model, 9.0).items()}
    return {"model": "m", "temperature": 0.7, "seed": 1, "logit_bias": bias, "max_tokens": 200}


def test_response_format(client: openai.OpenAI, options: dict[str, Any]) -> None:
    schema = {"type": "json_schema", "json_schema": NAMED}
    done = client.chat.completions.create(messages=ASKED, response_format=schema, n=3, **options)
    assert all(json.loads(choice.message.content or "")["n"] in (1, 2) for choice in done.choices)
    stream = client.chat.completions.create(messages=ASKED, response_format=schema, stream=True, **options)
    text = "".join(chunk.choices[0].delta.content or "" for chunk in stream)
    assert text == done.choices[0].message.content
    anything = client.chat.completions.create(messages=ASKED, response_format={"type": "json_object"}, **options)
    if anything.choices[0].finish_reason == "stop":
        assert isinstance(json.loads(anything.choices[0].message.content or ""), dict)
    assert client.chat.completions.create(messages=ASKED, response_format={"type": "text"}, **options).choices


def test_response_format_beside_tools(client: openai.OpenAI, model: fastlm.Model, options: dict[str, Any]) -> None:
    """The answer is one of both, as the model begins it."""
    begins = {"{": None, "<": "weather"}
    schema = {"type": "json_schema", "json_schema": NAMED}
    for letter, name in begins.items():
        other = next(one for one in begins if one != letter)
        bias = {**options["logit_bias"], str(model.tokenizer.encode(other)[0]): -100.0}
        done = client.chat.completions.create(
            messages=ASKED, response_format=schema, tools=TOOLS[:1], **{**options, "logit_bias": bias}
        )
        message = done.choices[0].message
        if name is None:
            assert json.loads(message.content or "")["n"] in (1, 2) and not message.tool_calls
        else:
            assert message.tool_calls is not None and message.tool_calls[0].function.name == name  # type: ignore[union-attr]


def test_formats_of_responses(client: openai.OpenAI, options: dict[str, Any]) -> None:
    own = {"model": "m", "input": "Hi", "max_output_tokens": 200}
    text: Any = {"format": {"type": "json_schema", **NAMED}}
    done = client.responses.create(text=text, **own)
    assert json.loads(done.output_text)["n"] in (1, 2) and done.text is not None
    with client.responses.stream(text=text, **own) as stream:
        assert "".join(e.delta for e in stream if e.type == "response.output_text.delta") == done.output_text
    assert client.responses.create(text={"format": {"type": "text"}}, **own).output_text


def test_own_parameters(client: openai.OpenAI, options: dict[str, Any]) -> None:
    done = client.completions.create(prompt="a", extra_body={"regex": "[a-f]{5}"}, **options)
    assert re.fullmatch("[a-f]{5}", done.choices[0].text)
    done = client.completions.create(prompt="a", extra_body={"json_schema": SCHEMA}, **options)
    assert json.loads(done.choices[0].text)["n"] in (1, 2)
    chat = client.chat.completions.create(messages=ASKED, extra_body={"grammar": 'start: "yes" | "no"'}, **options)
    assert chat.choices[0].message.content in ("yes", "no")


def test_forced_calls(client: openai.OpenAI, options: dict[str, Any]) -> None:
    named: Any = {"type": "function", "function": {"name": "time"}}
    for choice, names in (("required", ("weather", "time")), (named, ("time",))):
        done = client.chat.completions.create(messages=ASKED, tools=TOOLS, tool_choice=choice, **options).choices[0]
        (call,) = done.message.tool_calls or ()
        assert done.finish_reason == "tool_calls" and done.message.content is None
        assert call.function.name in names  # type: ignore[union-attr]
        assert json.loads(call.function.arguments)["n"] in (1, 2)  # type: ignore[union-attr]
        with client.chat.completions.stream(messages=ASKED, tools=TOOLS, tool_choice=choice, **options) as stream:
            for _ in stream:
                pass
            (again,) = stream.get_final_completion().choices[0].message.tool_calls or ()
        assert (again.function.name, again.function.arguments) == (call.function.name, call.function.arguments)  # type: ignore[union-attr]


WRONG: list[tuple[dict[str, Any], str, str]] = [
    ({"response_format": {"type": "yaml"}}, "response_format", "no type"),
    ({"response_format": "json"}, "response_format", "object with a type"),
    ({"response_format": {"type": "json_object", "more": 1}}, "response_format", "no field 'more'"),
    ({"response_format": {"type": "json_schema"}}, "response_format", "json_schema is missing"),
    ({"response_format": {"type": "json_schema", "json_schema": {"schema": {}}}}, "response_format", "needs a name"),
    (
        {"response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": {"items": {"not": {}}}}}},
        "response_format",
        "#/items: Unimplemented",
    ),
    ({"response_format": {"type": "json_object"}, "extra_body": {"regex": "a"}}, "regex", "both"),
    ({"extra_body": {"regex": "a("}}, "regex", "unclosed"),
    ({"tool_choice": "required"}, "tool_choice", "no tools"),
    ({"tool_choice": "weather", "tools": TOOLS}, "tool_choice", "must be"),
    ({"tool_choice": {"type": "function", "function": {"name": "x"}}, "tools": TOOLS}, "tool_choice", "no function"),
]


@pytest.mark.parametrize(("more", "param", "text"), WRONG)
def test_what_is_refused(client: openai.OpenAI, more: Any, param: str, text: str) -> None:
    with pytest.raises(openai.BadRequestError, match=re.escape(text)) as caught:
        client.chat.completions.create(model="m", messages=ASKED, max_tokens=5, **more)
    assert caught.value.param == param


def test_text_has_a_format_only(client: openai.OpenAI) -> None:
    for text in ({"verbosity": "low"}, {"format": {"type": "json_schema", "name": "a"}}):
        with pytest.raises(openai.BadRequestError) as caught:
            client.responses.create(model="m", input="Hi", text=text)  # type: ignore[arg-type]
        assert caught.value.param == "text"
