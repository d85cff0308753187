"""Conversations: by the model's chat template."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from fastlm.engine import Engine
from fastlm.errors import UnsupportedError


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
