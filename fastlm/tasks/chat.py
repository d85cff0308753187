"""Conversations: by the model's chat template."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from fastlm.arguments import shown
from fastlm.engine import Engine
from fastlm.errors import ParameterError, UnsupportedError
from fastlm.generation import Request
from fastlm.results import Completion
from fastlm.structured.grammar import LARK, NAMES, grammar_of
from fastlm.tasks.forcing import behind_reasoning, call_of, functions_of
from fastlm.tasks.generate import generate
from fastlm.tasks.replies import Way, way_of


def variables_of(tools: object, documents: object, template_kwargs: Mapping[Any, Any] | None) -> dict[Any, Any]:
    """What `Model.chat` is given, as variables of the template."""
    variables = {} if template_kwargs is None else template_kwargs
    if not isinstance(variables, Mapping):
        raise ParameterError(f"template_kwargs must be a mapping, not {shown(variables)}")
    given = {name: value for name, value in (("tools", tools), ("documents", documents)) if value is not None}
    return {**variables, **given}


def chat(
    engine: Engine,
    messages: Sequence[Any],
    variables: Mapping[Any, Any],
    params: Mapping[str, Any],
    tool_choice: str | None = None,
) -> Completion:
    """See `Model.chat`."""
    request, way = request_of(engine, messages, variables, params, tool_choice)
    done = generate(engine, request, params)
    return done if way is None else way.apart(done)


def request_of(
    engine: Engine,
    messages: Sequence[Any],
    variables: Mapping[Any, Any],
    params: Mapping[str, Any],
    tool_choice: str | None = None,
) -> tuple[Request, Way | None]:
    """What a conversation asks of `generate` beside `params`, its prompt as ids, and how the answer is taken apart.

    tool_choice: "auto" (or None), "none", "required", or the name of one of variables["tools"].
    """
    if tool_choice is not None and not isinstance(tool_choice, str):
        raise ParameterError(f'tool_choice must be "auto", "none", "required" or a name, not {shown(tool_choice)}')
    if tool_choice == "none":
        variables = {name: value for name, value in variables.items() if name != "tools"}
    ids = chat_ids(engine, messages, variables)
    way, grammar = way_of(engine, ids, variables), grammar_of(params)
    forced = tool_choice not in (None, "auto", "none")
    if forced or (grammar is not None and way is not None and way.form is not None and variables.get("tools")):
        functions = functions_of(variables.get("tools") or (), tool_choice if forced and tool_choice else "required")
        if forced and grammar is not None:
            raise ParameterError(f"tool_choice: {grammar.name} says already what the answer must be: give one of them")
        if way is None or way.form is None:
            raise UnsupportedError("tool_choice: it is not known how this model writes calls of functions")
        call = call_of(functions, way.form, way.mark)
        grammar = call if grammar is None else grammar.or_else(call)
    return Request(ids, **after_reasoning({} if grammar is None else {LARK: grammar}, way)), way


def after_reasoning(params: Mapping[str, Any], way: Way | None) -> dict[str, Any]:
    """The parameters of an answer, in which what it may think stands before what a grammar asks for."""
    grammar = grammar_of(params)
    if grammar is None:
        return dict(params)
    return {**params, **dict.fromkeys(NAMES), LARK: behind_reasoning(grammar, way)}


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
