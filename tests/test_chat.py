"""Conversations: which template a model has, what it sees of what callers give, and where a last message goes on."""

from __future__ import annotations

import dataclasses
import enum
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import public_model
import pytest

import fastlm
from fastlm.errors import FastlmError, ModelFormatError, ParameterError, UnsupportedError
from fastlm.saving import save
from fastlm.tokenizer.chat import ChatTemplate, ChatTemplates, load_templates
from fastlm.tokenizer.jinja import template as jinja_template
from fastlm.tokenizer.jinja.template import Template
from fastlm.tokenizer.load import load_tokenizer
from fastlm.weights.folder import CheckpointFolder

HELLO = [{"role": "user", "content": "Hello"}]
TOKENS = {"bos_token": "<s>", "eos_token": "</s>"}


def render(source: str, messages: object = HELLO, **variables: object) -> str:
    return ChatTemplate(source, "chat_template.jinja", TOKENS).render(messages, **variables)


def test_the_usual_parts() -> None:
    source = (
        "{{ bos_token }}{% for m in messages %}{% if m.role == 'system' %}{% continue %}{% endif %}"
        "[{{ m['role'] }}]{{ m.content | trim }}{{ eos_token }}{% endfor %}"
        "{% if add_generation_prompt %}[assistant]{% endif %}"
    )
    messages = [{"role": "system", "content": "x"}, {"role": "user", "content": " Hi "}]
    assert render(source, messages) == "<s>[user]Hi</s>[assistant]"
    assert render(source, messages, add_generation_prompt=False) == "<s>[user]Hi</s>"


def test_what_is_not_given_is_none() -> None:
    assert render("{{ tools is none }} {{ documents is none }} {{ other is defined }}") == "True True False"
    assert render("{{ tools | length }} {{ documents[0].text }}", tools=[], documents=[{"text": "t"}]) == "0 t"


def test_json_and_dates() -> None:
    assert render("{{ messages | tojson }}") == '[{"role": "user", "content": "Hello"}]'
    assert (
        render("{{ '<é>' | tojson(ensure_ascii=False) }}{{ '<é>' | tojson(ensure_ascii=true) }}") == '"<é>""<\\u00e9>"'
    )
    made = render("{{ {'b': 1, 'a': [2]} | tojson(indent=1, separators=(',', '='), sort_keys=true) }}")
    assert made == json.dumps({"b": 1, "a": [2]}, indent=1, separators=(",", "="), sort_keys=True)
    assert render("{{ strftime_now('%Y') }}") == time.strftime("%Y")
    assert render("{{ strftime_now('') }}") == ""


def test_numbers_of_any_usual_size() -> None:
    """Time stamps and ids are no widths: nothing of them is refused."""
    source = (
        "{% macro f(v) %}{{ v }};{% endmacro %}{{ f(messages[0].at) }}{{ 'Cutoff 20241201, %s' % messages[0].role }}"
    )
    assert render(source, [{"role": "user", "at": 1732900000123}]) == "1732900000123;Cutoff 20241201, user"


def test_marks_of_generation_are_no_text() -> None:
    source = (
        "{% for m in messages %}{% generation %}{% set x = 1 %}{{ m.content }}{% endgeneration %}{{ x }}{% endfor %}"
    )
    assert render(source) == "Hello"


def test_refusal_by_the_template() -> None:
    with pytest.raises(ParameterError, match=r"chat_template\.jinja: .*roles must alternate"):
        render("{{ raise_exception('roles must alternate') }}")


# ---- what callers give --------------------------------------------------------------------------


@dataclasses.dataclass
class Said:
    role: str
    content: Any
    tool_calls: Any = None


class Model:
    def model_dump(self) -> dict[str, Any]:
        return {"role": "user", "content": "pydantic"}


class Role(str, enum.Enum):
    USER = "user"


def test_objects_are_seen_as_their_fields() -> None:
    source = "{% for m in messages %}{{ m.role }}:{{ m.content }}:{{ 'tool_calls' in m }};{% endfor %}"
    assert render(source, [Said("user", "a"), Model()]) == "user:a:False;user:pydantic:False;"
    assert render(source, (Said(Role.USER, np.int64(3)),)) == "user:3:False;"
    values = [np.float32(0.5), np.bool_(False), (1, None), {"k": Said("r", 1)}]
    wanted = "[0.5, False, (1, None), {'k': {'role': 'r', 'content': 1, 'tool_calls': None}}]"
    assert render("{{ messages[0].content }}", [{"role": "user", "content": values}]) == wanted


