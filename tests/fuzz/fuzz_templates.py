"""Chat templates: the text that Jinja makes, or a typed error within the budget. How to run it: harness.py.

The input chooses the template (tests/random_templates.py): what differs from Jinja, or breaks, is found again by it.
Time and memory are watched from outside: by `ulimit -v`, and by the clock.
"""

from __future__ import annotations

import random
import re
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parents[1]))

from harness import main
from jinja2 import nodes
from jinja2.ext import Extension, LoopControlExtension
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment
from random_templates import Writer

from fastlm.errors import FastlmError
from fastlm.tokenizer.chat import ChatTemplate
from fastlm.tokenizer.jinja.meter import Exhausted
from fastlm.tokenizer.jinja.template import Template

MESSAGES = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "Hi  there"},
    {"role": "assistant", "content": "ok", "tool_calls": [{"name": "f", "x": 1}]},
]
VARIABLES: dict[str, Any] = {
    "messages": MESSAGES,
    "tools": [{"name": "f", "a": {"b": [1, 2.5, None, True]}}],
    "documents": None,
    "bos_token": "<s>",
    "add_generation_prompt": True,
    "x": 3,
    "y": ["a", "b", 3],
}
TAME_WORK = 300_000  # of a template that Jinja, which has no bounds, may render too
INPUTS = [b"a tame one", b"another", b"!a wild one", b"!another"]


class Generation(Extension):
    tags = {"generation"}  # noqa: RUF012

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        return nodes.Scope(parser.parse_statements(("name:endgeneration",), drop_needle=True), lineno=line)


def jinja() -> ImmutableSandboxedEnvironment:
    """Jinja's sandbox, with what templates are given beyond it."""
    from fastlm.tokenizer.jinja.formats import to_json
    from fastlm.tokenizer.jinja.meter import Meter

    extensions = [LoopControlExtension, Generation]
    made = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=extensions)
    made.filters["tojson"] = lambda value, *args, **kwargs: to_json(Meter(10**9), value, *args, **kwargs)
    return made


def same(source: str) -> bool | None:
    """Whether the text is Jinja's; None if one of the two does not make any."""
    try:
        ours = Template(source).render(VARIABLES, TAME_WORK)
        theirs = jinja().from_string(source).render(VARIABLES)
    except (Exception, Exhausted):
        return None
    return without_addresses(ours) == without_addresses(theirs)


def without_addresses(text: str) -> str:
    """A text without what Python prints of functions and generators."""
    objects = r"(?i)<[^<>]*(?:object|function|method|class|Context)[^<>]*(?:<[^<>]*>)?[^<>]*>"  # |upper, too
    return re.sub(objects, "<?>", text)


def one_input(data: bytes) -> None:
    draw = random.Random(data)
    if not data.startswith(b"!"):
        source = Writer(draw, wild=False).template()
        assert same(source) is not False, source
    writer = Writer(draw, wild=True)
    source = writer.scene() if draw.random() < 0.75 else writer.template()
    try:
        ChatTemplate(source, "x.jinja", {"bos_token": "<s>"}).render(MESSAGES)
    except FastlmError as error:
        assert str(error).startswith("x.jinja: ") and len(str(error)) < 2000


if __name__ == "__main__":
    main(one_input, INPUTS)
