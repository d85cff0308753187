"""Chat templates: what they can say, and what they must not be able to do."""

from __future__ import annotations

import time
from pathlib import Path

import public_model
import pytest

import fastlm
from fastlm.errors import FastlmError, ModelFormatError, ParameterError, UnsupportedError
from fastlm.tokenizer.chat import MAX_SECONDS, ChatTemplate, load_template
from fastlm.weights.folder import CheckpointFolder

HELLO = [{"role": "user", "content": "Hello"}]


def render(source: str, messages: object = HELLO, **variables: object) -> str:
    template = ChatTemplate(source, "chat_template.jinja", {"bos_token": "<s>", "eos_token": "</s>"})
    return template.render(messages, **variables)  # type: ignore[arg-type]


def test_the_usual_parts() -> None:
    source = (
        "{{ bos_token }}{% for m in messages %}{% if m.role == 'system' %}{% continue %}{% endif %}"
        "[{{ m['role'] }}]{{ m.content | trim }}{{ eos_token }}{% endfor %}"
        "{% if add_generation_prompt %}[assistant]{% endif %}"
    )
    messages = [{"role": "system", "content": "x"}, {"role": "user", "content": " Hi "}]
    assert render(source, messages) == "<s>[user]Hi</s>[assistant]"
    assert render(source, messages, add_generation_prompt=False) == "<s>[user]Hi</s>"


def test_json_dates_and_variables() -> None:
    assert render("{{ messages | tojson }}") == '[{"role": "user", "content": "Hello"}]'
    assert render("{{ '<é>' | tojson }}") == '"<é>"'
    assert render("{{ strftime_now('%Y') }}") == time.strftime("%Y")
    assert render("{{ tools | length }}", tools=[1, 2]) == "2"


def test_refusal_by_the_template() -> None:
    with pytest.raises(ParameterError, match="roles must alternate"):
        render("{{ raise_exception('roles must alternate') }}")


@pytest.mark.parametrize(
    "source",
    [
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ messages.__init__.__globals__ }}",
        "{{ cycler.__init__.__globals__.os.system('true') }}",
        "{{ lipsum.__globals__['os'].popen('id').read() }}",
        "{% set x = messages.append(1) %}",
        "{{ ('{0.__class__.__mro__}').format(messages) }}{{ 1/0 }}",
        "{{ 'a' | map }}{% for",
        "{% include 'other' %}",
        "{{ missing.field.deeper }}",
        "{% for i in range(10000000) %}x{% endfor %}",
        "{{ 'x' * 10000000000 }}",
        "{{ [1] * 10000000000 }}",
        "{{ 10 ** 10000000 }}",
        "{{ '%9999999999d' % 1 }}",
        "{{ '{:9999999999}'.format(1) }}",
        "{{ 'x'.ljust(9999999999) }}",
        "{{ 'x' | center(9999999999) }}",
    ],
)
def test_hostile_templates_fail(source: str) -> None:
    with pytest.raises(FastlmError):
        render(source)


def test_hidden_attributes_are_nothing() -> None:
    assert render("{{ messages | attr('__class__') | attr('__mro__') }}") == ""


def test_ordinary_arithmetic_works() -> None:
    assert render("{{ 'ab' * 3 }} {{ 7 % 4 }} {{ 2 ** 10 }} {{ '%05d' % 42 }} {{ 'x' | center(5) }}") == (
        "ababab 3 1024 00042   x  "
    )


@pytest.mark.timeout(120)  # far from what 7e14 turns take
def test_endless_templates_end() -> None:
    loops = "".join(f"{{% for a{i} in range(90000) %}}" for i in range(3)) + "{% endfor %}" * 3
    with pytest.raises(ModelFormatError, match=f"over {MAX_SECONDS:g} s"):
        render(loops)


@pytest.mark.parametrize("messages", [[], "Hello", {"role": "user"}, [1], [{"content": "x"}]])
def test_messages_are_checked(messages: object) -> None:
    with pytest.raises(ParameterError, match="messages"):
        render("x", messages)


def test_where_templates_come_from(tmp_path: Path) -> None:
    source = CheckpointFolder(tmp_path)
    assert load_template(source) is None
    config = tmp_path / "tokenizer_config.json"
    config.write_text('{"chat_template": "A{{ eos_token }}", "eos_token": {"content": "!"}}')
    found = load_template(source)
    assert found is not None
    assert found.render(HELLO) == "A!"
    config.write_text('{"chat_template": [{"name": "rag", "template": "R"}, {"name": "default", "template": "D"}]}')
    found = load_template(source)
    assert found is not None
    assert found.render(HELLO) == "D"
    config.write_text('{"chat_template": [{"name": "rag", "template": "R"}]}')
    with pytest.raises(UnsupportedError, match="rag"):
        load_template(source)
    (tmp_path / "chat_template.jinja").write_text("F")
    found = load_template(source)
    assert found is not None
    assert found.render(HELLO) == "F"


def test_bos_is_not_doubled(stories: Path, tmp_path: Path) -> None:
    for name in ("config.json", "model.safetensors", "tokenizer.json"):
        (tmp_path / name).symlink_to(stories / name)
    (tmp_path / "tokenizer_config.json").write_text(
        '{"bos_token": "<|endoftext|>", "chat_template": "{{ bos_token }}{{ messages[0].content }}"}'
    )
    with fastlm.load(tmp_path) as model:
        assert model.chat_prompt(HELLO).count(public_model.END) == 1
        answer = model.chat(HELLO, max_tokens=5)
        assert len(answer.token_ids) == 5
    with fastlm.load(stories) as model, pytest.raises(UnsupportedError, match="chat template"):
        model.chat(HELLO)
