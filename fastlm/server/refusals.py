"""Errors as OpenAI's API shapes them: a status, a text, and the field that is wrong."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager

from fastlm.errors import (
    ContextLengthError,
    FastlmError,
    ModelMemoryError,
    ParameterError,
    StateError,
    UnsupportedError,
)

RETRY = {"Retry-After": "1"}
INVALID = "invalid_request_error"


class Refusal(Exception):
    """A request that is not answered.

    Attributes
    ----------
    status
        Of HTTP.
    code, param
        What a program may look at: a short name of what is wrong, and the field that is.
    headers
        Of the response.
    """

    def __init__(
        self,
        status: int,
        text: str,
        *,
        code: str | None = None,
        param: str | None = None,
        kind: str = INVALID,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(text)
        self.status = status
        self.code = code
        self.param = param
        self.kind = kind
        self.headers = dict(headers or {})

    def body(self) -> dict[str, object]:
        return {"error": {"message": str(self), "type": self.kind, "param": self.param, "code": self.code}}


def wrong(param: str, text: str) -> Refusal:
    """A field with a value that it cannot have."""
    return Refusal(400, text, param=param, code="invalid_value")


def busy(text: str, status: int = 503, code: str = "overloaded") -> Refusal:
    """Not now."""
    kind = "rate_limit_error" if status == 429 else "server_error"
    return Refusal(status, text, code=code, kind=kind, headers=RETRY)


def refusal_of(error: FastlmError, names: Iterable[str], default: str | None = None) -> Refusal:
    """The answer to an error of the library, whose text mostly begins with the name of an argument.

    names: the fields that the request may have; default: the field that it is about where the text names none of them.
    """
    text = str(error)
    if isinstance(error, ModelMemoryError):
        return busy(text, code="out_of_memory")
    if isinstance(error, StateError):
        return busy(text, code="unavailable")
    if not isinstance(error, (ParameterError, ContextLengthError, UnsupportedError)):
        return Refusal(500, text, kind="server_error", code="server_error")
    begins = re.match(r"(?:unknown parameter ')?(\w+)", text)
    param = begins[1] if begins and begins[1] in set(names) else default
    code = "context_length_exceeded" if isinstance(error, ContextLengthError) else "invalid_value"
    return Refusal(400, text, param=param, code=code)


@contextmanager
def refusing(names: Iterable[str], default: str | None = None) -> Iterator[None]:
    """Errors of the library in the block become refusals; see `refusal_of`."""
    try:
        yield
    except FastlmError as error:
        raise refusal_of(error, names, default) from error
