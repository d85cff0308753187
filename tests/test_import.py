"""`import fastlm`: light, with all public names, and a word where the core is not built."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import fastlm


def run(code: str, folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=folder, timeout=60)


def test_a_source_folder_without_its_core(tmp_path: Path) -> None:
    """As in a fresh clone, which comes before the installed package."""
    package = Path(fastlm.__file__).parent
    shutil.copytree(package, tmp_path / "fastlm", ignore=shutil.ignore_patterns("_core.*.*", "_core.so", "box"))
    for code in ("import fastlm", "from fastlm import load", "import fastlm.cli"):
        done = run(f"import sys; sys.path.insert(0, '.'); {code}", tmp_path)
        assert done.returncode == 1
        last = done.stderr.splitlines()[-1]
        assert last.startswith("ImportError: ") and "pip install ." in last and str(tmp_path / "fastlm") in last


def test_it_loads_nothing_by_itself(tmp_path: Path) -> None:
    """What it needs comes with the first name that is asked for."""
    code = "import sys, fastlm; heavy = {'numpy', 'tokenizers', 'jinja2'}; print(len(heavy & set(sys.modules)))"
    assert run(code, tmp_path).stdout == "0\n"
    assert run(f"{code}; fastlm.load; print('numpy' in sys.modules)", tmp_path).stdout == "0\nTrue\n"
    assert run(f"{code}; import fastlm.cli; print(len(heavy & set(sys.modules)))", tmp_path).stdout == "0\n0\n"


# What loading the packaged model runs. A module that only requests, other kinds of files or other tasks need is
# imported where they are: each one here is a part of the time that every program takes to start.
FIRST_LOAD = {  # by package
    "": "_core adapters arguments asynchronous encoding engine errors generation_config loading model progress",
    "arch": "blob head_tasks slots spec",
    "structured": "grammars",
    "tokenizer": "added chat classes components conversation description files finish large_json library load "
    "prompts sentences settings subwords tokenizer vocabulary",
    "weights": "container formats jsonfile locate packed paths source",
}
SLOW = {"asyncio", "concurrent.futures", "difflib", "html", "jinja2", "logging", "numpy.typing", "select"}


def test_a_first_load_imports_what_it_runs(tmp_path: Path) -> None:
    code = "import sys, fastlm; fastlm.load(); print(*sys.modules)"
    there = set(run(code, tmp_path).stdout.split())
    wanted = {"fastlm", *(f"fastlm.{package}" for package in FIRST_LOAD if package)}
    for package, modules in FIRST_LOAD.items():
        wanted.update(f"fastlm.{package}.{name}".replace("..", ".") for name in modules.split())
    assert {name for name in there if name.split(".")[0] == "fastlm"} == wanted
    assert not SLOW & there - set(run("import sys, numpy, tokenizers; print(*sys.modules)", tmp_path).stdout.split())


def test_public_names() -> None:
    names = fastlm.__all__
    assert {"load", "Model", "Session", "Request", "Completion", "ParameterError", "__version__"} <= set(names)
    assert names == sorted(names) and set(names) <= set(dir(fastlm))
    given: dict[str, object] = {}
    exec("from fastlm import *", given)
    assert set(names) <= set(given) and all(given[name] is getattr(fastlm, name) for name in names)
    assert fastlm.Model.__module__ == "fastlm.model" and fastlm.__version__.count(".") == 2


@pytest.mark.parametrize("name", ["laod", "Modle", "_nothing", "__wrapped__"])
def test_names_that_are_none(name: str) -> None:
    with pytest.raises(AttributeError, match=f"module 'fastlm' has no attribute '{name}'"):
        getattr(fastlm, name)
