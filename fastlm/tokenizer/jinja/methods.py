"""Methods of texts, lists and tables that templates may call, and what they cost; others do not exist."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from jinja2.runtime import Undefined

from fastlm.tokenizer.jinja.formats import format_map, format_text
from fastlm.tokenizer.jinja.meter import OBJECT, STEP, Group, Meter, elements, key, search, survey

Run = Callable[..., Any]  # (meter, *args, **kwargs)

_LINE_ENDS = "\n\r\v\f\x1c\x1d\x1e\x85\u2028\u2029"


class Function:
    """Something that templates can call.

    Attributes
    ----------
    run
        Called with the meter before the arguments.
    members
        Its attributes.
    """

    __slots__ = ("members", "name", "run")
    is_callable = True  # as the test `callable` says; an object that only has members is not

    def __init__(self, name: str, run: Run, members: Mapping[str, Any] | None = None) -> None:
        self.name = name
        self.run = run
        self.members = members or {}

    def member(self, name: str) -> Any:
        """An attribute; undefined if there is none."""
        return self.members[name] if name in self.members else Undefined(obj=self, name=name[:100])

    def __repr__(self) -> str:
        return f"<function {self.name}>"


def bound(method: Run, owner: Any, name: str) -> Function:
    """A method of one value."""
    return Function(name, lambda meter, /, *args, **kwargs: method(meter, owner, *args, **kwargs))


# ---- texts --------------------------------------------------------------------------------------


def _plain(name: str, growth: int = 1) -> Run:
    """A method whose result has at most `growth` times the characters."""
    function = getattr(str, name)

    def run(meter: Meter, owner: str, *args: Any) -> Any:
        meter.pay(growth * len(owner))
        return function(owner, *args)

    return run


def _strip(name: str) -> Run:
    """A method that takes characters off the ends; all of these are looked at first, even for an empty text."""
    function = getattr(str, name)

    def run(meter: Meter, owner: str, characters: str | None = None, /) -> Any:
        many = len(characters or "")
        meter.pay(len(owner) * (16 + many) + many >> 4)
        return function(owner, characters)

    return run


def _edge(name: str, copies: bool = False) -> Run:
    """startswith and the like: by one text, or by each of a tuple."""
    function = getattr(str, name)

    def run(meter: Meter, owner: str, edge: Any, *bounds: Any) -> Any:
        meter.pay(len(owner) if copies else 0)
        meter.pay(sum(STEP + len(e) // 32 for e in edge) if isinstance(edge, tuple) else len(edge) // 32)
        return function(owner, edge, *bounds)

    return run


def _pad(name: str) -> Run:
    function = getattr(str, name)

    def run(meter: Meter, owner: str, width: int, *fill: str) -> Any:
        meter.pay(max(len(owner), width))
        return function(owner, width, *fill)

    return run


def _find(name: str, backwards: bool = False, copies: bool = False) -> Run:
    """A search; one from the end compares the whole needle at each place."""
    function = getattr(str, name)

    def run(meter: Meter, owner: str, needle: str, *bounds: Any) -> Any:
        meter.pay(len(owner) if copies else 0)
        meter.pay(len(owner) * (8 + len(needle)) >> 6 if backwards else search(owner, needle))
        return function(owner, needle, *bounds)

    return run


def _split(name: str, backwards: bool = False) -> Run:
    function = getattr(str, name)

    def run(meter: Meter, owner: str, sep: str | None = None, maxsplit: int = -1) -> Any:
        if sep is None:
            parts = len(owner) // 2
        else:
            meter.pay(len(owner) * (8 + len(sep)) >> 6 if backwards else 2 * search(owner, sep))
            parts = owner.count(sep) if sep else 0
        meter.room(len(owner) + OBJECT * (parts if maxsplit < 0 else min(parts, maxsplit)))
        made = function(owner, sep, maxsplit)
        meter.pay(len(owner) + OBJECT * len(made))
        return made

    return run


def _splitlines(meter: Meter, owner: str, keepends: bool = False) -> list[str]:
    meter.pay(len(owner) + OBJECT * sum(owner.count(end) for end in _LINE_ENDS))
    return owner.splitlines(keepends)


def replace(meter: Meter, owner: str, old: str, new: str, count: int = -1, /) -> str:
    """`owner.replace(old, new, count)`."""
    meter.pay(2 * search(owner, old))
    found = owner.count(old)
    meter.pay(len(owner) + max(len(new) - len(old), 0) * (found if count < 0 else min(found, count)) + found)
    return owner.replace(old, new, count)


def _expandtabs(meter: Meter, owner: str, tabsize: int = 8) -> str:
    meter.pay(len(owner) + max(tabsize, 0) * owner.count("\t"))
    return owner.expandtabs(tabsize)


def join(meter: Meter, owner: str, parts: Any) -> str:
    """`owner.join(parts)`."""
    texts = elements(meter, parts)
    meter.pay(sum(map(len, texts)) + len(owner) * len(texts))
    return owner.join(texts)


_CASES = ("capitalize", "casefold", "lower", "swapcase", "title", "upper")
_QUESTIONS = (
    *("isalnum", "isalpha", "isascii", "isdecimal", "isdigit", "isidentifier", "islower", "isnumeric"),
    *("isprintable", "isspace", "istitle", "isupper"),
)
_TEXT: dict[str, Run] = {
    **{name: _plain(name, 3) for name in _CASES},  # three characters for one, at most
    **{name: _plain(name) for name in _QUESTIONS},
    **{name: _strip(name) for name in ("strip", "lstrip", "rstrip")},
    **{name: _edge(name) for name in ("startswith", "endswith")},
    **{name: _edge(name, copies=True) for name in ("removeprefix", "removesuffix")},
    **{name: _pad(name) for name in ("center", "ljust", "rjust", "zfill")},
    **{name: _find(name) for name in ("find", "index", "count")},
    **{name: _find(name, backwards=True) for name in ("rfind", "rindex")},
    "partition": _find("partition", copies=True),
    "rpartition": _find("rpartition", backwards=True, copies=True),
    "split": _split("split"),
    "rsplit": _split("rsplit", backwards=True),
    "splitlines": _splitlines,
    "replace": replace,
    "expandtabs": _expandtabs,
    "join": join,
    "format": format_text,
    "format_map": format_map,
}


# ---- lists and tables ---------------------------------------------------------------------------


def _scan(name: str) -> Run:
    """count and index, which compare with all that a list holds."""

    def run(meter: Meter, owner: Any, value: Any, *bounds: Any) -> Any:
        survey(meter, owner)
        return getattr(owner, name)(value, *bounds)

    return run


def _copy(meter: Meter, owner: Any) -> Any:
    meter.pay(2 * STEP * len(owner))
    return owner.copy()


def _get(meter: Meter, owner: dict[Any, Any], name: Any, default: Any = None, /) -> Any:
    return owner.get(key(meter, name, len(owner)), default)


_SCANS = {name: _scan(name) for name in ("count", "index")}
METHODS: Mapping[type, Mapping[str, Run]] = {
    str: _TEXT,
    list: {**_SCANS, "copy": _copy},
    tuple: _SCANS,
    Group: _SCANS,
    dict: {
        "get": _get,
        "copy": _copy,
        "items": lambda meter, owner: owner.items(),
        "keys": lambda meter, owner: owner.keys(),
        "values": lambda meter, owner: owner.values(),
    },
    float: {"is_integer": lambda meter, owner: owner.is_integer()},
}
