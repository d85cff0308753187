"""Statements of a template as Python functions: each takes the meter, the variables in sight and the text so far."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from jinja2 import nodes
from jinja2.exceptions import TemplateAssertionError, TemplateRuntimeError
from jinja2.idtracking import VAR_LOAD_UNDEFINED, Symbols
from jinja2.runtime import Undefined

from fastlm.tokenizer.jinja.expressions import CAPTURED, OUTER, Expression, Expressions, Scope
from fastlm.tokenizer.jinja.functions import name_of_attribute
from fastlm.tokenizer.jinja.meter import STEP, Exhausted, Meter, Namespace, elements, text

MAX_BODIES = 20  # in each other: as many as Python's own
NEXT, BREAK, CONTINUE = range(3)  # how a body goes on after a statement
BLOCKS: tuple[type[nodes.Node], ...] = (  # with variables of their own
    *(nodes.For, nodes.Macro, nodes.CallBlock, nodes.FilterBlock, nodes.With),
    *(nodes.ScopedEvalContextModifier, nodes.Scope, nodes.Block, nodes.AssignBlock),
)

Statement = Callable[[Meter, Scope, list[str]], int]
Target = Callable[[Meter, Scope, Any], None]


def names_of(target: nodes.Node) -> set[str]:
    """The variables that an assignment sets."""
    return {name.name for name in (target, *target.find_all(nodes.Name)) if isinstance(name, nodes.Name)}


def _assign_name(name: str) -> Target:
    def assign(meter: Meter, scope: Scope, value: Any) -> None:
        scope[name] = value

    return assign


def _assign_attribute(owner: Expression, name: str) -> Target:
    name_of_attribute(name)

    def assign(meter: Meter, scope: Scope, value: Any) -> None:
        found = owner(meter, scope)
        if not isinstance(found, Namespace):
            raise TemplateRuntimeError("cannot assign attribute on non-namespace object")
        found.attributes[name] = value

    return assign


class Statements(Expressions):
    """Turns the nodes of statements into functions."""

    def __init__(self) -> None:
        super().__init__()
        self._in_loop = False
        self._symbols: list[Symbols] = []

    def body(self, statements: Sequence[nodes.Node]) -> Statement:
        """The function of statements that run one after the other, which pays for itself."""
        before, self.work = self.work, 2 * STEP
        steps = tuple([self._statement(node) for node in statements])
        work, self.work = self.work, before

        def run(meter: Meter, scope: Scope, out: list[str]) -> int:
            meter.left -= work
            if meter.left < 0:
                raise Exhausted
            for step in steps:
                then = step(meter, scope, out)
                if then:
                    return then
            return NEXT

        return run

    def _inner_body(self, statements: Sequence[nodes.Node], names: Iterable[str] = ()) -> Statement:
        """The function of a body that has variables of its own, with what sets `names` in it."""
        if self.depth == MAX_BODIES:
            raise TemplateAssertionError(f"more than {MAX_BODIES} blocks in each other", statements[0].lineno)
        return self._inside(lambda: self.whole_body(statements, names), names)  # type: ignore[no-any-return]

    def whole_body(self, statements: Sequence[nodes.Node], names: Iterable[str] = ()) -> Statement:
        """The function of a body that has variables of its own, of which `names` are set.

        A variable that it sets before it has read it is its own from the start: blocks inside of it that run earlier
        find it undefined, even where the template is given one of that name. Jinja decides so, too.
        """
        symbols = Symbols(self._symbols[-1] if self._symbols else None)
        for name in names:
            symbols.declare_parameter(name)
        scope = nodes.Scope(list(statements))
        symbols.analyze_node(scope)
        self._symbols.append(symbols)
        body = self.body(statements)
        self._symbols.pop()
        inner = {name.name for block in scope.find_all(BLOCKS) for name in block.find_all(nodes.Name)}
        late = [name for name in inner if symbols.loads.get(symbols.refs.get(name, "")) == (VAR_LOAD_UNDEFINED, None)]
        missing = [(name, Undefined(name=name)) for name in late]

        def run(meter: Meter, scope: Scope, out: list[str]) -> int:
            for name, value in missing:
                scope.setdefault(name, value)
            return body(meter, scope, out)

        return run if missing else body

    def _inside(self, translate: Callable[[], Any], names: Iterable[str]) -> Any:
        """What `translate` gives where one more body has variables of its own, `names` among them."""
        self.depth += 1
        self._set.append(set(names))
        made = translate()
        self._set.pop()
        self.depth -= 1
        return made

    def _statement(self, node: nodes.Node) -> Statement:
        self.work += STEP
        translate = getattr(self, f"_{type(node).__name__}", None)
        if translate is None or isinstance(node, nodes.Expr):
            raise TemplateAssertionError(f"{type(node).__name__} is no part of a chat template", node.lineno)
        return translate(node)  # type: ignore[no-any-return]

    def _reading(self, translate: Callable[[], Any]) -> tuple[Any, set[str]]:
        """What `translate` gives, and the variables that it found to be read."""
        before, self.names = self.names, set()
        made = translate()
        found, self.names = self.names, before | self.names
        return made, found

    # ---- text ---------------------------------------------------------------------------------

    def _Output(self, node: nodes.Output) -> Statement:
        pieces: list[str | Expression] = []
        for child in node.nodes:
            if isinstance(child, nodes.TemplateData):
                self.work += len(child.data)
                pieces.append(child.data)
            else:
                pieces.append(self.expression(child))

        def write(meter: Meter, scope: Scope, out: list[str]) -> int:
            for piece in pieces:
                if isinstance(piece, str):
                    out.append(piece)
                    continue
                value = piece(meter, scope)
                if type(value) is not str:
                    value = text(meter, value)
                meter.left -= len(value)
                if meter.left < 0:
                    raise Exhausted
                out.append(value)
            return NEXT

        return write

    def _written(self, statements: Sequence[nodes.Node], names: Iterable[str] = ()) -> Callable[[Meter, Scope], str]:
        """The function of a body whose text is a value."""
        body = self._inner_body(statements, names)

        def write(meter: Meter, scope: Scope) -> str:
            out: list[str] = []
            body(meter, scope, out)
            made = "".join(out)
            meter.pay(len(made))
            return made

        return write

    def _FilterBlock(self, node: nodes.FilterBlock) -> Statement:
        value = self._captured(node.body, node.filter)

        def write(meter: Meter, scope: Scope, out: list[str]) -> int:
            made = text(meter, value(meter, scope))
            meter.pay(len(made))
            out.append(made)
            return NEXT

        return write

    def _captured(self, statements: Sequence[nodes.Node], how: nodes.Filter | None) -> Expression:
        """The text of a block, filtered."""
        write = self._outside_loops(lambda: self._written(statements))
        change = None if how is None else self.expression(how)

        def value(meter: Meter, scope: Scope) -> Any:
            inner: Scope = {OUTER: scope}
            inner[CAPTURED] = write(meter, inner)
            return inner[CAPTURED] if change is None else change(meter, inner)

        return value

    def _outside_loops(self, translate: Callable[[], Any]) -> Any:
        """What `translate` gives where break and continue have no loop."""
        before, self._in_loop = self._in_loop, False
        made = translate()
        self._in_loop = before
        return made

    # ---- variables ----------------------------------------------------------------------------

    def _target(self, node: nodes.Node) -> Target:
        self.work += STEP
        if isinstance(node, nodes.Name):
            return _assign_name(node.name)
        if isinstance(node, nodes.NSRef):
            return _assign_attribute(self._Name(nodes.Name(node.name, "load")), node.attr)
        if not isinstance(node, nodes.Tuple):
            raise TemplateAssertionError("this cannot be assigned to", node.lineno)
        targets = [self._target(item) for item in node.items]

        def unpack(meter: Meter, scope: Scope, value: Any) -> None:
            values = elements(meter, value)
            if len(values) != len(targets):
                raise ValueError(f"{len(values)} values for {len(targets)} variables")
            for target, part in zip(targets, values, strict=True):
                target(meter, scope, part)

        return unpack

    def _Assign(self, node: nodes.Assign) -> Statement:
        return self._assigned(self.expression(node.node), node.target)

    def _AssignBlock(self, node: nodes.AssignBlock) -> Statement:
        return self._assigned(self._captured(node.body, node.filter), node.target)

    def _assigned(self, value: Expression, node: nodes.Expr) -> Statement:
        """The target gets the value, and is a name of the template's own from here on."""
        target = self._target(node)
        self._set[-1] |= names_of(node)

        def assign(meter: Meter, scope: Scope, out: list[str]) -> int:
            target(meter, scope, value(meter, scope))
            return NEXT

        return assign

    def _With(self, node: nodes.With) -> Statement:
        values = [self.expression(value) for value in node.values]
        targets = [self._target(target) for target in node.targets]
        body = self._inner_body(node.body, set().union(*map(names_of, node.targets)))

        def run(meter: Meter, scope: Scope, out: list[str]) -> int:
            inner: Scope = {OUTER: scope}
            for target, value in zip(targets, values, strict=True):
                target(meter, inner, value(meter, scope))
            return body(meter, inner, out)

        return run

    def _Scope(self, node: nodes.Scope | nodes.Block) -> Statement:
        body = self._inner_body(node.body)
        return lambda meter, scope, out: body(meter, {OUTER: scope}, out)

    _Block = _Scope

    # ---- branches and loops -------------------------------------------------------------------

    def _If(self, node: nodes.If) -> Statement:
        branches = [(self.expression(branch.test), self._branch(branch.body)) for branch in (node, *node.elif_)]
        otherwise = self._branch(node.else_) if node.else_ else None

        def choose(meter: Meter, scope: Scope, out: list[str]) -> int:
            for test, body in branches:
                if test(meter, scope):
                    return body(meter, scope, out)
            return NEXT if otherwise is None else otherwise(meter, scope, out)

        return choose

    def _branch(self, statements: Sequence[nodes.Node]) -> Statement:
        """The function of a body that may not run: what it sets is not set for sure."""
        before = set(self._set[-1])
        body = self.body(statements)
        self._set[-1] = before
        return body

    def _Break(self, node: nodes.Stmt) -> Statement:
        return self._leave(node, BREAK)

    def _Continue(self, node: nodes.Stmt) -> Statement:
        return self._leave(node, CONTINUE)

    def _leave(self, node: nodes.Stmt, then: int) -> Statement:
        if not self._in_loop:
            raise TemplateAssertionError("break or continue outside of a loop", node.lineno)
        return lambda meter, scope, out: then
