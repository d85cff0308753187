"""Filters of lists, tables and what else can be gone through."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import groupby
from typing import Any

from jinja2.exceptions import FilterArgumentError
from jinja2.runtime import Undefined

from fastlm.tokenizer.jinja.meter import (
    OBJECT,
    SEQUENCES,
    STEP,
    Group,
    Meter,
    elements,
    iterable,
    key,
    survey,
    text,
)
from fastlm.tokenizer.jinja.methods import METHODS, Run
from fastlm.tokenizer.jinja.operators import ARITHMETIC, item, part

Getter = Callable[[Any], Any]


def lazily(meter: Meter, values: Any) -> Iterator[Any]:
    """What a value holds, one after the other, each paid for."""
    for element in iterable(values):
        meter.pay(STEP)
        yield element


def getter(meter: Meter, path: Any, *, default: Any = None, case_sensitive: bool = True) -> Getter:
    """What finds "a.0.b" in a value: an item of an item of an item. None finds the value itself."""
    meter.pay(3 * OBJECT + _parting(path, "."))
    names = path.split(".") if type(path) is str else [] if path is None else [path]
    steps = [int(name) if type(name) is str and name.isdigit() else name for name in names]

    def get(value: Any) -> Any:
        for step in steps:
            meter.pay(STEP)
            value = item(meter, value, step)
            if default is not None and isinstance(value, Undefined):
                value = default
        return value if case_sensitive or type(value) is not str else METHODS[str]["lower"](meter, value)

    return get


def _parting(path: Any, at: str) -> int:
    """What it costs to split a path."""
    return len(path) + STEP * path.count(at) if type(path) is str else 0


def length(meter: Meter, value: Any) -> int:
    if isinstance(value, (str, dict, range, *SEQUENCES, Undefined)):
        return len(value)
    raise TypeError(f"object of type '{type(value).__name__}' has no len()")


def joined(meter: Meter, value: Any, d: Any = "", attribute: Any = None) -> str:
    get = getter(meter, attribute)
    return str(METHODS[str]["join"](meter, text(meter, d), [text(meter, get(e)) for e in lazily(meter, value)]))


def first(meter: Meter, value: Any) -> Any:
    return next(iter(iterable(value)), Undefined("No first item, sequence was empty."))


def last(meter: Meter, value: Any) -> Any:
    found = value if isinstance(value, (str, list, tuple, range)) else elements(meter, value)
    return found[-1] if len(found) else Undefined("No last item, sequence was empty.")


def reverse(meter: Meter, value: Any) -> Any:
    if type(value) is str:
        return part(meter, value, None, None, -1)
    found = elements(meter, value)
    found.reverse()
    return lazily(meter, found)


def total(meter: Meter, value: Any, attribute: Any = None, start: Any = 0) -> Any:
    get = getter(meter, attribute)
    for element in lazily(meter, value):
        meter.pay(STEP)
        start = ARITHMETIC["Add"](meter, start, get(element))
    return start


def batch(meter: Meter, value: Any, linecount: int, fill_with: Any = None) -> Iterator[list[Any]]:
    values = elements(meter, value)
    for start in range(0, len(values), linecount):
        row = part(meter, values, start, start + linecount, None)
        if fill_with is not None and len(row) < linecount:
            row += ARITHMETIC["Mul"](meter, [fill_with], linecount - len(row))
        yield row


def slices(meter: Meter, value: Any, slices: int, fill_with: Any = None) -> Iterator[list[Any]]:
    values = elements(meter, value)
    size, longer = divmod(len(values), slices)
    start = 0
    for number in range(slices):
        meter.pay(OBJECT)
        stop = start + size + (number < longer)
        row = part(meter, values, start, stop, None)
        if fill_with is not None and number >= longer:
            row.append(fill_with)
        yield row
        start = stop


# ---- order --------------------------------------------------------------------------------------


def _sorted(meter: Meter, values: list[Any], get: Getter, reverse: bool = False) -> list[Any]:
    """Values in the order of what `get` finds in them; a comparison costs what the largest of these does."""
    meter.pay(2 * OBJECT * (1 + len(values)))
    keys = [get(value) for value in values]
    largest = 0
    for found in keys:
        size = survey(meter, found)
        largest = max(largest, size.characters // 16 + size.values)
    meter.pay(len(keys) * len(keys).bit_length() * (STEP + largest))
    order = sorted(range(len(keys)), key=keys.__getitem__, reverse=reverse)
    return [values[i] for i in order]


def sort(
    meter: Meter, value: Any, reverse: bool = False, case_sensitive: bool = False, attribute: Any = None
) -> list[Any]:
    meter.pay(_parting(attribute, ","))
    paths = attribute.split(",") if type(attribute) is str else [attribute]
    gets = [getter(meter, path, case_sensitive=case_sensitive) for path in paths]
    return _sorted(meter, elements(meter, value), lambda element: [get(element) for get in gets], reverse)


def dictsort(
    meter: Meter, value: Any, case_sensitive: bool = False, by: str = "key", reverse: bool = False
) -> list[Any]:
    if by not in ("key", "value"):
        raise FilterArgumentError('You can only sort by either "key" or "value"')
    get = getter(meter, int(by == "value"), case_sensitive=case_sensitive)
    return _sorted(meter, list(items(meter, value)), get, reverse)


def items(meter: Meter, value: Any) -> Iterator[Any]:
    """The filter items: rows of a table; none of something undefined."""
    if type(value) is dict:
        yield from lazily(meter, value.items())
    elif not isinstance(value, Undefined):
        raise TypeError("Can only get item pairs from a mapping.")


def extreme(sign: int) -> Run:
    """The filters min and max: the first of the values that come first or last in order."""

    def run(meter: Meter, value: Any, case_sensitive: bool = False, attribute: Any = None) -> Any:
        values = elements(meter, value)
        get = getter(meter, attribute, case_sensitive=case_sensitive)
        found = _sorted(meter, values, get, reverse=sign > 0)
        return found[0] if found else Undefined("No aggregated item, sequence was empty.")

    return run


def unique(meter: Meter, value: Any, case_sensitive: bool = False, attribute: Any = None) -> Iterator[Any]:
    get = getter(meter, attribute, case_sensitive=case_sensitive)
    seen: set[Any] = set()
    for element in lazily(meter, value):
        found = key(meter, get(element), len(seen))
        if found not in seen:
            meter.pay(OBJECT)
            seen.add(found)
            yield element


def grouped(meter: Meter, value: Any, attribute: Any, default: Any = None, case_sensitive: bool = False) -> list[Group]:
    get = getter(meter, attribute, default=default, case_sensitive=case_sensitive)
    exact = getter(meter, attribute, default=default)
    groups = [list(group) for _, group in groupby(_sorted(meter, elements(meter, value), get), get)]
    meter.pay(2 * OBJECT * len(groups))
    return [Group((exact(group[0]), group)) for group in groups]
