"""fastlm chat: a conversation on a terminal; or questions from a pipe, one on each line, or from a file."""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from fastlm.cli import streams
from fastlm.cli.commands import params_of, sampling_options
from fastlm.cli.options import adapter_option, draft_for, draft_option, load_model, model_options
from fastlm.cli.parser import command
from fastlm.cli.screen import Nowhere, Plain, printer
from fastlm.errors import UnsupportedError

if TYPE_CHECKING:
    from fastlm.cli.talk import Talk
    from fastlm.model import Model


def register(commands: Any) -> None:
    """Add the command to the parser's."""
    parser = command(
        commands,
        "chat",
        "talk to a model that has a chat template",
        _chat,
        'fastlm chat --model path/to/checkpoint --system "Answer in one sentence."',
        "fastlm chat --model path/to/checkpoint --prompt question.txt --json",
        "fastlm chat --model path/to/checkpoint < questions.txt",
    )
    model_options(parser)
    adapter_option(parser)
    draft_option(parser)
    sampling_options(parser)
    parser.add_argument("--system", metavar="TEXT", help="a system message, before the conversation (none)")
    parser.add_argument("--prompt", metavar="FILE", help="a message of any lines: answer it, and end (-: stdin)")
    parser.add_argument("--json", action="store_true", help="print each answer as JSON, with what it took")
    parser.add_argument(
        "--drop-oldest",
        action="store_true",
        help="at the end of the context forget the oldest turns; else a message that does not fit is not answered",
    )


def _chat(args: argparse.Namespace) -> None:
    from fastlm.cli.talk import Talk

    system = None if args.system is None else streams.utf8(args.system, "--system")
    message = None if args.prompt is None else streams.given_text(None, args.prompt)
    with load_model(args) as model, draft_for(args, model) as draft:
        if model.engine.templates is None:
            raise UnsupportedError(_without_template(args.model))
        talk = Talk(model, system, {**params_of(args), "draft": draft}, args.drop_oldest)
        talk.check()  # says what is wrong before it asks
        if message is not None:
            _answer_all([message], talk, args.json)
        elif streams.asks():
            from fastlm.cli.terminal import converse

            _tell(model, args.model)
            converse(talk, printer(args.json), args.json)
        else:
            _answer_all(filter(str.strip, streams.lines()), talk, args.json)


def _answer_all(questions: Iterable[str], talk: Talk, as_json: bool) -> None:
    """Questions of a pipe or a file, whose answers have no edge to be cut at."""
    shown = Nowhere() if as_json else Plain()
    for question in questions:
        answer = talk.ask(question, shown)
        if as_json:
            streams.write_json(answer.record())
        if answer.fills_context:
            streams.note(talk.full())
    if not as_json:
        streams.write("\n")


def _tell(model: Model, path: str | None) -> None:
    """Who answers, and how to leave."""
    threads = "1 thread" if model.threads == 1 else f"{model.threads} threads"
    name = path or "the model in the package"
    streams.note(f"{name}: {model.engine}, context of {model.context:,} tokens, {threads}")
    streams.note("Ctrl-D ends the conversation, Ctrl-C an answer; /help shows what else there is")


def _without_template(path: str | None) -> str:
    """Which models can chat, where this one cannot."""
    if path is None:
        return (
            "the model in the package writes stories and has no chat template: name a model that was trained to chat, "
            "whose folder has one: fastlm chat --model path/to/checkpoint"
        )
    return (
        f"{path}: has no chat template: models that were trained to chat have one, in tokenizer_config.json or a file "
        "of its own; where yours was, put it into the folder as chat_template.jinja. `fastlm generate` needs none"
    )
