"""Chat templates: Jinja from a model folder, which nobody vouches for, in an immutable sandbox with bounds."""

from __future__ import annotations

import datetime
import functools
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from fastlm.arguments import shown
from fastlm.errors import ModelFormatError, ParameterError, UnsupportedError
from fastlm.weights.source import ModelSource

if TYPE_CHECKING:
    from jinja2.sandbox import ImmutableSandboxedEnvironment

MAX_TEMPLATE_BYTES = 1 << 20
MAX_OUTPUT = 1 << 24  # characters of a rendered conversation
MAX_SECONDS = 5.0
_WIDE = re.compile(r"[%{:][^%{}]{0,20}\d{6}")  # a format with a field of a million characters


class ChatTemplate:
    """A model's chat template, compiled at its first use.

    Parameters
    ----------
    source
        The Jinja text.
    where
        Its file, for error texts.
    tokens
        bos_token, eos_token and the like, which templates refer to.
    """

    def __init__(self, source: str, where: str, tokens: Mapping[str, str]) -> None:
        if len(source) > MAX_TEMPLATE_BYTES:
            raise ModelFormatError(f"{where}: a chat template of {len(source):,} characters is no template")
        self._source = source
        self._where = where
        self._tokens = dict(tokens)

    def render(
        self, messages: Sequence[Mapping[str, Any]], *, add_generation_prompt: bool = True, **variables: Any
    ) -> str:
        """The text of a conversation, ended by the start of the answer."""
        import jinja2

        _check_messages(messages)
        with _deadline():
            try:
                template = _environment().from_string(self._source)
                pieces = template.generate(
                    messages=[dict(m) for m in messages],
                    add_generation_prompt=add_generation_prompt,
                    **{**self._tokens, **variables},
                )
                return "".join(self._bounded(pieces))
            except _TemplateRefusal as error:
                raise ParameterError(f"{self._where}: the chat template refuses these messages: {error}") from None
            except _OutOfTime:
                raise ModelFormatError(f"{self._where}: the chat template ran for over {MAX_SECONDS:g} s") from None
            except jinja2.TemplateError as error:
                raise ModelFormatError(f"{self._where}: the chat template fails: {error}") from error
            except (ArithmeticError, LookupError, TypeError, ValueError, RecursionError, MemoryError) as error:
                if isinstance(error, ModelFormatError):
                    raise
                raise ModelFormatError(f"{self._where}: the chat template fails: {error!r:.300}") from error

    def _bounded(self, pieces: Iterator[str]) -> Iterator[str]:
        total = 0
        for piece in pieces:
            total += len(piece)
            if total > MAX_OUTPUT:
                raise ModelFormatError(f"{self._where}: the chat template writes without end")
            yield piece


class _TemplateRefusal(Exception):
    """raise_exception() in a template."""


class _OutOfTime(BaseException):
    """The template runs too long."""


class _deadline:
    """Ends the block with _OutOfTime after MAX_SECONDS, by a trace of the lines that it runs in this thread."""

    def __enter__(self) -> None:
        import sys
        import time

        end = time.monotonic() + MAX_SECONDS

        def trace(frame: Any, event: str, argument: Any) -> Any:
            if time.monotonic() > end:
                raise _OutOfTime
            return trace if frame.f_code.co_filename == "<template>" or event == "line" else None

        self._before = sys.gettrace()
        sys.settrace(trace)

    def __exit__(self, *exception: object) -> None:
        import sys

        sys.settrace(self._before)


def _check_messages(messages: object) -> None:
    if isinstance(messages, (str, bytes, Mapping)) or not isinstance(messages, Sequence) or not messages:
        raise ParameterError("messages must be a list like [{'role': 'user', 'content': 'Hello'}]")
    for i, message in enumerate(messages):
        if not isinstance(message, Mapping) or "role" not in message:
            raise ParameterError(f"messages[{i}] must be a mapping with 'role' and 'content', not {shown(message)}")


def _raise(message: str) -> None:
    raise _TemplateRefusal(message)


