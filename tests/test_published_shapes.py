"""Templates in the shapes of published ones (tests/templates), against transformers: the same text, or both refuse."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fastlm.errors import FastlmError, ParameterError
from fastlm.tokenizer.chat import ChatTemplate

FOLDER = Path(__file__).parent / "templates"
TEMPLATES = {path.stem: path.read_text(encoding="utf-8") for path in sorted(FOLDER.glob("*.jinja"))}
TOKENS = {"bos_token": "<s>", "eos_token": "</s>"}

TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "weather",
            "description": "How the weather is in a café's city.",
            "parameters": {
                "type": "object",
                "properties": {
                    "city": {
                        "type": "string",
                        "description": " Its name ",
                        "enum": ["Oslo", "Pará"],
                        "default": "Oslo",
                    },
                    "days": {"type": ["integer", "null"], "description": "How many", "default": 3},
                    "hours": {
                        "type": "array",
                        "items": {"type": "array", "items": {"type": "number"}},
                        "description": "",
                    },
                    "where": {"type": "object", "properties": {"x": {"type": "boolean"}}, "description": "a <point>"},
                },
                "required": ["city"],
            },
        },
    },
    {"type": "function", "function": {"name": "now", "description": "", "parameters": {"properties": {}}}},
]
DOCUMENTS = [{"title": "One", "text": "The first.\n"}, {"title": "Två", "text": "The <second>."}]
CALL = {
    "id": "abcdefghi",
    "type": "function",
    "function": {"name": "weather", "arguments": {"city": "Pará", "days": 2}},
}


@dataclasses.dataclass
class Said:
    role: str
    content: str | None
    tool_calls: list[Any] | None = None


def user(text: str) -> dict[str, Any]:
    return {"role": "user", "content": text}


def assistant(text: str, **more: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": text, **more}


SYSTEM = {"role": "system", "content": "Be brief. /no_think"}
CONVERSATIONS: dict[str, tuple[list[Any], dict[str, Any]]] = {
    "one": ([user("  Hello, 漢字 😀 \n")], {}),
    "turns": ([user("a"), assistant("b\n"), user("c\r\n\r\nd")], {"add_generation_prompt": False}),
    "system": ([SYSTEM, user("Hi"), assistant(" Yes. "), user("<b>&\"'")], {}),
    "ended": ([SYSTEM, user("Hi"), assistant("It is so.")], {"add_generation_prompt": False}),
    "continued": ([user("Hi"), assistant("The answer is ")], {"continue_final_message": True}),
    "thinking": ([user("1+1?"), assistant("<think>\nadd\n</think>\n\n2"), user("+1?")], {}),
    "reasoning": ([user("1+1?"), assistant("2", reasoning="add"), user("?"), assistant("3", thinking="again")], {}),
    "tools": ([user("Weather?")], {"tools": TOOLS}),
    "called": (
        [
            *(SYSTEM, user("?"), {"role": "assistant", "tool_calls": [CALL]}),
            {"role": "tool", "name": "weather", "content": '{"t": -3.5}', "tool_call_id": "abcdefghi"},
            assistant("Cold."),
        ],
        {"tools": TOOLS},
    ),
    "documents": ([SYSTEM, user("Which?")], {"documents": DOCUMENTS}),
    "parts": ([{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "What?"}]}], {}),
    "objects": ([Said("user", "Hi"), Said("assistant", None, [CALL]), Said("user", "So?")], {}),
    "unordered": ([assistant("I first"), user("then I"), user("again")], {}),
    "many": ([m for i in range(30) for m in (user(f"q{i}"), assistant(f"a{i}"))], {}),
}
VARIABLES = {
    "enable_thinking": False,
    "reasoning_effort": "high",
    "date_string": "1 May 2025",
    "citation_mode": "accurate",
}
VARIABLES |= {"builtin_tools": ["weather", "code_interpreter"], "tools_in_user_message": False, "thinking": True}
VARIABLES |= {"controls": {"citations": True}}


@pytest.fixture(scope="module")
def reference() -> Callable[..., str]:
    """Transformers' rendering."""
    pytest.importorskip("transformers", minversion="5.20")
    tokenizers = pytest.importorskip("tokenizers")
    from transformers import PreTrainedTokenizerFast

    tokenizer = PreTrainedTokenizerFast(tokenizer_object=tokenizers.Tokenizer(tokenizers.models.BPE()), **TOKENS)

    def render(source: str, messages: list[Any], **variables: Any) -> str:
        return str(tokenizer.apply_chat_template(messages, chat_template=source, tokenize=False, **variables))

    return render


def test_there_are_enough() -> None:
    assert len(TEMPLATES) >= 30 and len(CONVERSATIONS) >= 5


@pytest.mark.parametrize("name", TEMPLATES)
def test_text_is_that_of_transformers(name: str, reference: Callable[..., str]) -> None:
    source = TEMPLATES[name]
    names = ChatTemplate(source, name, TOKENS).names
    equal = 0
    for title, (messages, given) in CONVERSATIONS.items():
        known = {variable: value for variable, value in VARIABLES.items() if variable in names}
        unread = {name for name in ("tools", "documents") if given.get(name) and name not in names}
        for extra in ({}, known) if known else ({},):
            variables = {"add_generation_prompt": "continue_final_message" not in given, **given, **extra}
            if unread:  # transformers drops them without a word
                with pytest.raises(ParameterError, match=f"reads no variable '({'|'.join(unread)})'"):
                    ChatTemplate(source, name, TOKENS).render(messages, **variables)
                variables = {variable: value for variable, value in variables.items() if variable not in unread}
            copy = json.dumps([vars(m) if isinstance(m, Said) else m for m in messages])
            try:
                wanted = reference(source, messages, **variables)
            except Exception:
                with pytest.raises(FastlmError):
                    ChatTemplate(source, name, TOKENS).render(messages, **variables)
                continue
            assert ChatTemplate(source, name, TOKENS).render(messages, **variables) == wanted, (name, title, extra)
            assert json.dumps([vars(m) if isinstance(m, Said) else m for m in messages]) == copy
            equal += 1
    assert equal >= 5