def test_names_of_reasoning() -> None:
    for name in ("reasoning_content", "thinking", "reasoning"):
        messages = [{"role": "assistant", name: "hm", "content": None}]
        assert render("{{ messages[0].reasoning_content }} {{ messages[0].thinking }}", messages) == "hm hm"
        assert render("{{ messages[0].content is defined }}", messages) == "False"


def test_templates_leave_what_callers_gave() -> None:
    messages = [{"role": "user", "content": ["a", {"type": "text", "text": "b"}], "x": None}]
    before = json.dumps(messages)
    assert render("{{ messages[0].content[1].text }}", messages, continue_final_message=True) == "b"
    assert json.dumps(messages) == before


@pytest.mark.parametrize(
    "messages",
    [[], "Hello", {"role": "user"}, [1], [{"content": "x"}], [{"role": None}], None, 5, [HELLO], iter(HELLO), [{1: 2}]],
)
def test_messages_are_checked(messages: object) -> None:
    with pytest.raises(ParameterError, match="messages"):
        render("x", messages)


def holding_itself() -> list[Any]:
    made: list[Any] = []
    made.append(made)
    return made


@pytest.mark.parametrize(
    ("content", "match"),
    [
        ([10**5000], r"messages\[0\]\['content'\]\[0\]: .*digits"),
        (["a\udc80"], r"messages\[0\]\['content'\]\[0\]: .*lone surrogate"),
        ([{"a": {1, 2}}], r"messages\[0\]\['content'\]\[0\]\['a'\]: "),
        ({(1, 2): 3}, r"messages\[0\]\['content'\]: names"),
        (b"bytes", r"messages\[0\]\['content'\]: "),
        (np.zeros(3), r"messages\[0\]\['content'\]: "),
        (holding_itself(), r"messages\[0\]\['content'\].*nested"),
    ],
)
def test_errors_name_the_part_that_no_template_can_show(content: object, match: str) -> None:
    with pytest.raises(ParameterError, match=match):
        render("x", [{"role": "user", "content": content}])


@pytest.mark.parametrize(
    ("variables", "match"),
    [
        ({"messages": []}, "messages"),
        ({"self": 1}, "self"),
        ({1: 2}, "1"),
        ({"enable_thinkin": True}, "did you mean 'enable_thinking'"),
        ({"tols": []}, "did you mean 'tools'"),
        ({"tools": {"name": "f"}}, "tools must be a list"),
        ({"tools": [print]}, r"tools\[0\]: give the JSON schema"),
        ({"tools": ["f"]}, r"tools\[0\] must be a mapping"),
        ({"documents": "text"}, "documents must be a list"),
        ({"enable_thinking": object()}, "enable_thinking"),
        ({"chat_template": "rag"}, "only default"),
        ({"chat_template": 5}, "chat_template"),
        ({"chat_template": "{{ messages }}"}, r"chat_template: .*write it to chat_template\.jinja"),
        ({"tools": [{"name": "f"}]}, "no variable 'tools'"),
        ({"documents": [{"text": "d"}]}, "no variable 'documents'"),
        ({"add_generation_prompt": "no"}, "add_generation_prompt must be True or False"),
    ],
)
def test_variables_are_checked(variables: dict[Any, Any], match: str) -> None:
    templates = ChatTemplates({"default": ChatTemplate("{{ enable_thinking }}", "x.jinja", TOKENS)})
    with pytest.raises(ParameterError, match=match):
        templates.render(HELLO, variables)
    assert templates.render(HELLO, {"enable_thinking": False}) == "False"
    assert templates.render(HELLO, {"tools": [], "documents": None}) == ""  # nothing that would be lost


