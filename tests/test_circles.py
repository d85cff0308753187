"""No circles: what a file depends on does not depend on it, neither in fastlm/ nor in csrc/.

Every import counts, also one inside a function (it puts a circle off, it does not remove it) and one under
TYPE_CHECKING: who needs another module's type knows that module, and cannot be read or changed without it.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from support import CSRC, ROOT

PACKAGE = ROOT / "fastlm"
Graph = Mapping[str, set[str]]
Circle = frozenset[str]


def circles(graph: Graph) -> set[Circle]:
    """The largest sets of nodes of which each is reached from each other."""
    reached = {node: reachable(graph, node) for node in graph}
    return {
        frozenset({node, *(n for n in ahead if node in reached.get(n, ()))})
        for node, ahead in reached.items()
        if node in ahead
    }


def reachable(graph: Graph, start: str) -> set[str]:
    found: set[str] = set()
    waiting = [start]
    while waiting:
        fresh = graph.get(waiting.pop(), set()) - found
        found |= fresh
        waiting += fresh
    return found


def test_circles_are_found() -> None:
    assert circles({"a": {"b"}, "b": {"c"}, "c": set()}) == set()
    graph = {"a": {"b"}, "b": {"a", "c"}, "c": {"d"}, "d": {"e"}, "e": {"c"}, "f": {"f", "a", "leaf"}}
    assert circles(graph) == {frozenset("ab"), frozenset("cde"), frozenset("f")}


def module_file(names: Iterable[str]) -> Path | None:
    """The file of fastlm/ that a dotted name means, if it is one."""
    path = PACKAGE.joinpath(*names)
    candidates = (path.with_suffix(".py"), path.with_suffix(".pyi"), path / "__init__.py")
    return next((file for file in candidates if file.is_file()), None)


def imports(text: str) -> set[str]:
    """The files of fastlm/ that a module's text imports."""
    found = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            named = [alias.name.split(".") for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            base = node.module.split(".")
            named = [[*base, alias.name] if module_file([*base[1:], alias.name]) else base for alias in node.names]
        else:
            continue
        files = [module_file(names[1:]) for names in named if names[0] == "fastlm"]
        found |= {file.relative_to(PACKAGE).as_posix() for file in files if file}
    return found


def test_imports_are_found() -> None:
    text = "from typing import TYPE_CHECKING\nfrom fastlm import _core\nimport fastlm.errors\n"
    text += (
        "if TYPE_CHECKING:\n    from fastlm.model import Model\ndef f():\n    from fastlm.arch import spec, registry\n"
    )
    assert imports(text) == {"_core.pyi", "errors.py", "model.py", "arch/spec.py", "arch/registry.py"}


def test_modules_form_no_circles() -> None:
    files = sorted(PACKAGE.rglob("*.py"))
    graph = {path.relative_to(PACKAGE).as_posix(): imports(path.read_text()) for path in files}
    assert sum(map(len, graph.values())) > 200
    assert circles(graph) == set()


def unit(name: str) -> str:
    """x.c and x.h are one; a body (.inc) is one of its own."""
    path = Path(name)
    return path.name if path.suffix == ".inc" else path.stem


def test_units_of_c_form_no_circles() -> None:
    graph: dict[str, set[str]] = {}
    for path in (path for path in CSRC.rglob("*") if path.suffix in (".c", ".h", ".inc")):
        includes = re.findall(r'^\s*#\s*include "([\w./]+)"', path.read_text(), re.MULTILINE)
        graph.setdefault(unit(path.name), set()).update({unit(name) for name in includes} - {unit(path.name)})
    assert sum(map(len, graph.values())) > 100
    assert circles(graph) == set()
