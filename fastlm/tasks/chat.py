"""Conversations: by the model's chat template."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from fastlm.arguments import shown
from fastlm.engine import Engine
from fastlm.errors import ParameterError, UnsupportedError
from fastlm.results import Completion
from fastlm.tasks.generate import generate
from fastlm.tasks.replies import way_of


def variables_of(tools: object, documents: object, template_kwargs: Mapping[Any, Any] | None) -> dict[Any, Any]:
    """What `Model.chat` is given, as variables of the template."""
    variables = {} if template_kwargs is None else template_kwargs
    if not isinstance(variables, Mapping):
        raise ParameterError(f"template_kwargs must be a mapping, not {shown(variables)}")
    given = {name: value for name, value in (("tools", tools), ("documents", documents)) if value is not None}
    return {**variables, **given}


def chat(
    engine: Engine, messages: Sequence[Any], variables: Mapping[Any, Any], params: Mapping[str, Any]
) -> Completion:
    """See `Model.chat`."""
    ids = chat_ids(engine, messages, variables)
    done, way = generate(engine, ids, params), way_of(engine, ids, variables)
    return done if way is None else way.apart(done)


def chat_ids(engine: Engine, messages: Sequence[Any], variables: Mapping[Any, Any]) -> list[int]:
    """See `Model.chat_prompt`; the names of `variables` may be anything yet."""
    if not engine.writes:
        raise engine.refusal("chat: this model writes no text")
    tokenizer = engine.prompts.needed_tokenizer()
    if engine.templates is None:
        raise UnsupportedError(
            "this model has no chat template: write one to the file chat_template.jinja in its folder (and convert a "
            ".flm file again), or use generate() with a prompt of your own"
        )
    return tokenizer.encode(engine.templates.render(messages, variables), special=False)
