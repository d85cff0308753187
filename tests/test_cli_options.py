"""The options of the command line: written in full, explained, and kept apart from what follows."""

from __future__ import annotations

import argparse
from typing import Any

import pytest

from fastlm.cli import chat, commands, main
from fastlm.cli.parser import Parser, numbers
from fastlm.generation import ALIASES, NAMES
from fastlm.train import options
from fastlm.train.recipe import FINETUNING, Lora, Recipe, from_options


@pytest.fixture
def parser() -> Parser:
    made = Parser(prog="fastlm")
    kinds = made.add_subparsers(required=True, metavar="COMMAND")
    commands.register(kinds)
    chat.register(kinds)
    options.register(kinds)
    return made


def subparsers(parser: Parser) -> dict[str, Parser]:
    found = next(a for a in parser._actions if isinstance(a, argparse._SubParsersAction))
    return dict(found.choices)


WRONG = [
    (["generate", "Once", "--n", "3"], "unknown option --n\n"),
    (["generate", "Once", "--no", "3"], "unknown option --no; did you mean --no-"),
    (["generate", "--temp", "1"], "unknown option --temp; did you mean --temperature?"),
    (["generate", "--temprature=1"], "unknown option --temprature=1; did you mean --temperature?"),
    (["generate", "--max_tokens", "1"], "unknown option --max_tokens; did you mean --max-tokens?"),
    (["generate", "--max-new-tokens", "1"], "did you mean --max-tokens?"),
    (["bench", "--run", "1"], "did you mean --runs?"),
    (["train", "a.txt", "--out", "x", "--epoch", "3"], "did you mean --epochs?"),
    (["--versio", "info"], "unknown option --versio; did you mean --version?"),
    (
        ["generate", "Once", "upon", "a", "time"],
        "too many arguments: upon a time (a text of several words goes in quotes, a model after --model)\n",
    ),
    (["generate", "folder", "Once upon"], "too many arguments: Once upon (a model goes after --model)\n"),
    (["info", "a", "b"], "too many arguments: b\n"),
    (["info", "--model", "a"], "unknown option --model: here the model goes without it: fastlm info MODEL\n"),
    (["convert", "--model=a", "b", "c.flm"], "here the model goes without it: fastlm convert MODEL\n"),
    (["train", "a.txt", "--out", "x", "--model", "a"], "unknown option --model"),
    (["info", "--plan", "--json"], "--json: not allowed with argument --plan"),
    (["generat"], "unknown command generat; did you mean generate?\n"),
    (["frobnicate"], "unknown command frobnicate; known are generate, next, info"),
    ([], "COMMAND"),
]


