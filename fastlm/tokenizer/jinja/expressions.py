"""Expressions of a template as Python functions: each takes the meter and the variables in sight and gives a value."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

from jinja2 import nodes
from jinja2.exceptions import TemplateAssertionError
from jinja2.runtime import Undefined

from fastlm.tokenizer.jinja import operators
from fastlm.tokenizer.jinja.filters import FILTERS, TESTS, apply
from fastlm.tokenizer.jinja.meter import NODE, STEP, Meter, elements, integer, key, text
from fastlm.tokenizer.jinja.methods import Function
from fastlm.tokenizer.jinja.operators import Binary

Scope = dict[str, Any]  # the variables of one body
OUTER = "^"  # the name, no variable's, of the body around it
Expression = Callable[[Meter, Scope], Any]
CAPTURED = ""  # the name, no variable's, of the text that the filter of a block gets


def call(meter: Meter, callee: Any, args: list[Any], kwargs: dict[str, Any]) -> Any:
    """The value of a call; only what this package offers can be called."""
    if isinstance(callee, Function):
        return callee.run(meter, *args, **kwargs)
    if isinstance(callee, Undefined):
        return callee._fail_with_undefined_error()
    raise TypeError(f"'{type(callee).__name__}' object is not callable")


class Expressions:
    """Turns the nodes of expressions into functions.

    Attributes
    ----------
    work
        Of a run through the nodes translated so far. Who translates a body takes it, and has the body pay.
    depth
        How many bodies with variables of their own are around the node, through which a name is looked for.
    names
        All variables that are read.
    given
        Those of them that nothing before has set: the caller may give them.
    """

    def __init__(self) -> None:
        self.work = 0
        self.depth = 0
        self.names: set[str] = set()
        self.given: set[str] = set()
        self._set: list[set[str]] = [set()]  # the variables that are set for sure, by body

    def expression(self, node: nodes.Node) -> Expression:
        """The function of an expression."""
        self.work += NODE
        translate = getattr(self, f"_{type(node).__name__}", None)
        if translate is None:
            raise TemplateAssertionError(f"{type(node).__name__} is no part of a chat template", node.lineno)
        return translate(node)  # type: ignore[no-any-return]

    def optional(self, node: nodes.Node | None) -> Expression:
        """The function of an expression that may be left out."""
        return (lambda meter, scope: None) if node is None else self.expression(node)

    # ---- values -------------------------------------------------------------------------------

    def _Const(self, node: nodes.Const) -> Expression:
        value = integer(node.value) if isinstance(node.value, int) else node.value
        return lambda meter, scope: value

    def _TemplateData(self, node: nodes.TemplateData) -> Expression:
        return lambda meter, scope: node.data

    def _Name(self, node: nodes.Name) -> Expression:
        name = node.name
        self.names.add(name)
        if not any(name in names for names in self._set):
            self.given.add(name)
        self.work += 2 * self.depth

        def load(meter: Meter, scope: Scope) -> Any:
            while name not in scope:
                if OUTER not in scope:
                    return Undefined(name=name)
                scope = scope[OUTER]
            return scope[name]

        return load

    def _List(self, node: nodes.List) -> Expression:
        items = [self.expression(item) for item in node.items]
        self.work += STEP * (1 + len(items))
        return lambda meter, scope: [item(meter, scope) for item in items]

    def _Tuple(self, node: nodes.Tuple) -> Expression:
        items = [self.expression(item) for item in node.items]
        self.work += STEP * (1 + len(items))
        return lambda meter, scope: tuple([item(meter, scope) for item in items])

    def _Dict(self, node: nodes.Dict) -> Expression:
        pairs = [(self.expression(pair.key), self.expression(pair.value)) for pair in node.items]
        self.work += 2 * STEP * (1 + len(pairs))

        def make(meter: Meter, scope: Scope) -> dict[Any, Any]:
            made: dict[Any, Any] = {}
            for name, value in pairs:
                found = key(meter, name(meter, scope), len(made))
                made[found] = value(meter, scope)
            return made

        return make

    # ---- operators ----------------------------------------------------------------------------

    def _arithmetic(self, node: nodes.BinExpr) -> Expression:
        function = operators.ARITHMETIC[type(node).__name__]
        left, right = self.expression(node.left), self.expression(node.right)
        self.work += STEP
        return lambda meter, scope: function(meter, left(meter, scope), right(meter, scope))

    _Add = _Sub = _Mul = _Div = _FloorDiv = _Mod = _Pow = _arithmetic

    def _Concat(self, node: nodes.Concat) -> Expression:
        parts = [self.expression(part) for part in node.nodes]

        def concat(meter: Meter, scope: Scope) -> str:
            texts = [text(meter, part(meter, scope)) for part in parts]
            meter.pay(sum(map(len, texts)))
            return "".join(texts)

        return concat

    def _Compare(self, node: nodes.Compare) -> Expression:
        first = self.expression(node.expr)
        rest = [(operators.COMPARISON[operand.op], self.expression(operand.expr)) for operand in node.ops]
        if len(rest) == 1:
            ((function, second),) = rest
            if isinstance(node.ops[0].expr, nodes.Const):
                value = node.ops[0].expr.value
                return lambda meter, scope: function(meter, first(meter, scope), value)
            return lambda meter, scope: function(meter, first(meter, scope), second(meter, scope))

        def chain(meter: Meter, scope: Scope) -> bool:
            left = first(meter, scope)
            for function, other in rest:
                right = other(meter, scope)
                if not function(meter, left, right):
                    return False
                left = right
            return True

        return chain

    def _And(self, node: nodes.And) -> Expression:
        left, right = self.expression(node.left), self.expression(node.right)
        return lambda meter, scope: left(meter, scope) and right(meter, scope)

    def _Or(self, node: nodes.Or) -> Expression:
        left, right = self.expression(node.left), self.expression(node.right)
        return lambda meter, scope: left(meter, scope) or right(meter, scope)

    def _Not(self, node: nodes.Not) -> Expression:
        value = self.expression(node.node)
        return lambda meter, scope: not value(meter, scope)

    def _Neg(self, node: nodes.Neg) -> Expression:
        value = self.expression(node.node)
        return lambda meter, scope: operators.signed(meter, operator.neg, value(meter, scope))

    def _Pos(self, node: nodes.Pos) -> Expression:
        value = self.expression(node.node)
        return lambda meter, scope: operators.signed(meter, operator.pos, value(meter, scope))

    def _CondExpr(self, node: nodes.CondExpr) -> Expression:
        test, yes = self.expression(node.test), self.expression(node.expr1)
        if node.expr2 is not None:
            no = self.expression(node.expr2)
            return lambda meter, scope: yes(meter, scope) if test(meter, scope) else no(meter, scope)
        hint = f"the inline if-expression on line {node.lineno} evaluated to false and no else section was defined."
        return lambda meter, scope: yes(meter, scope) if test(meter, scope) else Undefined(hint)

    # ---- parts, calls -------------------------------------------------------------------------

    def _Getattr(self, node: nodes.Getattr) -> Expression:
        owner, name = self.expression(node.node), node.attr
        if name in operators.OF_TABLES:
            return lambda meter, scope: operators.attribute(meter, owner(meter, scope), name)
        return self._field(owner, name, operators.attribute)

    def _field(self, owner: Expression, name: str, otherwise: Binary) -> Expression:
        """What a table has by a name, which most parts of messages are; anything else is found by `otherwise`."""

        def get(meter: Meter, scope: Scope) -> Any:
            found = owner(meter, scope)
            if type(found) is dict and name in found:
                return found[name]
            return otherwise(meter, found, name)

        return get

    def _Getitem(self, node: nodes.Getitem) -> Expression:
        owner = self.expression(node.node)
        if isinstance(node.arg, nodes.Slice):
            bounds = [self.optional(bound) for bound in (node.arg.start, node.arg.stop, node.arg.step)]
            return lambda meter, scope: operators.part(
                meter, owner(meter, scope), *[bound(meter, scope) for bound in bounds]
            )
        where, item = self.expression(node.arg), operators.item
        if isinstance(node.arg, nodes.Const) and type(node.arg.value) is str:
            return self._field(owner, node.arg.value, item)
        return lambda meter, scope: item(meter, owner(meter, scope), where(meter, scope))

    def _Call(self, node: nodes.Call) -> Expression:
        callee, arguments = self.expression(node.node), self.arguments(node)
        self.work += 2 * STEP

        def run(meter: Meter, scope: Scope) -> Any:
            function = callee(meter, scope)
            args, kwargs = arguments(meter, scope)
            return call(meter, function, args, kwargs)

        return run

    def _Filter(self, node: nodes.Filter) -> Expression:
        captured: Expression = lambda meter, scope: scope[CAPTURED]  # noqa: E731
        return self.applied(captured if node.node is None else self.expression(node.node), node, "filter")

    def _Test(self, node: nodes.Test) -> Expression:
        return self.applied(self.expression(node.node), node, "test")

    def applied(self, value: Expression, node: nodes.Filter | nodes.Test, kind: str) -> Expression:
        """A filter or a test of a value."""
        table = FILTERS if kind == "filter" else TESTS
        self.work += 2 * STEP
        function = table.get(node.name)
        if function is None:  # an error if it is reached
            return lambda meter, scope: apply(table, kind, node.name)
        if not (node.args or node.kwargs or node.dyn_args or node.dyn_kwargs):
            return lambda meter, scope: function(meter, value(meter, scope))
        arguments = self.arguments(node)

        def run(meter: Meter, scope: Scope) -> Any:
            found = value(meter, scope)
            args, kwargs = arguments(meter, scope)
            return function(meter, found, *args, **kwargs)

        return run

    def arguments(
        self, node: nodes.Call | nodes.Filter | nodes.Test
    ) -> Callable[..., tuple[list[Any], dict[str, Any]]]:
        """The function of what stands between the parentheses of a call."""
        args = [self.expression(arg) for arg in node.args]
        named = [(pair.key, self.expression(pair.value)) for pair in node.kwargs]
        self.work += STEP
        more = None if node.dyn_args is None else self.expression(node.dyn_args)
        more_named = None if node.dyn_kwargs is None else self.expression(node.dyn_kwargs)
        if len(dict(named)) < len(named):
            raise TemplateAssertionError("an argument is named twice", node.lineno)

        def make(meter: Meter, scope: Scope) -> tuple[list[Any], dict[str, Any]]:
            values = [arg(meter, scope) for arg in args]
            names: dict[Any, Any] = {name: value(meter, scope) for name, value in named}
            if more is not None:
                values += elements(meter, more(meter, scope))
            if more_named is not None:
                table = more_named(meter, scope)
                if type(table) is not dict:
                    raise TypeError("what follows ** must be a mapping")
                meter.pay(2 * STEP * len(table))
                if names.keys() & table.keys() or not all(type(name) is str for name in table):
                    raise TypeError("what follows ** must have other names, which are texts")
                names.update(table)
            return values, names

        return make
