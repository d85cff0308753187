"""Values written into texts: the % operator, str.format and JSON, whose widths and repetitions a template chooses."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from string import Formatter
from typing import Any

from fastlm.tokenizer.jinja.meter import NUMBERS, OBJECT, STEP, Meter, survey, text

_PERCENT = re.compile(r"%(?:\([^()]{0,100}\))?[#0\- +]*(\*|\d*)(?:\.(\*|\d*))?[hlL]?(.?)", re.DOTALL)
_DIGITS = re.compile(r"\d+")
_MAX_DIGITS = 5  # of a width
_FIELD_WORK = 200  # of a field, since Python's Formatter is slow


def percent(meter: Meter, form: str, values: Any) -> str:
    """`form % values`."""
    meter.pay(len(form) + OBJECT * form.count("%"))
    fields, widths, quoted = 0, 0, False
    for field in _PERCENT.finditer(form):
        fields += 1
        widths += sum(_width(digits) for digits in field.group(1, 2) if digits)
        if field[3] in ("(", ")"):
            raise ValueError("a name in a format is too long, or holds parentheses")
        quoted |= field[3] in ("r", "a")
    longest = _printed(meter, values, quoted)
    if isinstance(values, (dict, tuple)):
        each = values.values() if isinstance(values, dict) else values
        longest = max(longest if "(" not in form else 0, *(_printed(meter, v, quoted) for v in each), 0)
    meter.room(len(form) + widths + fields * longest)
    made: str = form % values
    meter.pay(len(made))
    return made


def _width(digits: str) -> int:
    if digits == "*":
        raise ValueError("a width of '*' in a format")
    if len(digits) > _MAX_DIGITS:
        raise ValueError("a width in a format is too large")
    return int(digits)


def _printed(meter: Meter, value: object, quoted: bool) -> int:
    """Most characters that a value can come to: \\U0010ffff for one, commas and quotes."""
    if type(value) is str and not quoted:
        return len(value)
    found = survey(meter, value)
    return 10 * found.characters + 4 * found.values


def format_text(meter: Meter, form: str, /, *args: Any, **kwargs: Any) -> str:
    """`form.format(*args, **kwargs)`."""
    return _formatted(meter, form, args, kwargs)


def format_map(meter: Meter, form: str, mapping: Mapping[str, Any], /) -> str:
    """`form.format_map(mapping)`."""
    return _formatted(meter, form, (), mapping)


def _formatted(meter: Meter, form: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> str:
    meter.pay(len(form) + OBJECT * (form.count("{") + form.count("}")))
    return _Fields(meter).vformat(form, args, kwargs)


class _Fields(Formatter):
    """Python's formats, paid for; fields are named or numbered, not attributes or items of something."""

    def __init__(self, meter: Meter) -> None:
        self._meter = meter

    def get_field(self, field_name: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> tuple[Any, str]:
        self._meter.pay(_FIELD_WORK)
        if "." in field_name or "[" in field_name:
            raise ValueError("a field of a format has a name or a number, and no part")
        return self.get_value(int(field_name) if field_name.isdigit() else field_name, args, kwargs), field_name

    def convert_field(self, value: Any, conversion: Any) -> Any:
        if conversion is not None:
            self._meter.room(_printed(self._meter, value, True))
        return super().convert_field(value, conversion)

    def format_field(self, value: Any, format_spec: str) -> str:
        self._meter.room(sum(_width(digits) for digits in _DIGITS.findall(format_spec)))
        if value is not None and not isinstance(value, (str, *NUMBERS)):
            value = text(self._meter, value)
        made = format(value, format_spec)
        self._meter.pay(len(made))
        return made


def to_json(
    meter: Meter,
    value: Any,
    ensure_ascii: bool = False,
    indent: int | str | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """The filter tojson, with the arguments that transformers gives it."""
    found = survey(meter, value)
    margin = 0 if indent is None else found.depth * (len(indent) if isinstance(indent, str) else max(indent, 0))
    between = 4 if separators is None else sum(len(separator) for separator in separators)
    escaped = 12 if ensure_ascii else 6  # \ud83d\ude00 for a character, \u001f for a control character
    meter.room(escaped * found.characters + found.values * (margin + between + 4))
    meter.pay(margin + found.values * (STEP if indent is None else OBJECT + STEP * found.depth))
    made = json.dumps(
        value, ensure_ascii=bool(ensure_ascii), indent=indent, separators=separators, sort_keys=bool(sort_keys)
    )
    meter.pay(len(made))
    return made
