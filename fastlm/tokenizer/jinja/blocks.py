"""Loops, macros and call blocks of a template as Python functions."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

from jinja2 import nodes
from jinja2.compiler import find_undeclared
from jinja2.runtime import Undefined

from fastlm.tokenizer.jinja.expressions import OUTER, Expression, Scope, call
from fastlm.tokenizer.jinja.loops import Loop, Macro
from fastlm.tokenizer.jinja.meter import OBJECT, STEP, Meter, iterable, text
from fastlm.tokenizer.jinja.methods import Run
from fastlm.tokenizer.jinja.statements import BREAK, NEXT, Statement, Statements, Target, names_of

_MACRO_NAMES = frozenset({"caller", "varargs", "kwargs"})  # which a macro may have


class Blocks(Statements):
    """Turns the nodes of all statements into functions."""

    def _For(self, node: nodes.For) -> Statement:
        values, target = self.expression(node.iter), self._target(node.target)
        variables = {*names_of(node.target), "loop"}
        chosen = None if node.test is None else self._chosen(node.test, target, variables)
        outside, self._in_loop = self._in_loop, True
        body, names = self._reading(lambda: self._inner_body(node.body, variables))
        self._in_loop = outside
        otherwise = self._inner_body(node.else_) if node.else_ else None
        watched = node.recursive or "loop" in names

        def again(scope: Scope, depth: int) -> Run:
            def run(meter: Meter, deeper: Any) -> str:
                if not node.recursive:
                    raise TypeError("a loop that calls itself must be marked as recursive")
                out: list[str] = []
                meter.enter()
                each(meter, scope, out, deeper, depth + 1)
                meter.leave()
                made = "".join(out)
                meter.pay(len(made))
                return made

            return run

        def each(meter: Meter, scope: Scope, out: list[str], found: Any, depth: int) -> int:
            found = iterable(found)
            if chosen is not None:
                found = chosen(meter, scope, found)
            loop = None
            if watched:
                meter.pay(5 * OBJECT)
                loop = Loop(meter, found, depth, again(scope, depth))
            ended = False  # Jinja: whether a body came to its end
            for value in found if loop is None else loop:
                inner: Scope = {OUTER: scope}
                target(meter, inner, value)
                if loop is not None:
                    inner["loop"] = loop
                then = body(meter, inner, out)
                if then == BREAK:
                    break
                ended |= then == NEXT
            return NEXT if ended or otherwise is None else otherwise(meter, {OUTER: scope}, out)

        return lambda meter, scope, out: each(meter, scope, out, values(meter, scope), 0)

    def _chosen(self, node: nodes.Node, target: Target, variables: set[str]) -> Any:
        """The function of the values for which the condition of a loop holds; each is paid for."""
        before, self.work = self.work, STEP
        test = self._inside(lambda: self.expression(node), variables)
        work, self.work = self.work, before

        def choose(meter: Meter, scope: Scope, found: Any) -> Iterator[Any]:
            for value in found:
                meter.pay(work)
                inner: Scope = {OUTER: scope}
                target(meter, inner, value)
                if test(meter, inner):
                    yield value

        return choose

    def _macro(self, name: str | None, node: nodes.Macro | nodes.CallBlock) -> Expression:
        """The function that makes a macro of its node, whose body sees the variables around the definition."""
        arguments = [argument.name for argument in node.args]
        before, self.work = self.work, OBJECT * len(arguments)
        defaults: list[Expression | None] = [None] * (len(node.args) - len(node.defaults))
        defaults += [self._inside(partial(self.expression, default), arguments) for default in node.defaults]
        work, self.work = self.work, before  # of a call, before its body
        reads = frozenset(find_undeclared(node.body, _MACRO_NAMES)) - set(arguments)
        variables = {*arguments, *reads}
        write = self._outside_loops(lambda: self._written(node.body, variables))

        def make(meter: Meter, scope: Scope) -> Macro:
            meter.pay(10 * OBJECT)

            def run(meter: Meter, given: dict[str, Any]) -> str:
                meter.pay(work)
                inner = {OUTER: scope, **given}
                for name, default in zip(arguments, defaults, strict=True):
                    if name not in given:
                        missing = Undefined(f"parameter {name!r} was not provided", name=name)
                        inner[name] = missing if default is None else default(meter, inner)
                return str(write(meter, inner))

            return Macro(name, arguments, reads, run)

        return make

    def _Macro(self, node: nodes.Macro) -> Statement:
        self._set[-1].add(node.name)
        make = self._macro(node.name, node)

        def define(meter: Meter, scope: Scope, out: list[str]) -> int:
            meter.keep(scope)[node.name] = make(meter, scope)
            return NEXT

        return define

    def _CallBlock(self, node: nodes.CallBlock) -> Statement:
        caller = self._macro(None, node)
        callee, arguments = self.expression(node.call.node), self.arguments(node.call)

        def run(meter: Meter, scope: Scope, out: list[str]) -> int:
            function = callee(meter, scope)
            args, kwargs = arguments(meter, scope)
            if "caller" in kwargs:
                raise TypeError("a call block gives the caller itself")
            names = list(kwargs.items())  # Jinja's order: the caller stands before what follows **
            names.insert(len(node.call.kwargs), ("caller", caller(meter, scope)))
            made = text(meter, call(meter, function, args, dict(names)))
            meter.pay(len(made))
            out.append(made)
            return NEXT

        return run
