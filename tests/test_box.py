"""The model that the package carries: what load() and the commands take when they are told no other."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import fastlm
from fastlm import loading
from fastlm.cli import main
from fastlm.errors import ModelFileError
from fastlm.saving import save


@pytest.fixture
def packaged(stories: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package that carries another model."""
    path = tmp_path / "box.flm"
    with fastlm.load(stories) as model:
        save(model, path)
    monkeypatch.setattr(loading, "PACKAGED", path)
    return path


def test_no_path_is_the_packaged_model(packaged: Path) -> None:
    with fastlm.load() as model:
        assert model.generate("Once upon", temperature=0, max_tokens=8).text.startswith(" a time")


@pytest.mark.parametrize(
    ("command", "says"),
    [
        (["generate", "Once upon", "--temperature", "0", "--max-tokens", "8"], "Once upon a time"),
        (["next", "Once upon a"], "' time'"),
        (["info"], "4,096 bytes per token"),
        (["bench", "--prompt", "8", "--tokens", "8", "--runs", "1"], "tokens/s"),
    ],
)
def test_commands_without_a_model(
    packaged: Path, capsys: pytest.CaptureFixture[str], command: list[str], says: str
) -> None:
    assert main(command) == 0
    assert says in capsys.readouterr().out


def test_a_build_without_one_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loading, "PACKAGED", tmp_path / "box.flm")
    with pytest.raises(ModelFileError, match="no packaged model: give the path"):
        fastlm.load()


def test_the_package_carries_one() -> None:
    """It writes stories, other ones for other beginnings, and is small."""
    assert loading.PACKAGED.stat().st_size <= 4_000_000
    assert "CC BY 4.0" in loading.PACKAGED.with_name("README.md").read_text(encoding="utf-8")
    with fastlm.load() as model:
        beginnings = ("Once upon a time", "The dragon", "One day, Tom")
        stories = [model.generate(beginning, temperature=0, max_tokens=60).text for beginning in beginnings]
        assert len(set(stories)) == 3 and all(len(story.split()) > 30 for story in stories)
        assert model.perplexity("Once upon a time, there was a little girl. She was very happy.") < 10


def test_a_plainer_processor_opens_it(tmp_path: Path) -> None:
    """NumPy's arithmetic differs in last bits from processor to processor; what a file says of a model does not."""
    found = np.show_config(mode="dicts")["SIMD Extensions"].get("found", [])
    if not found:
        pytest.skip("NumPy has one set of instructions here")
    code = "import fastlm; print(fastlm.load().generate('Once upon a time', temperature=0, max_tokens=8).text)"
    env = {**os.environ, "NPY_DISABLE_CPU_FEATURES": " ".join(found)}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=env, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.split()) > 3
