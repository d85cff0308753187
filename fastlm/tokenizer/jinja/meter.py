"""What a rendering may cost: a budget in units of work, and the size of values, by which operations pay.

A unit is about one character made, four bytes, or thirty nanoseconds. What an operation costs is bounded from above,
not measured: it asks for what its result could be at most before it makes it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import GeneratorType
from typing import Any

from jinja2.runtime import Undefined

_BASE_WORK = 6_000_000  # 24 MB, a fifth of a second
_WORK_PER_CHARACTER = 32  # templates copy texts a few times
_WORK_PER_ITEM = 4_000  # they run through their loops for each message, and add up what they say of tools
NODE = 5  # an expression in an expression
STEP = 10  # a statement, an element of a list
OBJECT = 30  # a new small object
MAX_DEPTH = 100  # of lists in lists
MAX_CALLS = 50  # of macros in macros
MAX_BITS = 1 << 12  # of an integer that a template makes


def work_for(characters: int, items: int) -> int:
    """The budget of a rendering: something for every template, and more for what the caller wants to see rendered."""
    return _BASE_WORK + _WORK_PER_CHARACTER * characters + _WORK_PER_ITEM * items


class Exhausted(Exception):
    """The budget is spent."""


class Meter:
    """Work that is left, and what ends with the rendering."""

    __slots__ = ("_kept", "calls", "left")

    def __init__(self, left: int) -> None:
        self.left = left
        self.calls = 0
        self._kept: list[dict[str, Any]] = []

    def keep(self, table: dict[str, Any]) -> dict[str, Any]:
        """A table that may come to hold itself: `end` empties it, or it would wait for the garbage collector."""
        self._kept.append(table)
        return table

    def end(self) -> None:
        """The rendering is over."""
        for table in self._kept:
            table.clear()

    def pay(self, work: int) -> None:
        """Spend what is done for sure."""
        self.left -= work
        if self.left < 0:
            raise Exhausted

    def room(self, work: int) -> None:
        """Make sure of what may be needed; what was needed is paid afterwards."""
        if work > self.left:
            raise Exhausted

    def enter(self) -> None:
        """Begin a call of a macro, in which others may be called; `leave` ends it."""
        self.pay(3 * OBJECT)
        if self.calls == MAX_CALLS:
            raise RecursionError(f"macros call each other more than {MAX_CALLS} deep")
        self.calls += 1

    def leave(self) -> None:
        self.calls -= 1


class Namespace:
    """A variable with attributes, which templates can set: what namespace() makes."""

    __slots__ = ("attributes",)

    def __init__(self, attributes: dict[str, Any]) -> None:
        self.attributes = attributes

    def __repr__(self) -> str:
        return f"<Namespace {self.attributes!r}>"


class Group(tuple[Any, list[Any]]):
    """A row of groupby: the common value, and the items that have it."""

    __slots__ = ()


KEY_VIEWS = type(dict[Any, Any]().keys())
ITEM_VIEWS = type(dict[Any, Any]().items())
SEQUENCES = (list, tuple, Group, KEY_VIEWS, type(dict[Any, Any]().values()), ITEM_VIEWS)
NUMBERS = (int, float, bool)


@dataclass(slots=True)
class Survey:
    """What a value holds, each part counted as often as it is reached, as by comparing, printing or sorting it."""

    values: int = 1
    characters: int = 0  # of the texts in it, and of its numbers as text
    depth: int = 0


def survey(meter: Meter, value: object) -> Survey:
    """Walk through a value, paying for each visit: structures that share their parts are as large as they look."""
    found = Survey()
    level = [value]
    while level:
        deeper: list[Any] = []
        for item in level:
            kind = type(item)
            if kind is str:
                found.characters += len(item)  # type: ignore[arg-type]
            elif kind is int:
                found.characters += 1 + digits(meter, item) // 3  # type: ignore[arg-type]
            else:
                found.characters += 32
                deeper += _parts(meter, item)
        found.values += len(deeper)
        found.depth += 1
        meter.pay(OBJECT)
        if found.depth > MAX_DEPTH:
            raise ValueError(f"a value is nested deeper than {MAX_DEPTH} levels")
        level = deeper
    meter.pay(found.characters // 16)
    return found


def _parts(meter: Meter, item: object) -> Iterator[Any]:
    """What is in a container, paid for; nothing is in anything else."""
    if isinstance(item, dict):
        meter.pay(2 * STEP * len(item) + _meetings(item))
        yield from item.keys()
        yield from item.values()
    elif isinstance(item, SEQUENCES):
        meter.pay((OBJECT if isinstance(item, ITEM_VIEWS) else STEP) * len(item))
        if isinstance(item, (KEY_VIEWS, ITEM_VIEWS)):
            meter.pay(_meetings(item.mapping))
        yield from item
    elif isinstance(item, Namespace):
        yield from _parts(meter, item.attributes)


def _meetings(table: Mapping[Any, Any]) -> int:
    """What it costs to find the keys of a table in another, beyond a step for each: see `key`."""
    return sum([type(name) is not str for name in table]) * len(table) >> 3


def digits(meter: Meter, value: int) -> int:
    """How many bits a number has, paid for by their square, as its digits cost."""
    bits = value.bit_length()
    meter.pay(bits * bits >> 15)
    return bits


def text(meter: Meter, value: object) -> str:
    """A value as text, as Jinja prints it."""
    if type(value) is str:
        return value
    if value is None or isinstance(value, NUMBERS):
        if type(value) is int:
            digits(meter, value)
        return str(value)
    found = survey(meter, value)
    meter.room(10 * found.characters + 4 * found.values)  # \U0010ffff for a character, commas and quotes
    made = str(value)
    meter.pay(len(made))
    return made


def key(meter: Meter, value: object, rivals: int) -> Any:
    """A value that is looked up in, or put into, a table of `rivals` entries.

    Texts are spread by a secret; other keys may be chosen so that they meet each other all the time.
    """
    if type(value) is str:
        meter.left -= len(value) >> 4
        return value
    if value is None or isinstance(value, (*NUMBERS, Undefined)):
        meter.pay(rivals)
        return value
    raise TypeError(f"a {type(value).__name__} cannot be a key: keys are texts and numbers")


def search(text: str, needle: str) -> int:
    """What it costs to look for a text in another, from the front.

    Python compares the whole needle at each place of a short text; in a long one it leaps, where the needle is long.
    """
    return len(text) * (8 + min(len(needle), 1250 if len(text) < 2500 else 100)) >> 6


def integer(value: int) -> int:
    """A whole number that is not too large to reckon with."""
    if value.bit_length() > MAX_BITS:
        raise OverflowError(f"a number of {value.bit_length()} bits is too large")
    return value


def iterable(value: Any) -> Any:
    """A value that `for` can go through."""
    if isinstance(value, (str, dict, range, *SEQUENCES, Undefined, GeneratorType)):
        return value
    raise TypeError(f"'{type(value).__name__}' object is not iterable")


def elements(meter: Meter, value: Any) -> list[Any]:
    """What a value holds, as a new list."""
    if type(value) is not GeneratorType:
        meter.pay(2 * STEP * len(iterable(value)))
        return list(value)
    found = []
    for element in value:
        meter.pay(STEP)
        found.append(element)
    return found
