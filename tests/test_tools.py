"""Calls of functions and reasoning, taken out of answers in each format, whole and in pieces of any size."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from folder_models import save_decoder

import fastlm
from fastlm.running import Run
from fastlm.tasks.calls import FORMATS, Format, format_of
from fastlm.tasks.replies import Reply

PARIS = ("weather", {"city": "Paris", "days": 2})
ROME = ("weather", {"city": "Rome"})


def call(name: str, arguments: dict[str, Any], key: str = "arguments") -> str:
    return json.dumps({"name": name, key: arguments})


# What a model of each format writes, what of it is text, and the calls in it.
ANSWERS = [
    ("hermes", f"Well.\n<tool_call>\n{call(*PARIS)}\n</tool_call>", "Well.\n", [PARIS]),
    ("hermes", f"<tool_call>{call(*PARIS)}</tool_call>\n<tool_call>{call(*ROME)}</tool_call>", "", [PARIS, ROME]),
    ("hermes", f"<tool_call>{call(*PARIS)}", "", [PARIS]),
    ("hermes", "<tool_call>nothing</tool_call>", "<tool_call>nothing", []),
    ("hermes", "a < b, <tool", "a < b, <tool", []),
    (
        "qwen3_coder",
        "<tool_call>\n<function=weather>\n<parameter=city>\nParis\n</parameter>\n<parameter=days>\n2\n</parameter>\n"
        "</function>\n</tool_call>",
        "",
        [PARIS],
    ),
    ("llama3", call(*PARIS, key="parameters"), "", [PARIS]),
    ("llama3", f"<|python_tag|>{call(*PARIS, key='parameters')}; {call(*ROME, key='parameters')}", "", [PARIS, ROME]),
    ("llama3", "It is {warm}.", "It is {warm}.", []),
    ("llama3", '{"no": "call"}', '{"no": "call"}', []),
    ("mistral", f"[TOOL_CALLS] [{call(*PARIS)}, {call(*ROME)}]", "", [PARIS, ROME]),
    ("mistral", f"[TOOL_CALLS]weather[ARGS]{json.dumps(PARIS[1])}", "", [PARIS]),
    ("phi4", f"<|tool_call|>[{call(*PARIS)}]<|/tool_call|>", "", [PARIS]),
    ("granite", f"<|tool_call|>[{call(*PARIS)}]", "", [PARIS]),
    (
        "functiongemma",
        "<start_function_call>call:weather{city:<escape>Paris<escape>,days:2}<end_function_call>",
        "",
        [PARIS],
    ),
]


def taken_apart(
    form: Format | None, pieces: list[str], thinks: bool = True, begun: bool = False
) -> tuple[str, str, Any]:
    reply = Reply(form, thinks, begun)
    parts = [part for i, piece in enumerate(pieces) for part in reply.push(piece, last=i + 1 == len(pieces))]
    calls = [(part.call.name, json.loads(part.call.arguments)) for part in parts if part.call is not None]
    return "".join(part.text for part in parts), "".join(part.reasoning for part in parts), calls


@pytest.mark.parametrize(("name", "answer", "text", "calls"), ANSWERS)
@pytest.mark.parametrize("size", [1, 3, 7, 10_000])
def test_formats(name: str, answer: str, text: str, calls: list[Any], size: int) -> None:
    pieces = [answer[i : i + size] for i in range(0, len(answer), size)]
    found, reasoning, called = taken_apart(FORMATS[name], pieces)
    assert (found.rstrip("\n"), reasoning, called) == (text.rstrip("\n"), "", calls)
    assert text.endswith("\n") or found.strip() == text


@pytest.mark.parametrize("size", [1, 4, 10_000])
def test_reasoning(size: int) -> None:
    def apart(answer: str, **options: Any) -> tuple[str, str, Any]:
        pieces = [answer[i : i + size] for i in range(0, len(answer), size)]
        return taken_apart(FORMATS["hermes"], pieces, **options)

    assert apart("<think>Hm </thin\n</think>\n\nYes.") == ("Yes.", "Hm </thin\n", [])
    assert apart("Hm</think>Yes.", begun=True) == ("Yes.", "Hm", [])
    assert apart("Hm", begun=True) == ("", "Hm", [])
    assert apart(f"<think>Hm</think>\n<tool_call>{call(*ROME)}</tool_call>") == ("", "Hm", [ROME])
    assert apart("<think>Hm</think>Yes.", thinks=False) == ("<think>Hm</think>Yes.", "", [])


def test_formats_are_told_apart() -> None:
    """By what templates that people use hold; another one is unknown."""
    templates = {
        "hermes": '{% for tool in tools %}...<tool_call>\\n{"name": <function-name>, "arguments": ...}\\n</tool_call>',
        "qwen3_coder": "<tool_call>\\n<function=example_function_name>\\n<parameter=p>...",
        "llama3": '{% if tools is not none %}{"name": function name, "parameters": dictionary}',
        "mistral_named": '{{ "[AVAILABLE_TOOLS]" }}{{ "[TOOL_CALLS]" }}{{ "[ARGS]" }}',
        "mistral": '{{ "[AVAILABLE_TOOLS]" }}{{ "[TOOL_CALLS]" }}',
        "phi4": "<|tool|>...<|/tool|><|tool_call|>...<|/tool_call|>",
        "granite": "<|tool_call|>",
        "functiongemma": "<start_function_declaration>...<start_function_call>call:...",
    }
    assert {name: format_of(template) for name, template in templates.items()} == FORMATS
    assert format_of("{% for m in messages %}{{ m.content }}{% endfor %}{{ tools }}") is None


TEMPLATE = (
    "{% if tools %}{{ tools | tojson }}<tool_call></tool_call>{% endif %}"
    "{% for m in messages %}{{ m.content }}{% endfor %}<think></think>"
)
TOOLS = [{"type": "function", "function": {"name": "weather", "parameters": {}}}]


def test_answers_of_a_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A model that writes what it is made to: calls and reasoning are no part of the text."""
    written = f"<think>Hm</think>Yes.<tool_call>{call(*PARIS)}</tool_call>"
    with fastlm.load(save_decoder(tmp_path, TEMPLATE), threads=1) as model:
        monkeypatch.setattr(Run, "advance", _writes(model, written))
        done = model.chat([{"role": "user", "content": "a"}], tools=TOOLS, n=2)
        assert (done.text, done.reasoning) == ("Yes.", "Hm") and done.tool_calls is not None
        assert [(c.name, json.loads(c.arguments)) for c in done.tool_calls] == [PARIS]
        assert len(done.tool_calls[0].id) == 9 and done.alternatives[0].reasoning == "Hm"
        plain = model.chat([{"role": "user", "content": "a"}])
        assert plain.tool_calls is None and plain.text.startswith("Yes.<tool_call>")


def _writes(model: fastlm.Model, text: str) -> Any:
    from fastlm.results import Chunk

    def advance(run: Any, wait_all: bool) -> Chunk:
        run.finish = "stop"
        return Chunk(text, [], "stop")

    return advance
