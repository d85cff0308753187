"""Functions with a state of their own: the `loop` of a for, macros, cyclers and joiners."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from jinja2.runtime import Undefined

from fastlm.tokenizer.jinja.meter import STEP, Meter
from fastlm.tokenizer.jinja.methods import Function, Run
from fastlm.tokenizer.jinja.operators import COMPARISON

Body = Callable[[Meter, dict[str, Any]], str]  # of a macro: called with the variables that its parameters make

_NOTHING: Any = object()
_SHOWN = 100  # characters of a name


class Loop(Function):
    """`loop` in the body of a for: where it is, read one value ahead where that is asked for."""

    __slots__ = ("_after", "_before", "_depth", "_index", "_length", "_meter", "_told", "_value", "_values")

    def __init__(self, meter: Meter, values: Any, depth: int, again: Run) -> None:
        super().__init__("loop", again)
        self._meter = meter
        self._values: Iterator[Any] = iter(values)
        self._length = len(values) if hasattr(values, "__len__") else None
        self._depth = depth
        self._index = -1
        self._after = self._before = self._value = _NOTHING
        self._told: dict[str, Any] | None = None  # what `changed` was last called with

    def __iter__(self) -> Iterator[Any]:
        while (following := self._peek()) is not _NOTHING:
            self._before, self._value, self._after = self._value, following, _NOTHING
            self._index += 1
            yield following

    def member(self, name: str) -> Any:
        found = _LOOP.get(name)
        return super().member(name) if found is None else found(self)

    def __repr__(self) -> str:
        return f"<LoopContext {self._index + 1}/{self._count()}>"

    def _peek(self) -> Any:
        if self._after is _NOTHING:
            self._after = next(self._values, _NOTHING)
        return self._after

    def _count(self) -> int:
        if self._length is None:
            rest = []
            for value in self._values:
                self._meter.pay(STEP)
                rest.append(value)
            self._length = len(rest) + self._index + 1 + (self._after is not _NOTHING)
            self._values = iter(rest)
        return self._length

    def _neighbour(self, value: Any, which: str) -> Any:
        return Undefined(f"there is no {which} item") if value is _NOTHING else value

    def _cycle(self, meter: Meter, *items: Any) -> Any:
        if not items:
            raise TypeError("no items for cycling given")
        return items[self._index % len(items)]

    def _differs(self, meter: Meter, *values: Any) -> bool:
        if self._told is None:
            self._told = meter.keep({})
        same = bool(self._told) and COMPARISON["eq"](meter, self._told["values"], values)
        self._told["values"] = values
        return not same


_LOOP: dict[str, Callable[[Loop], Any]] = {
    "index0": lambda loop: loop._index,
    "index": lambda loop: loop._index + 1,
    "revindex0": lambda loop: loop._count() - loop._index - 1,
    "revindex": lambda loop: loop._count() - loop._index,
    "length": lambda loop: loop._count(),
    "first": lambda loop: loop._index == 0,
    "last": lambda loop: loop._peek() is _NOTHING,
    "previtem": lambda loop: loop._neighbour(loop._before, "previous"),
    "nextitem": lambda loop: loop._neighbour(loop._peek(), "next"),
    "depth0": lambda loop: loop._depth,
    "depth": lambda loop: loop._depth + 1,
    "cycle": lambda loop: Function("cycle", loop._cycle),
    "changed": lambda loop: Function("changed", loop._differs),
}


class Macro(Function):
    """A macro, or the `caller` of a call block.

    Parameters
    ----------
    name
        None: a caller's.
    arguments
        Names of its parameters.
    reads
        Those of "caller", "varargs" and "kwargs" that its body reads.
    body
        See `Body`.
    """

    __slots__ = ()

    def __init__(self, name: str | None, arguments: Sequence[str], reads: frozenset[str], body: Body) -> None:
        catches = {f"catch_{what}": what in reads for what in ("varargs", "kwargs")}
        members = {"name": name, "arguments": tuple(arguments), "caller": "caller" in reads, **catches}
        super().__init__(name or "caller", _called(name or "caller", arguments, reads, body), members)

    def __repr__(self) -> str:
        return f"<Macro {self.name[:_SHOWN]!r}>" if self.members["name"] else "<Macro anonymous>"


def _called(macro: str, arguments: Sequence[str], reads: frozenset[str], body: Body) -> Run:
    """The function that calls the body of a macro: no method of it, so that a macro does not hold itself."""

    def run(meter: Meter, /, *args: Any, **kwargs: Any) -> str:
        given: dict[str, Any] = dict(zip(arguments, args, strict=False))
        for name in arguments[len(args) :]:
            if name in kwargs:
                given[name] = kwargs.pop(name)
        if "caller" in reads:
            given["caller"] = kwargs.pop("caller", None) or Undefined("No caller defined", name="caller")
        if "kwargs" in reads:
            given["kwargs"] = kwargs
        elif kwargs:
            raise TypeError(f"macro {macro!r} takes no keyword argument {next(iter(kwargs))!r:.100}")
        if "varargs" in reads:
            given["varargs"] = args[len(arguments) :]
        elif len(args) > len(arguments):
            raise TypeError(f"macro {macro!r} takes not more than {len(arguments)} argument(s)")
        meter.enter()
        made = body(meter, given)
        meter.leave()
        return made

    return run


class Cycler(Function):
    """What cycler() makes: gives its values in turns."""

    __slots__ = ("_at", "_items")
    is_callable = False

    def __init__(self, items: Sequence[Any]) -> None:
        super().__init__("cycler", _no_call)
        self._items = items
        self._at = 0

    def member(self, name: str) -> Any:
        if name == "current":
            return self._items[self._at]
        if name == "next":
            return Function(name, self._next)
        return Function(name, self._reset) if name == "reset" else super().member(name)

    def _next(self, meter: Meter) -> Any:
        found = self._items[self._at]
        self._at = (self._at + 1) % len(self._items)
        return found

    def _reset(self, meter: Meter) -> None:
        self._at = 0


def _no_call(meter: Meter, /, *args: Any, **kwargs: Any) -> Any:
    raise TypeError("this object is not callable")


def cycler(meter: Meter, *items: Any) -> Cycler:
    """The function cycler."""
    if not items:
        raise TypeError("at least one item has to be provided")
    return Cycler(items)


def joiner(meter: Meter, sep: str = ", ") -> Function:
    """The function joiner: what it makes gives nothing at first, then the text."""
    texts = iter(("",))
    return Function("joiner", lambda meter: next(texts, sep))