@pytest.mark.parametrize(
    ("source", "read"),
    [
        ("{{ a }}{% set a = 1 %}", True),
        ("{% set a = 1 %}{{ a }}", False),
        ("{% if not a is defined %}{% set a = 1 %}{% endif %}{{ a }}", True),
        ("{% if tools %}{% set a = 1 %}{% endif %}{{ a }}", True),
        ("{% set a = a | default(1) %}", True),
        ("{% set a %}{{ tools }}{% endset %}{{ a }}", False),
        ("{% for a in messages if a %}{{ a }}{% endfor %}", False),
        ("{% for a, b in messages %}{% endfor %}{{ a }}", True),
        ("{% macro f(a, b=a) %}{{ a }}{{ varargs }}{{ kwargs }}{{ caller() }}{% endmacro %}", False),
        ("{% macro a() %}{{ a() }}{% endmacro %}{{ a() }}", False),
        ("{% with a = 1 %}{{ a }}{% endwith %}", False),
        ("{% with b = a %}{% endwith %}", True),
        ("{% set b = namespace() %}{% set b.a = 1 %}{{ b.a }}", False),
        ("{{ messages[0].a }}{{ 'a' }}{{ dict(a=1) }}{{ loop }}", False),
    ],
)
def test_a_variable_is_the_callers_where_nothing_set_it_before(source: str, read: bool) -> None:
    from jinja2 import Environment, meta

    assert ("a" in ChatTemplate(source, "x.jinja", TOKENS).names) is read
    assert ("a" in meta.find_undeclared_variables(Environment().parse(source))) is read


# ---- going on with the last message -------------------------------------------------------------

TURNS = (
    "{% for m in messages %}[{{ m.role }}]{{ m.content }}{{ eos_token }}{% endfor %}{{ '+' if add_generation_prompt }}"
)
BEGUN = [*HELLO, {"role": "assistant", "content": "It is  "}]


