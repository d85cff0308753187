"""Filters and tests of templates: Jinja's, as far as a conversation needs them, and transformers' tojson."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from types import GeneratorType
from typing import Any

from jinja2.exceptions import FilterArgumentError, TemplateRuntimeError
from jinja2.runtime import Undefined
from markupsafe import escape

from fastlm.arguments import shown
from fastlm.tokenizer.jinja import sequences
from fastlm.tokenizer.jinja.formats import percent, to_json
from fastlm.tokenizer.jinja.meter import NUMBERS, OBJECT, SEQUENCES, Meter, elements, integer, text
from fastlm.tokenizer.jinja.methods import METHODS, Run, replace
from fastlm.tokenizer.jinja.operators import ARITHMETIC, COMPARISON, attribute, part, signed

_TEXT = METHODS[str]
_WORD_START = re.compile(r"([-\s({\[<]+)")
_WORD = re.compile(r"\w+")
_MAX_DIGITS = 4_300  # of a text that is read as a number: Python's own bound
_MAX_PRECISION = 400


# ---- texts --------------------------------------------------------------------------------------


def _of_text(name: str) -> Run:
    """A method of texts as a filter of any value."""
    return lambda meter, value, *args: _TEXT[name](meter, text(meter, value), *args)


def _center(meter: Meter, value: Any, width: int = 80) -> Any:
    return _TEXT["center"](meter, text(meter, value), width)


def _title(meter: Meter, value: Any) -> str:
    words = text(meter, value)
    meter.pay(OBJECT * len(words))
    return "".join([word[0].upper() + word[1:].lower() for word in _WORD_START.split(words) if word])


def _replace(meter: Meter, value: Any, old: Any, new: Any, count: int | None = None) -> str:
    return replace(meter, text(meter, value), text(meter, old), text(meter, new), -1 if count is None else count)


def _escape(meter: Meter, value: Any) -> str:
    made = text(meter, value)
    meter.pay(5 * len(made))
    return str(escape(made))


def _wordcount(meter: Meter, value: Any) -> int:
    words = text(meter, value)
    meter.pay(OBJECT * len(words))
    return len(_WORD.findall(words))


def _indent(meter: Meter, value: str, width: int | str = 4, first: bool = False, blank: bool = False) -> str:
    margin = width if isinstance(width, str) else ARITHMETIC["Mul"](meter, " ", width)
    lines = _TEXT["splitlines"](meter, ARITHMETIC["Add"](meter, value, "\n"))
    meter.pay(len(value) + (OBJECT + len(margin)) * len(lines))
    rest = [margin + line if line or blank else line for line in lines[1:]]
    return "\n".join([margin + lines[0] if first else lines[0], *rest])


def _truncate(
    meter: Meter, value: str, length: int = 255, killwords: bool = False, end: str = "...", leeway: int | None = None
) -> Any:
    leeway = 5 if leeway is None else leeway
    if length < len(end) or leeway < 0:
        raise FilterArgumentError("truncate: length must be at least that of the end, and leeway not negative")
    if len(value) <= length + leeway:
        return value
    cut = part(meter, value, None, length - len(end), None)
    return ARITHMETIC["Add"](meter, cut if killwords else cut.rsplit(" ", 1)[0], end)


def _format(meter: Meter, value: Any, /, *args: Any, **kwargs: Any) -> str:
    if args and kwargs:
        raise FilterArgumentError("format: give positional or named values, not both")
    return percent(meter, text(meter, value), kwargs or args)


# ---- numbers ------------------------------------------------------------------------------------


def _number(value: Any) -> Any:
    """What may become a number."""
    if isinstance(value, (*NUMBERS, Undefined)) or (isinstance(value, str) and len(value) <= _MAX_DIGITS):
        return value
    raise TypeError(f"a {type(value).__name__} is no number")


def _int(meter: Meter, value: Any, default: Any = 0, base: int = 10) -> Any:
    meter.pay(2 * OBJECT + (len(value) ** 2 >> 12 if type(value) is str else 0))
    try:
        return integer(int(_number(value), base) if isinstance(value, str) else int(_number(value)))
    except (TypeError, ValueError):
        try:
            return int(float(_number(value)))
        except (TypeError, ValueError, OverflowError):
            return default


def _float(meter: Meter, value: Any, default: Any = 0.0) -> Any:
    meter.pay(OBJECT)
    try:
        return float(_number(value))
    except (TypeError, ValueError):
        return default


def _round(meter: Meter, value: Any, precision: int = 0, method: str = "common") -> Any:
    if not isinstance(value, NUMBERS) or not isinstance(precision, int) or abs(precision) > _MAX_PRECISION:
        raise TypeError(f"round: takes a number and a precision of at most {_MAX_PRECISION}")
    meter.pay(20 * OBJECT)  # the digits of a float, and powers of ten
    if method == "common":
        return round(value, precision)
    if method not in ("ceil", "floor"):
        raise FilterArgumentError("method must be common, ceil or floor")
    return (math.ceil if method == "ceil" else math.floor)(value * 10**precision) / 10**precision


# ---- any value ----------------------------------------------------------------------------------


def _default(meter: Meter, value: Any, default_value: Any = "", boolean: bool = False) -> Any:
    return default_value if isinstance(value, Undefined) or (boolean and not value) else value


def _attr(meter: Meter, value: Any, name: str) -> Any:
    """The attribute, and never the item, of that name."""
    if type(value) is dict and name in value and not hasattr(dict, name):
        return Undefined(obj=value, name=name[:100])
    return attribute(meter, value, name)


def apply(table: Mapping[str, Run], kind: str, name: Any) -> Run:
    """A filter or a test by its name."""
    if type(name) is not str or name not in table:
        raise TemplateRuntimeError(f"No {kind} named {shown(name)}.")
    return table[name]


def _map(meter: Meter, value: Any, *args: Any, **kwargs: Any) -> Iterator[Any]:
    if not value:  # None, too
        return
    if not args and "attribute" in kwargs:
        get = sequences.getter(meter, kwargs.pop("attribute"), default=kwargs.pop("default", None))
        if kwargs:
            raise FilterArgumentError(f"Unexpected keyword argument {next(iter(kwargs))!r:.100}")
        yield from map(get, sequences.lazily(meter, value))
        return
    if not args:
        raise FilterArgumentError("map requires a filter argument")
    for element in sequences.lazily(meter, value):
        meter.pay(OBJECT)
        yield apply(FILTERS, "filter", args[0])(meter, element, *args[1:], **kwargs)


def _selection(wanted: bool, by_attribute: bool) -> Run:
    """select, reject, selectattr and rejectattr."""

    def run(meter: Meter, value: Any, *args: Any, **kwargs: Any) -> Iterator[Any]:
        if not value:
            return
        if by_attribute and not args:
            raise FilterArgumentError("Missing parameter for attribute name")
        get = sequences.getter(meter, args[0] if by_attribute else None)
        name, *rest = args[by_attribute:] or (None,)
        test = None if name is None else apply(TESTS, "test", name)
        for element in sequences.lazily(meter, value):
            meter.pay(OBJECT)
            found = get(element)
            if bool(found if test is None else test(meter, found, *rest, **kwargs)) == wanted:
                yield element

    return run


FILTERS: Mapping[str, Run] = {
    **{name: _of_text(name) for name in ("capitalize", "lower", "upper")},
    "trim": _of_text("strip"),
    "title": _title,
    "replace": _replace,
    "indent": _indent,
    "truncate": _truncate,
    "center": _center,
    "wordcount": _wordcount,
    "format": _format,
    "string": text,
    "safe": text,
    "e": _escape,
    "escape": _escape,
    "forceescape": _escape,
    "tojson": to_json,
    "int": _int,
    "float": _float,
    "abs": lambda meter, value: signed(meter, abs, value),
    "round": _round,
    "default": _default,
    "d": _default,
    "attr": _attr,
    "length": sequences.length,
    "count": sequences.length,
    "list": elements,
    "join": sequences.joined,
    "first": sequences.first,
    "last": sequences.last,
    "reverse": sequences.reverse,
    "sum": sequences.total,
    "batch": sequences.batch,
    "slice": sequences.slices,
    "sort": sequences.sort,
    "unique": sequences.unique,
    "dictsort": sequences.dictsort,
    "groupby": sequences.grouped,
    "min": sequences.extreme(-1),
    "max": sequences.extreme(1),
    "items": sequences.items,
    "map": _map,
    "select": _selection(wanted=True, by_attribute=False),
    "reject": _selection(wanted=False, by_attribute=False),
    "selectattr": _selection(wanted=True, by_attribute=True),
    "rejectattr": _selection(wanted=False, by_attribute=True),
}


# ---- tests --------------------------------------------------------------------------------------


def _remainder(meter: Meter, value: Any, by: Any) -> Any:
    if not isinstance(value, (*NUMBERS, Undefined)):
        raise TypeError(f"a {type(value).__name__} is no number")
    return ARITHMETIC["Mod"](meter, value, by)


def _kind(*kinds: type) -> Run:
    return lambda meter, value: isinstance(value, kinds)


def _case(name: str) -> Run:
    return lambda meter, value: _TEXT[name](meter, text(meter, value))


_SYMBOLS = {
    "eq": ("==", "equalto"),
    "ne": ("!=",),
    "gt": (">", "greaterthan"),
    "gteq": (">=", "ge"),
    "lt": ("<", "lessthan"),
    "lteq": ("<=", "le"),
}
TESTS: Mapping[str, Run] = {
    **{name: COMPARISON[name] for name in ("eq", "ne", "gt", "lt", "in")},
    **{other: COMPARISON[name] for name, others in _SYMBOLS.items() for other in others},
    "defined": lambda meter, value: not isinstance(value, Undefined),
    "undefined": _kind(Undefined),
    "none": lambda meter, value: value is None,
    "true": lambda meter, value: value is True,
    "false": lambda meter, value: value is False,
    "boolean": _kind(bool),
    "integer": lambda meter, value: isinstance(value, int) and not isinstance(value, bool),
    "float": _kind(float),
    "number": _kind(*NUMBERS),
    "string": _kind(str),
    "mapping": _kind(dict),
    "sequence": _kind(str, list, tuple, dict, range, Undefined),
    "iterable": _kind(str, dict, range, *SEQUENCES, Undefined, GeneratorType),
    "callable": lambda meter, value: isinstance(value, Undefined) or getattr(value, "is_callable", False),
    "sameas": lambda meter, value, other: value is other,
    "odd": lambda meter, value: _remainder(meter, value, 2) == 1,
    "even": lambda meter, value: _remainder(meter, value, 2) == 0,
    "divisibleby": lambda meter, value, num: _remainder(meter, value, num) == 0,
    "lower": _case("islower"),
    "upper": _case("isupper"),
    "escaped": lambda meter, value: False,
    "filter": lambda meter, value: type(value) is str and value in FILTERS,
    "test": lambda meter, value: type(value) is str and value in TESTS,
}