def _to_json(value: Any, indent: int | None = None, **options: Any) -> str:
    return json.dumps(value, ensure_ascii=False, indent=indent, **options)


def _small_range(*bounds: int) -> range:
    found = range(*bounds)
    if len(found) > 100_000:
        raise ValueError("a range in a chat template is too long")
    return found


def _check_size(*values: object) -> None:
    """Refuse numbers that could only ask for a text without end: widths, counts, exponents."""
    for value in values:
        if isinstance(value, int) and abs(value) > MAX_OUTPUT:
            raise ValueError(f"the number {value} in a chat template is too large")


def _check_format(form: str) -> None:
    if _WIDE.search(form):
        raise ValueError("a format in a chat template is too wide")


def _environment() -> ImmutableSandboxedEnvironment:
    import jinja2.ext
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    class Sandbox(ImmutableSandboxedEnvironment):
        """Jinja's sandbox, which keeps templates off Python's inside, with bounds on what they can make."""

        intercepted_binops = frozenset(["*", "**", "%"])

        def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
            if operator == "*" and not (isinstance(left, (int, float)) and isinstance(right, (int, float))):
                sizes = [v if isinstance(v, int) else len(v) for v in (left, right)]
                _check_size(sizes[0] * sizes[1])
            if operator == "**":
                _check_size(left, right, right * abs(left).bit_length() if isinstance(left, int) else 0)
            if operator == "%" and isinstance(left, str):
                _check_format(left)
            return super().call_binop(context, operator, left, right)

        def call(self, context: Any, function: Any, /, *args: Any, **kwargs: Any) -> Any:
            _check_size(*args, *kwargs.values())
            return super().call(context, function, *args, **kwargs)

        def wrap_str_format(self, value: Any) -> Any:  # sees str.format before a template gets it
            owner = getattr(value, "__self__", None)
            if isinstance(owner, str) and getattr(value, "__name__", "") in ("format", "format_map"):
                _check_format(owner)
            return super().wrap_str_format(value)

    environment = Sandbox(trim_blocks=True, lstrip_blocks=True, extensions=[jinja2.ext.loopcontrols])
    environment.filters["tojson"] = _to_json
    for name in ("center", "indent", "batch", "slice"):
        environment.filters[name] = _bounded_filter(environment.filters[name])
    environment.globals["raise_exception"] = _raise
    environment.globals["strftime_now"] = lambda form: datetime.datetime.now().strftime(form)
    environment.globals["range"] = _small_range
    return environment


def _bounded_filter(function: Any) -> Any:
    @functools.wraps(function)
    def bounded(*args: Any, **kwargs: Any) -> Any:
        _check_size(*args, *kwargs.values())
        return function(*args, **kwargs)

    return bounded


def load_template(model: ModelSource) -> ChatTemplate | None:
    """The chat template of a model: chat_template.jinja, or the one in tokenizer_config.json; None if it has none."""
    config = model.read_json("tokenizer_config.json") or {}
    tokens = {name: text for name, value in config.items() if name.endswith("_token") and (text := _content(value))}
    file = model.read("chat_template.jinja")
    if file is not None:
        where = model.describe("chat_template.jinja")
        try:
            return ChatTemplate(file.decode("utf-8"), where, tokens)
        except UnicodeDecodeError:
            raise ModelFormatError(f"{where}: not UTF-8") from None
    source = config.get("chat_template")
    where = model.describe("tokenizer_config.json")
    if isinstance(source, list):  # several, by name
        named = {item.get("name"): item.get("template") for item in source if isinstance(item, dict)}
        source = named.get("default")
        if source is None and named:
            raise UnsupportedError(f"{where}: has chat templates {sorted(map(str, named))}, but no default")
    if source is None:
        return None
    if not isinstance(source, str):
        raise ModelFormatError(f"{where}: chat_template must be a string")
    return ChatTemplate(source, where, tokens)


def _content(value: object) -> str | None:
    if isinstance(value, dict):
        value = value.get("content")
    return value if isinstance(value, str) else None