def test_the_last_message_goes_on() -> None:
    assert render(TURNS, BEGUN, continue_final_message=True) == "[user]Hello</s>[assistant]It is  "
    assert render(TURNS.replace("content", "content | trim"), BEGUN, continue_final_message=True).endswith("]It is")
    parts = [
        {"role": "assistant", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b "}, {"x": 1}]}
    ]
    source = "{% for m in messages %}{% for p in m.content %}<{{ p.text }}>{% endfor %}{% endfor %}"
    assert render(source, parts, continue_final_message="content") == "<a><b "
    source = "{{ messages[0].thinking }}</think>{{ messages[0].content }}"
    thought = [{"role": "assistant", "reasoning": "So", "content": "Yes"}]
    assert render(source, thought, continue_final_message="reasoning_content") == "So"


@pytest.mark.parametrize(
    ("source", "message", "variables", "match"),
    [
        (TURNS, BEGUN[-1], {"add_generation_prompt": True}, "exclude each other"),
        (TURNS, {"role": "assistant"}, {}, "is missing"),
        (TURNS, {"role": "assistant", "content": 3}, {}, "must be text"),
        (TURNS, {"role": "assistant", "content": [{"type": "image"}]}, {}, "no text"),
        ("{{ messages[0].role }}", BEGUN[-1], {}, "is not read"),
        ("{{ messages[0].content[:3] }}", BEGUN[-1], {}, "changes or leaves out"),
        ("{{ messages[0].content * 2 }}", BEGUN[-1], {}, "changes or leaves out"),
        (TURNS, BEGUN[-1], {"continue_final_message": "answer"}, "'answer'"),
        (TURNS, BEGUN[-1], {"continue_final_message": 5}, "continue_final_message must be True, or the name"),
        (TURNS, BEGUN[-1], {"continue_final_message": ["content"]}, "continue_final_message must be True, or the name"),
    ],
)
def test_a_message_that_cannot_go_on(source: str, message: object, variables: dict[str, object], match: str) -> None:
    with pytest.raises(ParameterError, match=match):
        render(source, [message], **{"continue_final_message": True, **variables})


@pytest.mark.parametrize("kind", [list, tuple])
def test_messages_may_share_what_goes_on(kind: type) -> None:
    block = {"type": "text", "text": "Hi"}
    source = "{% for m in messages %}<{{ m.role }}>{% for p in m.content %}{{ p.text }}{% endfor %}{% endfor %}"
    content = kind([block, block])
    for first in (content, [block]):
        messages = [{"role": "user", "content": first}, {"role": "assistant", "content": content}]
        wanted = f"<user>{'Hi' * len(first)}<assistant>HiHi"
        assert render(source, messages, continue_final_message=True) == wanted


# ---- the files of a model -----------------------------------------------------------------------


def write(folder: Path, **files: object) -> CheckpointFolder:
    """A folder with these files; double underscores in names are dots, single ones before "jinja" a folder."""
    for name, content in files.items():
        path = folder / name.replace("__", ".").replace("MORE_", "additional_chat_templates/")
        path.parent.mkdir(exist_ok=True)
        path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return CheckpointFolder(folder)


def shown(source: CheckpointFolder, **variables: object) -> str:
    templates = load_templates(CheckpointFolder(source.path), TOKENS)  # files of one source do not change
    assert templates is not None
    return templates.render(HELLO, variables)


def test_which_file_counts(tmp_path: Path) -> None:
    source = CheckpointFolder(tmp_path)
    assert load_templates(source, TOKENS) is None
    write(tmp_path, tokenizer_config__json={"chat_template": "A{{ eos_token }}"})
    assert shown(source) == "A</s>"
    write(tmp_path, chat_template__json={"chat_template": "B{{ eos_token }}"})
    assert shown(source) == "B</s>"
    write(tmp_path, chat_template__jinja="C{{ eos_token }}")
    assert shown(source) == "C</s>"


def test_templates_with_names(tmp_path: Path) -> None:
    named = [{"name": "rag", "template": "R"}, {"name": "default", "template": "D{{ x }}"}]
    source = write(tmp_path, tokenizer_config__json={"chat_template": named})
    assert shown(source) == "D" and shown(source, chat_template="rag") == "R"
    assert shown(source, x=1) == "D1"
    with pytest.raises(ParameterError, match="no variable 'x'"):  # that another template reads it helps nobody
        shown(source, chat_template="rag", x=1)
    write(tmp_path, tokenizer_config__json={"chat_template": [*named, {"name": "tool_use", "template": "T"}]})
    assert shown(source, tools=[]) == "T" and shown(source, tools=[], chat_template="default") == "D"
    write(tmp_path, tokenizer_config__json={"chat_template": named[:1]})
    with pytest.raises(ParameterError, match="only rag"):
        shown(source)
    write(tmp_path, MORE_tool_use__jinja="M", MORE_rag__jinja="N", MORE_readme__md="x", chat_template__jinja="F")
    assert shown(source) == "F" and shown(source, chat_template="rag") == "N" and shown(source, tools=[]) == "M"


def test_only_the_template_that_is_used_is_translated(monkeypatch: pytest.MonkeyPatch) -> None:
    sources = []
    monkeypatch.setattr(jinja_template, "Template", lambda text: sources.append(text) or Template(text))
    templates = ChatTemplates({name: ChatTemplate(name, "x.jinja", {}) for name in ("default", "rag", "tool_use")})
    with pytest.raises(ParameterError, match="nope"):
        templates.render(HELLO, {"nope": 1})
    assert sources == ["default"]


def test_templates_see_the_special_tokens_that_transformers_shows_them(stories: Path, tmp_path: Path) -> None:
    """Those of the files, then those of the class; of the model's own, too. What a file says there is not, is not."""
    (tmp_path / "tokenizer.json").symlink_to(stories / "tokenizer.json")
    names = ("bos_token", "eos_token", "pad_token", "image_token")

    def seen(**files: object) -> list[str]:
        write(tmp_path, chat_template__jinja=" ".join(f"<{{{{ {name} }}}}>" for name in names), **files)
        source = CheckpointFolder(tmp_path)
        tokenizer = load_tokenizer(source)
        assert tokenizer is not None
        templates = load_templates(source, tokenizer.special_tokens)
        assert templates is not None
        return [text[1:-1] for text in templates.render(HELLO, {}).split(" ")]

    end = "<|endoftext|>"
    assert seen(tokenizer_config__json={"tokenizer_class": "GPT2Tokenizer"}) == [end, end, "", ""]
    own = {"tokenizer_class": "GPT2Tokenizer", "bos_token": None, "eos_token": "The", "image_token": "a"}
    assert seen(tokenizer_config__json=own) == ["", "The", "", "a"]
    extra = {"tokenizer_class": "PreTrainedTokenizerFast", "extra_special_tokens": {"image_token": "a"}}
    assert seen(tokenizer_config__json=extra) == ["", "", "", "a"]
    old = {"bos_token": {"content": "b"}, "eos_token": "c"}
    assert seen(tokenizer_config__json={"bos_token": "a"}, special_tokens_map__json=old) == ["b", "c", "", ""]
    config = {"bos_token": "a", "added_tokens_decoder": {}}
    assert seen(tokenizer_config__json=config, special_tokens_map__json=old) == ["a", "", "", ""]


@pytest.mark.parametrize(
    "files",
    [
        {"tokenizer_config__json": {"chat_template": 5}},
        {"tokenizer_config__json": {"chat_template": ["x"]}},
        {"tokenizer_config__json": {"chat_template": [{"name": "default"}]}},
        {"chat_template__json": {"chat_template": {"default": None}}},
        {"chat_template__json": "["},
        {f"MORE_{i}__jinja": "x" for i in range(100)},
    ],
)
def test_malformed_files_are_named(tmp_path: Path, files: dict[str, object]) -> None:
    source = write(tmp_path, **files)
    with pytest.raises(ModelFormatError, match=r"tokenizer_config\.json|chat_template\.json|additional_chat_templates"):
        load_templates(source, TOKENS)
    (tmp_path / "chat_template.jinja").write_bytes(b"\xff")
    with pytest.raises(ModelFormatError):
        load_templates(CheckpointFolder(tmp_path), TOKENS)


def model_folder(stories: Path, folder: Path) -> None:
    for name in ("config.json", "model.safetensors", "tokenizer.json"):
        (folder / name).symlink_to(stories / name)


def test_bos_is_not_doubled(stories: Path, tmp_path: Path) -> None:
    model_folder(stories, tmp_path)
    config = {"bos_token": "<|endoftext|>", "chat_template": "{{ bos_token }}{{ messages[0].content }}"}
    write(tmp_path, tokenizer_config__json=config)
    with fastlm.load(tmp_path) as model:
        assert model.chat_prompt(HELLO).count(public_model.END) == 1
        answer = model.chat(HELLO, max_tokens=5)
        assert len(answer.token_ids) == 5
    with fastlm.load(stories) as model, pytest.raises(UnsupportedError, match=r"write one to .*chat_template\.jinja"):
        model.chat(HELLO)


def test_chat_passes_on_what_the_template_is_to_see(stories: Path, tmp_path: Path) -> None:
    model_folder(stories, tmp_path)
    source = "Once {{ tools | tojson }} {{ documents | tojson }} {{ x }}{{ cls_token }}"
    special = {"cls_token": "The"}  # one of the vocabulary: others are added to it, as transformers does
    write(tmp_path, chat_template__jinja=source, MORE_rag__jinja="R", special_tokens_map__json=special)
    with fastlm.load(tmp_path) as model:
        given = {"tools": [{"name": "f"}], "documents": [{"text": "d"}]}
        one = model.chat(HELLO, **given, template_kwargs={"x": 1}, max_tokens=3)
        prompt = model.chat_prompt(messages=HELLO, **given, x=1)
        assert one.token_ids == model.generate(prompt, max_tokens=3).token_ids
        assert one.usage.prompt_tokens == len(prompt)
        bad: list[Callable[[], object]] = [
            lambda: model.chat(HELLO, template_kwargs={"messages": 1}),
            lambda: model.chat(HELLO, template_kwargs={"self": 1}),
            lambda: model.chat(HELLO, template_kwargs={1: 2}),  # type: ignore[dict-item]
            lambda: model.chat(HELLO, template_kwargs={"y": 2}),
            lambda: model.chat_prompt(HELLO, self=1),
        ]
        for call in bad:
            with pytest.raises(ParameterError):
                call()
        save(model, tmp_path / "kept.flm")
        short = model.chat_prompt(HELLO, chat_template="rag")
    with fastlm.load(tmp_path / "kept.flm") as model:
        assert model.chat_prompt(HELLO, **given, x=1) == prompt
        assert model.chat_prompt(HELLO, chat_template="rag") == short


def test_every_error_is_typed() -> None:
    for source in (
        "{{ 1/0 }}",
        "{{ missing.a.b }}",
        "{% for %}",
        "{{ 1|nothing }}",
        "{% include 'x' %}",
        "{{ 'a'.x() }}",
        "{{ '\\ud800' }}",
    ):
        with pytest.raises(FastlmError, match=r"chat_template\.jinja"):
            render(source)
