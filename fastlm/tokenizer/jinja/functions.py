"""The functions that every template has, as transformers gives them."""

from __future__ import annotations

import datetime
import sys
from typing import Any

from jinja2.exceptions import SecurityError

from fastlm.tokenizer.jinja.loops import cycler, joiner
from fastlm.tokenizer.jinja.meter import OBJECT, Meter, Namespace, elements, key, text
from fastlm.tokenizer.jinja.methods import Function

_MAX_RANGE = 100_000  # as in Jinja's sandbox
_STRFTIME_GROWTH = 256  # the C library's buffer, for each character of the format


class Refusal(Exception):
    """raise_exception() in a template."""


def _raise(meter: Meter, message: Any) -> None:
    raise Refusal(text(meter, message)[:1000])


def _now(meter: Meter, form: str) -> str:
    meter.pay(_STRFTIME_GROWTH * (1 + len(form)))
    return datetime.datetime.now().strftime(form)


def _range(meter: Meter, *bounds: int) -> range:
    found = range(*bounds)
    if any(abs(bound) > sys.maxsize for bound in bounds) or len(found) > _MAX_RANGE:
        raise OverflowError(f"a range of more than {_MAX_RANGE:,} numbers, or of too large ones")
    return found


def _dict(meter: Meter, /, *args: Any, **kwargs: Any) -> dict[Any, Any]:
    made: dict[Any, Any] = {}
    if len(args) > 1:
        raise TypeError(f"dict expected at most 1 argument, got {len(args)}")
    for given in args:
        for name, value in elements(meter, given.items() if type(given) is dict else given):
            meter.pay(OBJECT)
            made[key(meter, name, len(made))] = value
    meter.pay(OBJECT * len(kwargs))
    made.update(kwargs)
    return made


def _from_keys(meter: Meter, keys: Any, value: Any = None) -> dict[Any, Any]:
    return _dict(meter, [(name, value) for name in elements(meter, keys)])


def name_of_attribute(name: Any) -> Any:
    """A name that a namespace may have: transformers refuses those with underscores before them."""
    if type(name) is str and name.startswith("_"):
        raise SecurityError(f"a namespace may not have the attribute {name[:100]!r}: rename it")
    return name


def _namespace(meter: Meter, /, *args: Any, **kwargs: Any) -> Namespace:
    attributes = {name_of_attribute(name): value for name, value in _dict(meter, *args, **kwargs).items()}
    return Namespace(meter.keep(attributes))


FUNCTIONS: dict[str, Any] = {
    "range": Function("range", _range),
    "dict": Function("dict", _dict, {"fromkeys": Function("fromkeys", _from_keys)}),
    "namespace": Function("namespace", _namespace),
    "cycler": Function("cycler", cycler),
    "joiner": Function("joiner", joiner),
    "raise_exception": Function("raise_exception", _raise),
    "strftime_now": Function("strftime_now", _now),
}
