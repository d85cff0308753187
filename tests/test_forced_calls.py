"""Answers that must be calls, in each format: what a model of random weights writes is parsed, and valid."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from grammar_models import closing_bias, save_bytes_model
from models import byte_shape, save_llama
from tokenizers import AddedToken, Tokenizer

import fastlm
from fastlm.structured.grammar import Grammar
from fastlm.structured.grammars import Grammars
from fastlm.tasks.calls import FORMATS
from fastlm.tasks.forcing import call_of, functions_of

pytest.importorskip("llguidance")

WEATHER = {
    "type": "object",
    "properties": {
        "city": {"type": "string"},
        "days": {"type": "integer", "minimum": 1, "maximum": 30},
        "warm": {"type": "boolean"},
    },
    "required": ["city", "days"],
    "additionalProperties": False,
}
TIME = {"type": "object", "properties": {"zone": {"$ref": "#/$defs/zone"}}, "$defs": {"zone": {"enum": ["a", "b"]}}}
FLAT = {"type": "object", "properties": {"n": {"type": "integer"}, "s": {"type": "string"}}}


def tool(name: str, parameters: Any) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, "parameters": parameters}}


TOOLS = [tool("weather", WEATHER), tool("time", TIME), {"type": "function", "function": {"name": "now"}}]
ASKED = [{"role": "user", "content": "How is it?"}]
MARKS = {
    "hermes": "<tool_call></tool_call>",
    "qwen3_coder": "<tool_call><function=",
    "llama3": '{"parameters": tools',
    "mistral": "[TOOL_CALLS]",
    "mistral_named": "[TOOL_CALLS][ARGS]",
    "phi4": "<|tool_call|><|/tool_call|>",
    "granite": "<|tool_call|>",
    "functiongemma": "<start_function_call>",
}


def template(marks: str, end: str = "") -> str:
    return (
        f"{{% if tools %}}{marks}{{{{ tools | length }}}}{{% endif %}}"
        f"{{% for m in messages %}}{{{{ m.content }}}}{{% endfor %}}{end}"
    )


@pytest.mark.parametrize("form", MARKS)
def test_each_format(tmp_path: Path, form: str) -> None:
    tools = [tool("weather", WEATHER), tool("flat", FLAT)] if form == "functiongemma" else TOOLS
    schemas = {one["function"]["name"]: one["function"].get("parameters", {}) for one in tools}
    with fastlm.load(save_bytes_model(tmp_path, template(MARKS[form])), threads=1) as model:
        bias = {**closing_bias(model, 5.0), model.tokenizer.encode("<")[0]: 4.0}
        options: Any = {"max_tokens": 300, "temperature": 0.7, "logit_bias": bias}
        called = set()
        for seed in range(12):
            done = model.chat(ASKED, tools=tools, tool_choice="required", seed=seed, **options)
            if done.finish_reason != "stop":
                continue
            assert done.tool_calls is not None and done.text == ""
            (one,) = done.tool_calls
            called.add(one.name)
            if form != "qwen3_coder" or one.name != "weather":  # a text that happens to be JSON is taken as such
                jsonschema.validate(json.loads(one.arguments), schemas[one.name])
        assert called
        for seed in range(4):
            done = model.chat(ASKED, tools=tools, tool_choice="weather", seed=seed, **options)
            assert [one.name for one in done.tool_calls or ()] == ["weather"] or done.finish_reason == "length"
            posted = asyncio.run(model.achat(ASKED, tools=tools, tool_choice="weather", seed=seed, **options))
            assert (posted.text, posted.token_ids) == (done.text, done.token_ids)


PARIS = '{"city": "Paris", "days": 2}'
WRITTEN = {
    "hermes": f'<tool_call>\n{{"name": "weather", "arguments": {PARIS}}}\n</tool_call>',
    "qwen3_coder": "<tool_call>\n<function=weather>\n<parameter=city>\nParis,\n</b>\n</parameter>\n<parameter=days>\n2"
    "\n</parameter>\n</function>\n</tool_call>",
    "llama3": f'{{"name": "weather", "parameters": {PARIS}}}',
    "mistral": f'[TOOL_CALLS][{{"name": "weather", "arguments": {PARIS}}}]',
    "mistral_named": f"[TOOL_CALLS]weather[ARGS]{PARIS}",
    "phi4": f'<|tool_call|>[{{"name": "weather", "arguments": {PARIS}}}]<|/tool_call|>',
    "granite": f'<|tool_call|>[{{"name": "weather", "arguments": {PARIS}}}]',
    "functiongemma": "<start_function_call>call:weather{city:<escape>P<escape>,days:2,warm:true}<end_function_call>",
}


@pytest.mark.parametrize("form", WRITTEN)
def test_what_models_write_is_taken(model: fastlm.Model, form: str) -> None:
    """And nothing else: a call of another function is not, nor is one that ends before it is whole."""
    functions = functions_of(TOOLS[:1], "required")
    grammar = call_of(functions, FORMATS[form], json.dumps)
    ids = model.engine.prompts.ids(WRITTEN[form])
    assert accepted(model, grammar, ids) and not accepted(model, grammar, ids[:-1])
    other = model.engine.prompts.ids(WRITTEN[form].replace("weather", "whether"))
    with pytest.raises(fastlm.UnsupportedError):
        accepted(model, grammar, other)


def test_an_answer_or_a_call(model: fastlm.Model) -> None:
    """What may be either is one of them, and nothing else."""
    call = call_of(functions_of(TOOLS[:1], "required"), FORMATS["hermes"], json.dumps)
    either = Grammar("json_schema", json.dumps(FLAT), "json_schema").or_else(call)
    for text in (WRITTEN["hermes"], '{"n": 5, "s": "a"}'):
        ids = model.engine.prompts.ids(text)
        assert accepted(model, either, ids) and not accepted(model, either, ids[:-1])
        assert accepted(model, either.after('before: "so"\n'), model.engine.prompts.ids(f"so{text}"))
    with pytest.raises(fastlm.UnsupportedError):
        accepted(model, either, model.engine.prompts.ids('{"n": true}'))
    wrong = Grammar("json_schema", '{"properties": {"a": {"type": "foo"}}}', "json_schema").or_else(call)
    with pytest.raises(fastlm.ParameterError, match="json_schema: #/properties/a: Invalid type: foo"):
        accepted(model, wrong, [])


def accepted(model: fastlm.Model, grammar: Grammar, ids: list[int]) -> bool:
    """Whether a whole text is."""
    matcher = Grammars().matcher(model.engine.core, model.engine.tokenizer, model.engine.vocab, grammar)
    bits = matcher.after(0, -1)
    for n, token in enumerate(ids, 1):
        bits = matcher.after(n, token)
    return bits is None or bool(bits[256 // 32] >> 256 % 32 & 1)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Iterator[fastlm.Model]:
    with fastlm.load(save_bytes_model(tmp_path_factory.mktemp("bytes")), threads=1) as loaded:
        yield loaded


def save_with_marks(folder: Path, chat_template: str, marks: list[str], special: bool) -> Path:
    """Marks are tokens of their own, from 257 on."""
    save_bytes_model(folder, chat_template)
    library = Tokenizer.from_file(str(folder / "tokenizer.json"))
    library.add_tokens([AddedToken(mark, special=special, normalized=False) for mark in marks])
    library.save(str(folder / "tokenizer.json"))
    save_llama(folder, replace(byte_shape(end=True), vocab=257 + len(marks)))
    return folder


@pytest.mark.parametrize("special", [True, False])
def test_marks_that_are_tokens(tmp_path: Path, special: bool) -> None:
    """Special ones print nothing, and the grammar asks for the tokens."""
    save_with_marks(tmp_path, template("[TOOL_CALLS]"), ["[TOOL_CALLS]"], special)
    with fastlm.load(tmp_path, threads=1) as model:
        done = model.chat(ASKED, tools=[tool("now", {"type": "object", "maxProperties": 0})], tool_choice="now")
        assert done.token_ids[0] == 257
        assert [(one.name, one.arguments) for one in done.tool_calls or ()] == [("now", "{}")]


@pytest.mark.parametrize("special", [True, False])
@pytest.mark.parametrize("begun", [True, False])
def test_reasoning_comes_first(tmp_path: Path, begun: bool, special: bool) -> None:
    marks = template("<tool_call>", "<think></think>" + ("<think>" if begun else ""))
    save_with_marks(tmp_path, marks, ["<think>", "</think>"], special)
    with fastlm.load(tmp_path, threads=1) as model:
        options: Any = {"temperature": 1.0, "max_tokens": 250, "logit_bias": {257: 4.0, 258: 4.0}}
        answers = [model.chat(ASKED, json_schema={"enum": [1, "a"]}, seed=seed, **options) for seed in range(8)]
        calls = [model.chat(ASKED, tools=TOOLS, tool_choice="now", seed=seed, **options) for seed in range(8)]
        assert {one.finish_reason for one in answers} == {"stop"}
        assert {json.loads(one.text) for one in answers} == {1, "a"}
        for one in calls:
            assert [call.name for call in one.tool_calls or ()] == ["now"] or one.finish_reason == "length"
        thought = [bool(one.reasoning) for one in answers]
        assert sum(thought) >= 4 if begun else set(thought) == {True, False}


WRONG: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"tool_choice": "rain"}, fastlm.ParameterError, "tool_choice: there is no function 'rain' in tools; .*weather"),
    ({"tool_choice": "required", "tools": None}, fastlm.ParameterError, "there are: none"),
    ({"tool_choice": 5}, fastlm.ParameterError, "tool_choice must be"),
    ({"tool_choice": "required", "regex": "a"}, fastlm.ParameterError, "tool_choice: regex says already"),
    ({"tool_choice": "required", "tools": [{"a": 1}]}, fastlm.ParameterError, r"tools\[0\] must be a function"),
    ({"tool_choice": "f", "tools": [tool("f", [1])]}, fastlm.ParameterError, r"tools\[0\]: parameters"),
    ({"tool_choice": "f", "tools": [tool("f", {"type": "x"})]}, fastlm.ParameterError, "tool_choice: .*Invalid type"),
]


@pytest.mark.parametrize(("params", "kind", "text"), WRONG)
def test_errors(tmp_path: Path, params: dict[str, Any], kind: type[Exception], text: str) -> None:
    with (
        fastlm.load(save_bytes_model(tmp_path, template("<tool_call>")), threads=1) as model,
        pytest.raises(kind, match=text),
    ):
        model.chat(ASKED, **{"tools": TOOLS, **params})


def test_formats_that_cannot(tmp_path: Path) -> None:
    with fastlm.load(save_bytes_model(tmp_path, template("<start_function_call>")), threads=1) as model:
        deep = tool("f", {"properties": {"a": {"type": "array"}}})
        with pytest.raises(fastlm.UnsupportedError, match=r"tool_choice: .* f's 'a'"):
            model.chat(ASKED, tools=[deep], tool_choice="f")
        assert model.chat(ASKED, tools=[deep], tool_choice="none", max_tokens=3).tool_calls is None
    with (
        fastlm.load(save_bytes_model(tmp_path, template("<calls>")), threads=1) as model,
        pytest.raises(fastlm.UnsupportedError, match="tool_choice: it is not known"),
    ):
        model.chat(ASKED, tools=TOOLS, tool_choice="required")
