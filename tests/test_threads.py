"""How many threads a model has where nobody says so: FASTLM_THREADS."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import fastlm
from fastlm.errors import ParameterError


def run(program: str, threads: str | None) -> subprocess.CompletedProcess[str]:
    env = {name: value for name, value in os.environ.items() if name != "FASTLM_THREADS"}
    env |= {} if threads is None else {"FASTLM_THREADS": threads}
    command = [sys.executable, "-c", f"import fastlm; from fastlm.cli import main\n{program}"]
    return subprocess.run(command, env=env, capture_output=True, text=True, timeout=60, cwd=sys.prefix)


@pytest.mark.parametrize(("threads", "asked", "taken"), [("3", None, 3), ("3", 2, 2), ("abc", 2, 2)])
def test_the_variable_is_the_default(threads: str, asked: int | None, taken: int) -> None:
    done = run(f"print(fastlm.load(threads={asked}).threads)", threads)
    assert (done.stdout, done.stderr) == (f"{taken}\n", "")


def test_without_the_variable() -> None:
    default, empty = (run("print(fastlm.load().threads)", threads).stdout for threads in (None, ""))
    assert default == empty and int(default) >= 1


@pytest.mark.parametrize("wrong", ["0", "-1", "abc", "1.5", "257", "100000"])
def test_wrong_numbers_name_the_variable(wrong: str) -> None:
    program = (
        "try: fastlm.load()\nexcept fastlm.ParameterError as error: print(error)\nraise SystemExit(main(['info']))\n"
    )
    done = run(program, wrong)
    told = f"the environment variable FASTLM_THREADS is '{wrong}'; it must be a number from 1 to 256"
    assert (done.returncode, done.stdout, done.stderr) == (2, f"{told}\n", f"fastlm: error: {told}\n")


def test_a_checkpoint_takes_it(stories: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FASTLM_THREADS", "2")
    with fastlm.load(stories) as model:
        assert model.threads == 2
    monkeypatch.setenv("FASTLM_THREADS", "none")
    with pytest.raises(ParameterError, match="FASTLM_THREADS"):
        fastlm.load(stories)
