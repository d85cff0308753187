"""The shape of the tree: size budgets, one-way dependencies, and what the built code exports and keeps."""

from __future__ import annotations

import ast
import importlib.util
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from support import CSRC, ROOT, BuildC

PACKAGE = ROOT / "fastlm"
C_FILES = sorted(path for path in CSRC.rglob("*") if path.suffix in (".c", ".h", ".inc"))
PYTHON_FILES = sorted(PACKAGE.rglob("*.py"))
FAMILY_FREE = {"__init__", "blob", "config", "family", "heads", "post_norm", "registry", "rope", "skeleton", "slots"}
FAMILY_FREE |= {"seq2seq", "spec", "t5_like"}  # of arch/

# The rooms of csrc/: a file may include headers of its own room and of earlier ones.
ROOMS = ("include", "base", "format", "kernels", "model", "cache", "plan", "run", "text", "engine")


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def room_of(path: Path) -> int:
    return ROOMS.index(path.relative_to(CSRC).parts[0])


def line_count(path: Path) -> int:
    return len(path.read_text().splitlines())


def c_functions(text: str) -> Iterator[tuple[str, int]]:
    """First line and length of each function: it starts in column 0 and its closing brace stands there."""
    for head in re.finditer(r"^(?!typedef)[A-Za-z_][^;{}=#]*\)\s*\{", text, re.MULTILINE):
        line_end = text.index("\n", head.end())
        one_line = text[head.end() : line_end].rstrip().endswith("}")
        end = line_end if one_line else text.index("\n}", head.end()) + 2
        yield head[0].splitlines()[0], text.count("\n", head.start(), end) + 1


def test_c_functions_are_found() -> None:
    text = (
        "int f(int a,\n      int b) {\n    if (a) {\n        g();\n    }\n}\nint g(void);\n"
        "int h(void) { return 1; }\nstatic int t[] = {\n    (1),\n};\n"
    )
    assert list(c_functions(text)) == [("int f(int a,", 6), ("int h(void) {", 1)]


def test_c_sizes() -> None:
    kernels = CSRC / "kernels"

    def most(path: Path) -> int:
        """The public header is one, so that C programs need no other."""
        return 500 if path.is_relative_to(kernels) or path.name == "fastlm.h" else 400

    too_long = [name_of(path) for path in C_FILES if line_count(path) > most(path)]
    for path in C_FILES:
        budget = 120 if path.is_relative_to(kernels) else 60
        functions = c_functions(path.read_text())
        too_long += [f"{name_of(path)}: {first} ({length} lines)" for first, length in functions if length > budget]
        too_long += [f"{name_of(path)}: {line}" for line in path.read_text().splitlines() if len(line) > 120]
    assert not too_long


def test_c_functions_are_many() -> None:
    """The finder above sees the code base, or the budget would hold of nothing."""
    assert sum(1 for path in C_FILES for _ in c_functions(path.read_text())) > 150


def test_python_sizes() -> None:
    families = {path for path in PYTHON_FILES if path.parent.name == "arch" and path.stem not in FAMILY_FREE}
    too_long = [name_of(path) for path in PYTHON_FILES if line_count(path) > (80 if path in families else 300)]
    too_long += [name_of(path) for path in (ROOT / "tests").rglob("*.py") if line_count(path) > 500]
    too_long += [name_of(path) for path in PACKAGE.glob("*.p[yx][xi]") if line_count(path) > 400]
    assert not too_long and families


def test_c_file_names_are_unique() -> None:
    names = [path.name for path in C_FILES]
    assert len(names) == len(set(names))


def test_includes_go_one_way() -> None:
    """No room includes what a later one declares: kernels/ never sees the engine."""
    wrong = []
    for path in C_FILES:
        includes = re.findall(r'^#include "([\w./]+)"', path.read_text(), re.MULTILINE)
        targets = [other for other in C_FILES if other.name in {Path(include).name for include in includes}]
        later = {t.name for t in targets if room_of(t) > room_of(path)}
        wrong += [f"{name_of(path)} includes {later}"] if later else []
        wrong += [f"{name_of(path)} includes a .c file" for target in targets if target.suffix == ".c"]
    assert not wrong


def test_headers_stand_alone(tmp_path: Path) -> None:
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler")
    source = tmp_path / "headers.c"
    for path in (path for path in C_FILES if path.suffix == ".h" and path.parent.name != "vec"):
        source.write_text(f'#include "{path.relative_to(CSRC).as_posix()}"\n')
        flags = ["-std=c11", "-fsyntax-only", "-Wall", "-Werror", f"-I{CSRC}", f"-I{CSRC / 'include'}"]
        subprocess.run([compiler, *flags, str(source)], check=True)


