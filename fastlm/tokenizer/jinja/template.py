"""A template: parsed by jinja2, translated once, rendered within a budget."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from jinja2 import Environment, nodes
from jinja2.exceptions import TemplateSyntaxError
from jinja2.ext import Extension, LoopControlExtension
from jinja2.lexer import Token
from jinja2.parser import Parser

from fastlm.tokenizer.jinja.blocks import Blocks
from fastlm.tokenizer.jinja.expressions import OUTER
from fastlm.tokenizer.jinja.functions import FUNCTIONS
from fastlm.tokenizer.jinja.meter import Meter

MAX_SOURCE = 1 << 16  # characters; published templates have up to 40,000
MAX_TOKENS = 1 << 14  # words, signs, and texts between tags: one for four to seven characters of a published template


class _Generation(Extension):
    """{% generation %} ... {% endgeneration %}, which marks what training is to learn from: here the text itself.

    It also counts the tokens, as Jinja reads them: the time of a translation goes by their number.
    """

    tags = {"generation"}  # noqa: RUF012 (Jinja asks for it)

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        return nodes.Scope(parser.parse_statements(("name:endgeneration",), drop_needle=True), lineno=line)

    def filter_stream(self, stream: Iterable[Token]) -> Iterator[Token]:
        for count, token in enumerate(stream):
            if count == MAX_TOKENS:
                raise TemplateSyntaxError(f"more than {MAX_TOKENS:,} words and signs: shorten it", token.lineno)
            yield token


@functools.cache
def _environment() -> Environment:
    """The grammar: Jinja's, as transformers sets it."""
    return Environment(trim_blocks=True, lstrip_blocks=True, extensions=[LoopControlExtension, _Generation])


class Template:
    """A translated template, which threads may share.

    Attributes
    ----------
    names
        The variables that it is given: those that it reads before it has set them.

    Raises
    ------
    jinja2.TemplateError, ValueError, ArithmeticError, RecursionError, MemoryError
        It is no template, or one that is too long or too deep.
    """

    def __init__(self, source: str) -> None:
        if len(source) > MAX_SOURCE:
            raise ValueError(f"{len(source):,} characters are too long; at most {MAX_SOURCE:,} are read")
        blocks = Blocks()
        self._body = blocks.whole_body(_environment().parse(source).body)
        self.names = frozenset(blocks.given - FUNCTIONS.keys())

    def render(self, variables: Mapping[str, Any], work: int) -> str:
        """The text for some variables, plain values, by at most `work` units (meter.py).

        Raises
        ------
        Exhausted
            It would take more.
        Refusal
            The template says so, by raise_exception.
        jinja2.TemplateError, LookupError, TypeError, ValueError, ArithmeticError, RecursionError, MemoryError
            It cannot be rendered.
        """
        out: list[str] = []
        meter = Meter(work)
        try:
            self._body(meter, {OUTER: {**FUNCTIONS, **variables}}, out)
        finally:
            meter.end()
        return "".join(out)
