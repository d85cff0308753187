"""fastlm chat: questions from a terminal or, one on each line, from a pipe."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from fastlm.cli import streams
from fastlm.errors import ContextLengthError, UnsupportedError

if TYPE_CHECKING:
    from fastlm.model import Model

Messages = list[dict[str, str]]


def talk(model: Model, path: str | None, system: str | None, params: Mapping[str, Any]) -> None:
    """Answer until the input ends.

    Parameters
    ----------
    path
        Where the model is; None: in the package.
    system
        A message before the conversation; None: there is none.
    params
        As of `Model.generate`.
    """
    if model.engine.templates is None:
        raise UnsupportedError(_without_template(path))
    messages: Messages = [] if system is None else [_message("system", system)]
    model.chat_prompt([*messages, _message("user", "Hello")])  # says what is wrong before it asks
    if streams.asks():
        streams.note(f"{path or 'the model in the package'}; Ctrl-D ends the conversation, Ctrl-C an answer")
    for question in filter(str.strip, streams.lines()):
        asked = [*messages, _message("user", question)]
        try:
            answer = _answer(model, asked, params)
        except ContextLengthError as error:
            if not streams.asks():
                raise
            streams.note(f"{error}: your last message is left out; send a shorter one, or start again")
        else:
            messages = [*asked, _message("assistant", answer)]
    streams.write("\n")


def _without_template(path: str | None) -> str:
    """Which models can chat, where this one cannot."""
    if path is None:
        return (
            "the model in the package writes stories and has no chat template: name a model that was trained to chat, "
            "whose folder has one: fastlm chat --model path/to/checkpoint"
        )
    return (
        f"{path}: has no chat template: models that were trained to chat have one, in tokenizer_config.json or a file "
        "of its own; where yours was, put it into the folder as chat_template.jinja. `fastlm generate` needs none"
    )


def _message(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}


def _answer(model: Model, messages: Messages, params: Mapping[str, Any]) -> str:
    """Show the answer as it is written. Ctrl-C ends it, but not the conversation."""
    answer = []
    stream: Any = model.stream(model.chat_prompt(messages), **params)
    try:
        for chunk in stream:
            answer.append(chunk.text)
            streams.write(chunk.text)
    except KeyboardInterrupt:
        pass
    finally:
        stream.close()
    streams.write("\n")
    return "".join(answer)