@pytest.mark.parametrize(("args", "words"), WRONG, ids=[" ".join(args) for args, _ in WRONG])
def test_options_that_are_none(args: list[str], words: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(args) == 2
    told = capsys.readouterr()
    assert words in told.err and told.out == ""
    assert len(told.err.splitlines()) == 2 and "--help` shows what there is" in told.err


INSTEAD = {"file", "tokenizer", "student", "steps"}  # of another option, which has the default


def test_every_command_and_option_is_explained(parser: Parser) -> None:
    for name, command in subparsers(parser).items():
        assert command.description and f"fastlm {name} " in (command.epilog or ""), name
        for action in command._actions:
            assert action.help, f"{name}: {action.dest}"
            takes_one = action.nargs != 0 and not isinstance(action, argparse._AppendAction)
            if not (takes_one and action.option_strings) or action.required or action.dest in INSTEAD:
                continue
            assert any(mark in action.help for mark in ("(", "default", "auto")), f"{name}: {action.dest}"


def test_examples_are_commands(parser: Parser) -> None:
    import shlex

    for command in subparsers(parser).values():
        for line in str(command.epilog).splitlines()[1:]:
            words = shlex.split(line.partition(" <")[0])
            assert words[0] == "fastlm" and callable(parser.parse_args(words[1:]).run)


def test_what_generate_takes_has_an_option(parser: Parser) -> None:
    """But for what a shell cannot give, or what is shown with --json alone."""
    known = {action.dest for action in subparsers(parser)["generate"]._actions}
    tokens = {"stop_token_ids", "bad_words_ids", "suppress_tokens", "begin_suppress_tokens", "logit_bias"}
    tokens |= {"forced_bos_token_id", "forced_eos_token_id", "encoder_no_repeat_ngram_size"}
    assert set(NAMES) - known == tokens | {"n", "logprobs", "echo", "attentions", "cancel"}
    assert not set(ALIASES) & known


LISTS: list[tuple[list[str], list[float], list[str]]] = [
    (["--weights", "2", "1", "a.txt", "b.txt"], [2, 1], ["a.txt", "b.txt"]),
    (["a.txt", "b.txt", "--weights", "2", "1"], [2, 1], ["a.txt", "b.txt"]),
    (["--weights", "2,1", "a.txt", "b.txt"], [2, 1], ["a.txt", "b.txt"]),
    (["--weights=2,0.5", "a.txt", "b.txt"], [2, 0.5], ["a.txt", "b.txt"]),
    (["--weights=2", "1e0", "a.txt", "b.txt"], [2, 1], ["a.txt", "b.txt"]),
    (["--weights", "3", "--extra", "c.txt", "a.txt"], [3], ["a.txt"]),
    (["--extra", "c.txt", "a.txt"], [], ["a.txt"]),
]


@pytest.mark.parametrize(("args", "weights", "texts"), LISTS, ids=[" ".join(args) for args, _, _ in LISTS])
def test_lists_leave_what_follows(parser: Parser, args: list[str], weights: list[float], texts: list[str]) -> None:
    found = parser.parse_args(["train", "--out", "x", *args])
    assert (found.weights, found.texts) == (weights, texts)
    assert found.extra == (["c.txt"] if "c.txt" in args else [])


def test_options_that_may_be_repeated(parser: Parser) -> None:
    args = ["distill", "teacher", "a.txt", "--out", "x"]
    found = parser.parse_args([*args, "--beside", "m", "--extra", "b", "--beside", "n", "--extra", "c"])
    assert (found.teacher, found.texts, found.beside, found.extra) == ("teacher", ["a.txt"], ["m", "n"], ["b", "c"])
    assert parser.parse_args(args).beside == []


@pytest.mark.parametrize("text", ["", "2,", "a", "1,b"])
def test_lists_of_other_things(text: str) -> None:
    with pytest.raises(ValueError):
        numbers(text)


def test_what_errors_advise_exists(parser: Parser) -> None:
    """Errors of memory name `context` and `kv_bytes`; the commands that load a model take them."""
    for name in ("generate", "chat", "next", "info", "bench"):
        found: Any = parser.parse_args([name, "--kv-bytes", "9", "--context", "8", "--no-prefix-cache"])
        assert (found.kv_bytes, found.context, found.prefix_cache) == (9, 8, False)
        assert parser.parse_args([name]).prefix_cache is True


@pytest.mark.parametrize("option", [["--rank", "8"], ["--alpha", "3"], ["--targets", "q_proj"], ["--merge"]])
def test_options_of_an_adapter_that_is_none(option: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """All weights would learn, and nobody would have said so."""
    assert main(["finetune", "model", "a.txt", "--out", "x", *option]) == 2
    assert capsys.readouterr().err == f"fastlm: error: {option[0]} is of an adapter: give --lora too, or leave it out\n"


def test_defaults_of_dataclasses(parser: Parser) -> None:
    found = parser.parse_args(["finetune", "model", "a.txt", "--out", "x", "--lora", "--rank", "4", "--epochs", "9"])
    assert from_options(found, Lora) == Lora(rank=4)
    assert from_options(found, Recipe, **FINETUNING) == Recipe(**{**FINETUNING, "epochs": 9.0})
