"""Operators of templates: arithmetic, comparison, attributes, items and slices of values, each for what it costs."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from types import GeneratorType
from typing import Any

from jinja2.exceptions import SecurityError
from jinja2.runtime import Undefined

from fastlm.tokenizer.jinja.formats import percent
from fastlm.tokenizer.jinja.meter import (
    MAX_BITS,
    NUMBERS,
    OBJECT,
    SEQUENCES,
    STEP,
    Exhausted,
    Group,
    Meter,
    Namespace,
    digits,
    elements,
    integer,
    key,
    search,
    survey,
)
from fastlm.tokenizer.jinja.methods import METHODS, Function, bound

Binary = Callable[[Meter, Any, Any], Any]

_NUMERIC = (*NUMBERS, Undefined)  # Undefined says itself what is wrong
_SCALARS = (type(None), str, *_NUMERIC)
GROUP = ("grouper", "list")  # what groupby calls the two parts of its rows
OF_TABLES = frozenset(dir(dict))  # names that are no item's in `table.name`
_LONGEST_NAME = 100  # in an error text


# ---- arithmetic ---------------------------------------------------------------------------------


def _add(meter: Meter, left: Any, right: Any) -> Any:
    if type(left) is str and type(right) is str:
        meter.left -= len(left) + len(right)
        if meter.left < 0:
            raise Exhausted
        return left + right
    if isinstance(left, (list, tuple)) and isinstance(right, (list, tuple)):
        meter.pay(STEP * (len(left) + len(right)))
        return operator.add(left, right)
    return _reckon(meter, operator.add, left, right)


def _multiply(meter: Meter, left: Any, right: Any) -> Any:
    if isinstance(left, int):
        left, right = right, left
    if isinstance(right, int) and isinstance(left, (str, list, tuple)):
        meter.pay(len(left) * max(right, 0) * (1 if type(left) is str else STEP))
        return left * right
    if isinstance(left, int) and isinstance(right, int) and left.bit_length() + right.bit_length() > MAX_BITS:
        raise OverflowError("a product is too large")
    return _reckon(meter, operator.mul, left, right)


def _power(meter: Meter, left: Any, right: Any) -> Any:
    if isinstance(left, int) and isinstance(right, int):
        bits = left.bit_length() * right
        if bits > 2 * MAX_BITS:
            raise OverflowError("a power is too large")
        meter.pay(bits * bits >> 15)
    return _reckon(meter, operator.pow, left, right)


def _modulo(meter: Meter, left: Any, right: Any) -> Any:
    return percent(meter, left, right) if type(left) is str else _reckon(meter, operator.mod, left, right)


def _reckon(meter: Meter, function: Callable[[Any, Any], Any], left: Any, right: Any) -> Any:
    undefined = isinstance(left, Undefined) or isinstance(right, Undefined)
    if not undefined and not (isinstance(left, NUMBERS) and isinstance(right, NUMBERS)):
        names = f"{type(left).__name__} and {type(right).__name__}"
        raise TypeError(f"{function.__name__} is no operation of {names}")
    for number in (left, right):
        if type(number) is int:
            digits(meter, number)
    found = function(left, right)
    if isinstance(found, complex):
        raise ArithmeticError("a power of a negative number is no number")
    return integer(found) if isinstance(found, int) else found


ARITHMETIC: Mapping[str, Binary] = {
    "Add": _add,
    "Mul": _multiply,
    "Pow": _power,
    "Mod": _modulo,
    "Sub": lambda meter, left, right: _reckon(meter, operator.sub, left, right),
    "Div": lambda meter, left, right: _reckon(meter, operator.truediv, left, right),
    "FloorDiv": lambda meter, left, right: _reckon(meter, operator.floordiv, left, right),
}


def signed(meter: Meter, function: Callable[[Any], Any], value: Any) -> Any:
    """The value of + or - before a number, or its absolute value."""
    if not isinstance(value, _NUMERIC):
        raise TypeError(f"a {type(value).__name__} has no sign")
    if type(value) is int:
        digits(meter, value)
    return function(value)


# ---- comparison ---------------------------------------------------------------------------------


def _comparison(function: Callable[[Any, Any], Any]) -> Binary:
    def compare(meter: Meter, left: Any, right: Any) -> bool:
        if type(left) is str and type(right) is str:
            meter.left -= min(len(left), len(right)) >> 5
        elif not isinstance(left, _SCALARS) and not isinstance(right, _SCALARS):
            survey(meter, left)
            survey(meter, right)
        return bool(function(left, right))

    return compare


def contains(meter: Meter, item: Any, container: Any) -> bool:
    """Whether a text, list or table holds something."""
    kind = type(container)
    if kind is str:
        if type(item) is str:
            meter.pay(search(container, item))
        return item in container
    if kind is dict:
        return key(meter, item, len(container)) in container
    if kind is GeneratorType:
        container = elements(meter, container)
    elif not isinstance(container, (*SEQUENCES, range, Undefined)):
        raise TypeError(f"argument of type '{kind.__name__}' is not iterable")
    if isinstance(item, _SCALARS):
        meter.pay(len(container) * (STEP + (len(item) >> 5 if type(item) is str else 0)))
    else:
        survey(meter, item)
        survey(meter, container)
    return item in container


COMPARISON: Mapping[str, Binary] = {
    "eq": _comparison(operator.eq),
    "ne": _comparison(operator.ne),
    "gt": _comparison(operator.gt),
    "gteq": _comparison(operator.ge),
    "lt": _comparison(operator.lt),
    "lteq": _comparison(operator.le),
    "in": contains,
    "notin": lambda meter, item, container: not contains(meter, item, container),
}


# ---- parts of values ----------------------------------------------------------------------------


def attribute(meter: Meter, owner: Any, name: str) -> Any:
    """`owner.name`: a method or an attribute, else the item of that name; undefined if there is none."""
    kind = type(owner)
    if kind is dict and name in owner and name not in OF_TABLES:
        return owner[name]
    if kind is Namespace:
        found = owner.attributes
        return found[name] if name in found else Undefined(obj=owner, name=name[:_LONGEST_NAME])
    if kind is Group and name in GROUP:
        return owner[GROUP.index(name)]
    meter.left -= OBJECT
    if isinstance(owner, Function):
        return owner.member(name)
    return _method(owner, name)


def _method(owner: Any, name: str) -> Any:
    kind = type(owner)
    if isinstance(owner, Undefined):
        return owner._fail_with_undefined_error()
    method = METHODS.get(kind, {}).get(name)
    if method is not None:
        return bound(method, owner, name)
    name = name[:_LONGEST_NAME]
    if hasattr(kind, name):
        hint = f"templates may not use the attribute {name!r} of a {kind.__name__}"
        return Undefined(hint, obj=owner, name=name, exc=SecurityError)
    return Undefined(obj=owner, name=name)


def item(meter: Meter, owner: Any, where: Any) -> Any:
    """`owner[where]`: the item, else the attribute of that name; undefined if there is none."""
    kind = type(owner)
    if kind is dict:
        if type(where) is str:
            if where in owner:
                return owner[where]
        elif isinstance(where, _SCALARS) and key(meter, where, len(owner)) in owner:
            return owner[where]
    elif isinstance(where, int) and isinstance(owner, (str, list, tuple, range)):
        try:
            return owner[where]
        except IndexError:
            return Undefined(obj=owner, name=where)  # type: ignore[arg-type]
    if type(where) is str:
        return attribute(meter, owner, where)
    if isinstance(owner, Undefined):
        return owner._fail_with_undefined_error()
    meter.left -= OBJECT
    return Undefined(f"a {kind.__name__} has no such item")


def part(meter: Meter, owner: Any, start: Any, stop: Any, step: Any) -> Any:
    """`owner[start:stop:step]`."""
    if isinstance(owner, Undefined):
        return owner._fail_with_undefined_error()
    if not isinstance(owner, (str, list, tuple, range)):
        raise TypeError(f"a {type(owner).__name__} cannot be sliced")
    bounds = slice(start, stop, step)
    length = len(range(*bounds.indices(len(owner))))
    meter.pay(length * (1 if type(owner) is str else STEP))
    return owner[bounds]
