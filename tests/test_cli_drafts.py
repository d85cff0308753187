"""--draft of the commands: the same texts, and what is told of the draft."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from adapter_folders import low_rank, save_adapter
from models import add_byte_tokenizer, byte_shape, save_llama

from fastlm.cli import main


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """A model, and another one of the same vocabulary."""
    folder = tmp_path_factory.mktemp("models")
    one = add_byte_tokenizer(save_llama(folder / "one", byte_shape()))
    other = add_byte_tokenizer(save_llama(folder / "other", replace(byte_shape(), layers=1), seed=3))
    return str(one), str(other)


def told(args: Sequence[str], capsys: pytest.CaptureFixture[str]) -> str:
    assert main(list(args)) == 0
    return capsys.readouterr().out


def test_generate(folders: tuple[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    one, other = folders
    for how in (["--temperature", "0.9", "--seed", "3"], []):
        command = ["generate", "--model", one, "--max-tokens", "30", "--ignore-eos", *how, "ab ab ab"]
        plain, text = json.loads(told([*command, "--json"], capsys)), told(command, capsys)
        assert plain["draft"] is None
        for draft in ([other, "--draft-tokens", "3"], [other], ["lookup"], ["lookup", "--draft-tokens", "2"]):
            found = json.loads(told([*command, "--json", "--draft", *draft], capsys))
            assert found["token_ids"] == plain["token_ids"] and found["text"] == plain["text"]
            assert set(found["draft"]) == {"accepted", "proposed"}
            assert found["draft"]["proposed"] > 0 or draft[0] != other or len(draft) == 1
            assert told([*command, "--draft", *draft], capsys) == text


def test_bench(folders: tuple[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    one, other = folders
    command = ["bench", one, "--prompt", "20", "--tokens", "9", "--runs", "2"]
    plain = json.loads(told([*command, "--json"], capsys))
    assert plain["draft"] is None and "drafted" not in plain["rates"]
    found = json.loads(told([*command, "--json", "--draft", other, "--draft-tokens", "2"], capsys))
    assert len(found["rates"]["drafted"]) == 2 and min(found["rates"]["drafted"]) > 0
    assert 0 <= found["draft"]["accepted"] <= found["draft"]["proposed"] and found["draft"]["proposed"] > 0
    assert "proposals accepted" in told([*command, "--draft", "lookup"], capsys)


def test_bench_of_an_adapter(folders: tuple[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    adapter = str(save_adapter(tmp_path / "a", low_rank(byte_shape())))
    command = ["bench", folders[0], "--prompt", "20", "--tokens", "9", "--runs", "2", "--adapter", adapter]
    found = json.loads(told([*command, "--json"], capsys))
    assert len(found["rates"]["adapted"]) == 2 and min(found["rates"]["adapted"]) > 0
    assert found["draft"] is None and "drafted" not in found["rates"]
    both = told([*command, "--draft", "lookup"], capsys)
    assert both.index("drafted") < both.index("proposals accepted") < both.index("adapted")


def test_what_is_wrong(folders: tuple[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one, other = folders
    strange = str(save_llama(tmp_path / "strange"))
    for args, words in (
        (["--draft-tokens", "3"], "--draft-tokens needs --draft"),
        (["--draft", other, "--draft-tokens", "0"], "draft: tokens"),
        (["--draft", str(tmp_path / "none")], "none"),
        (["--draft", strange], "draft: the model has 99 tokens"),
    ):
        assert main(["generate", "--model", one, *args, "a"]) != 0
        assert words in capsys.readouterr().err