def imported_parts(path: Path) -> set[str]:
    """The parts of fastlm ("arch", "weights", "model" ...) that a module imports."""
    parts = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "fastlm":
            names = node.module.split(".")[1:] if node.module else []
            parts |= {names[0]} if names else {alias.name for alias in node.names}
        elif isinstance(node, ast.Import):
            parts |= {a.name.split(".")[1] for a in node.names if a.name.startswith("fastlm.")}
    return parts


@pytest.mark.parametrize(
    ("part", "allowed"),
    [
        ("errors.py", set()),
        ("arch", {"arch", "errors"}),
        ("weights", {"weights", "arch", "errors"}),
        ("positions.py", {"arch"}),
        ("reference.py", {"arch", "positions"}),
    ],
)
def test_imports_go_one_way(part: str, allowed: set[str]) -> None:
    files = [PACKAGE / part] if part.endswith(".py") else sorted((PACKAGE / part).rglob("*.py"))
    wrong = {name_of(path): imported_parts(path) - allowed for path in files}
    assert files and not {name: parts for name, parts in wrong.items() if parts}


def test_nothing_is_left_for_later() -> None:
    marks = re.compile("|".join(("TO" + "DO", "FIX" + "ME", r"\bX" + r"XX\b", "#if " + "[01]\\b")))
    folders = [ROOT / name for name in ("fastlm", "csrc", "tests", "examples", "benchmarks", "docs", ".ci", ".github")]
    suffixes = {".py", ".pyx", ".pxd", ".pyi", ".c", ".h", ".inc", ".md", ".yml", ""}
    found = []
    for path in (path for folder in folders for path in folder.rglob("*")):
        if path.is_file() and path.suffix in suffixes and "__pycache__" not in path.parts:
            text = path.read_text(errors="replace")
            found += [f"{name_of(path)}: {mark}" for mark in marks.findall(text)]
    assert not found


def test_architecture_lists_every_file() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text()
    listed = set(re.findall(r"[\w/.]+\.(?:c|h|inc|py|pyx|pxd)\b", text))
    listed_names = {Path(name).name for name in listed}
    missing = [
        name_of(path) for path in C_FILES if path.name not in listed_names and path.stem + ".c" not in listed_names
    ]
    assert not missing
    existing = {
        path.name for folder in (CSRC, PACKAGE, ROOT / "tests", ROOT / "examples") for path in folder.rglob("*")
    }
    gone = listed_names - existing - {"setup.py"}
    assert not gone, f"docs/architecture.md names files that do not exist: {sorted(gone)}"


def objects_in_writable_sections(library: Path) -> set[str]:
    table = subprocess.run(["objdump", "-t", str(library)], check=True, capture_output=True, text=True).stdout
    rows = re.findall(r"^\S+ .{6}O (\.\S+)\s+\S+\s+(?:\.hidden )?(\S+)$", table, re.MULTILINE)
    assert any(section == ".rodata" for section, _ in rows)
    return {name for section, name in rows if re.match(r"\.(data|bss|tdata|tbss)(?!\.rel\.ro)", section)}


@pytest.mark.skipif(shutil.which("objdump") is None, reason="objdump is missing")
def test_no_mutable_globals(libfastlm: Path, build_c: BuildC, tmp_path: Path) -> None:
    runtime = {"completed.0", "__dso_handle", "__TMC_END__"}  # of the compiler's own start files
    assert objects_in_writable_sections(libfastlm) <= runtime
    source = tmp_path / "counter.c"
    source.write_text("const int fixed = 3; int counted, first = 1; static int kept; int f(void) { return ++kept; }\n")
    seen = objects_in_writable_sections(build_c("counter", [source], flags=["-shared"]))
    assert seen - runtime == {"counted", "first", "kept"}


def test_extension_exports_only_its_own_names() -> None:
    spec = importlib.util.find_spec("fastlm") and importlib.util.find_spec("fastlm._core")
    if spec is None or spec.origin is None or shutil.which("nm") is None:
        pytest.skip("fastlm._core is not built, or nm is missing")
    table = subprocess.run(["nm", "-D", "--defined-only", spec.origin], check=True, capture_output=True, text=True)
    names = {line.split()[-1].split("@")[0] for line in table.stdout.splitlines()}
    strangers = {name for name in names if not name.startswith("flm_")} - {"PyInit__core", "_init", "_fini"}
    assert not strangers and "PyInit__core" in names
