"""The commands: generate, next, info, bench, convert; train/options.py has train, finetune, distill."""

from __future__ import annotations

import argparse
import json
import sys
from functools import partial
from typing import Any

from fastlm.cli import streams
from fastlm.cli.options import (
    MODEL_HELP,
    PACKAGED_HELP,
    adapter_of,
    adapter_option,
    draft_for,
    draft_option,
    dtype_option,
    load_model,
    loading_options,
    model_options,
)
from fastlm.cli.outputs import bar, record
from fastlm.cli.parser import command
from fastlm.errors import ParameterError

PROMPT_HELP = """what the text begins with, in quotes; - is standard input, as is a pipe where nothing is given (where a
text is given, standard input is left to others); default: the beginning of sequence alone"""

# Options that `Model.generate` takes: its name for them, their type, and what they do.
SAMPLING: tuple[tuple[str, type, str], ...] = (
    ("max_tokens", int, "most tokens to write (256)"),
    ("min_tokens", int, "tokens before which it does not end (0)"),
    ("temperature", float, "0 always takes the most probable token; 1 draws as the model says (0)"),
    ("top_k", int, "draw from so many tokens only (0: all)"),
    ("top_p", float, "draw from the tokens that make up this share of the probability (1: all)"),
    ("min_p", float, "draw from tokens at least so probable, compared with the best (0: all)"),
    ("typical_p", float, "draw from the most typical tokens of this share of the probability (1: all)"),
    ("repetition_penalty", float, "above 1: what was written becomes less probable (1)"),
    ("presence_penalty", float, "taken off the logits of what was written (0)"),
    ("frequency_penalty", float, "taken off for each time that it was written (0)"),
    ("no_repeat_ngram_size", int, "so many tokens never follow each other twice (0: off)"),
    ("num_beams", int, "texts that a beam search compares; it shows the best one at the end (1: off)"),
    ("length_penalty", float, "of beams: above 0 favours long texts, below 0 short ones (1)"),
    ("source_lang", str, "the language of a text to translate, as the model names it (as the model says)"),
    ("target_lang", str, "the language to write, of translators of several (none)"),
    ("seed", int, "the same seed draws the same text (drawn itself, and shown by --json)"),
)
EARLY: dict[str, bool | str] = {"true": True, "false": False, "never": "never"}


def register(commands: Any) -> None:
    """Add the commands to the parser's."""
    generate = command(
        commands,
        "generate",
        "write on from a prompt, streaming",
        _generate,
        'fastlm generate "Once upon a time"',
        "fastlm generate --model path/to/checkpoint --temperature 0.8 --seed 1 < prompt.txt",
    )
    _prompt_options(generate)
    model_options(generate)
    adapter_option(generate)
    draft_option(generate)
    sampling_options(generate)
    generate.add_argument("--json", action="store_true", help="print the whole result as JSON at the end")

    following = command(
        commands,
        "next",
        "show the probabilities of the next token",
        _next,
        'fastlm next "The sky is" -k 5',
    )
    _prompt_options(following)
    model_options(following)
    adapter_option(following)
    following.add_argument("-k", type=int, default=10, metavar="N", help="how many tokens (10)")
    following.add_argument("--json", action="store_true", help="print them as JSON")

    info = command(
        commands,
        "info",
        "show what a model, or an adapter, is made of",
        _info,
        "fastlm info path/to/checkpoint --dtype int8",
    )
    info.add_argument("model", metavar="MODEL", nargs="?", help=PACKAGED_HELP)
    loading_options(info)
    shown = info.add_mutually_exclusive_group()
    shown.add_argument("--json", action="store_true", help="print it as JSON")
    shown.add_argument("--plan", action="store_true", help="the operations of a step instead")

    bench = command(
        commands,
        "bench",
        "time a model on this computer",
        _bench,
        "fastlm bench path/to/checkpoint --dtype int4 --threads 4",
    )
    bench.add_argument("model", metavar="MODEL", nargs="?", help=PACKAGED_HELP)
    loading_options(bench)
    bench.add_argument("--prompt", type=int, metavar="N", help="tokens to read (512, or what the context has room for)")
    bench.add_argument("--tokens", type=int, default=64, metavar="N", help="tokens to write after it (64)")
    bench.add_argument("--runs", type=int, default=5, metavar="N", help="that count, after one that does not (5)")
    draft_option(bench)
    adapter_option(bench)
    bench.add_argument("--json", action="store_true", help="print the figures of all runs as JSON")

    convert = command(
        commands,
        "convert",
        "write a .flm file, which opens at once",
        _convert,
        "fastlm convert path/to/checkpoint model.flm --dtype int8",
    )
    convert.add_argument("model", metavar="MODEL", help=MODEL_HELP)
    convert.add_argument("out", metavar="OUT.flm", help="the file to write; one of this name is replaced at the end")
    adapter_option(convert)
    dtype_option(convert)


# ---- options ----------------------------------------------------------------------------------------------------


def _prompt_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("prompt", nargs="?", help=PROMPT_HELP)
    parser.add_argument("--file", metavar="PATH", help="take the prompt from this file, which is UTF-8")


def sampling_options(parser: argparse.ArgumentParser) -> None:
    """What `Model.generate` takes."""
    group = parser.add_argument_group(
        "sampling", "defaults: the model's generation_config.json, then what is in brackets"
    )
    for name, kind, what in SAMPLING:
        group.add_argument("--" + name.replace("_", "-"), type=kind, metavar="N" if kind is int else "X", help=what)
    group.add_argument(
        "--early-stopping",
        choices=tuple(EARLY),
        metavar="WHEN",
        help="of beams: true ends when as many texts have, never looks for better ones to the end (false)",
    )
    shape = group.add_mutually_exclusive_group()
    shape.add_argument("--json-schema", metavar="FILE", help="write JSON by the schema in this file (any text)")
    shape.add_argument("--regex", metavar="R", help="write what this regular expression matches as a whole (any)")
    shape.add_argument("--grammar", metavar="FILE", help="write a text by the Lark grammar in this file (any)")
    group.add_argument("--stop", action="append", metavar="TEXT", help="end before this text; may be repeated")
    group.add_argument("--ignore-eos", action="store_true", default=None, help="write on where the model would end")


def params_of(args: argparse.Namespace) -> dict[str, Any]:
    """Those of them that are given, for `Model.generate`."""
    stop = args.stop and [streams.utf8(text, "--stop") for text in args.stop]
    found = {name: getattr(args, name) for name, _, _ in SAMPLING}
    early = None if args.early_stopping is None else EARLY[args.early_stopping]
    more = {"early_stopping": early, "stop": stop, "ignore_eos": args.ignore_eos, "adapter": adapter_of(args)}
    shape = {
        "json_schema": _content(args.json_schema),
        "regex": None if args.regex is None else streams.utf8(args.regex, "--regex"),
        "grammar": _content(args.grammar),
    }
    return {**found, **more, **shape}


def _content(path: str | None) -> str | None:
    """The text of a file that an option names."""
    return None if path is None else streams.given_text(None, path)


# ---- what they do -----------------------------------------------------------------------------------------------


def _given_text(args: argparse.Namespace) -> str | None:
    if args.model is None and args.prompt:
        streams.warn_of_name(args.prompt)
    return streams.given_text(args.prompt, args.file)


def _beginning(model: Any) -> list[int]:
    """The prompt where none is given."""
    if model.bos is None:
        raise ParameterError("this model has no beginning-of-sequence token: give a prompt")
    return [model.bos]


def _generate(args: argparse.Namespace) -> None:
    text = _given_text(args)
    with load_model(args) as model, draft_for(args, model) as draft:
        prompt = _beginning(model) if text is None else text
        params = {**params_of(args), "draft": draft}
        if args.json:
            streams.write_json({"prompt": prompt, **record(model.generate(prompt, **params))})
            return
        beams = model.engine.parameters(params).num_beams > 1  # they say nothing before the end
        chunks = [model.generate(prompt, **params)] if beams else model.stream(prompt, **params)  # before the text
        if model.kind != "encoder-decoder":  # which does not go on with the text, but answers it
            streams.write(text or "")
        for chunk in chunks:
            streams.write(chunk.text)
        streams.write("\n")


def _next(args: argparse.Namespace) -> None:
    text = _given_text(args)
    with load_model(args) as model:
        found = model.next_tokens(_beginning(model) if text is None else text, args.k, adapter=adapter_of(args))
    if args.json:
        streams.write_json([{"id": i, "text": piece, "probability": p} for i, piece, p in found])
        return
    width = max(len(repr(piece)) for _, piece, _ in found)
    for token, piece, p in found:
        streams.write(f"{token:>7}  {piece!r:<{width}}  {100 * p:6.2f} %  {bar(p / found[0][2], 40)}\n")


def _info(args: argparse.Namespace) -> None:
    from fastlm.describe import describe, describe_adapter, plan, summary, summary_of_adapter
    from fastlm.weights.adapter import is_adapter, read_adapter
    from fastlm.weights.paths import path_of

    if args.model is not None and is_adapter(path_of(args.model)):
        about = describe_adapter(read_adapter(path_of(args.model)))
        streams.write((json.dumps(about, indent=2) if args.json else summary_of_adapter(about)) + "\n")
        return
    with load_model(args) as model:
        if args.plan:
            streams.write(plan(model))
            return
        found = describe(model)
    streams.write((json.dumps(found, indent=2) if args.json else summary(found)) + "\n")


def _bench(args: argparse.Namespace) -> None:
    from fastlm.bench import bench, summary

    found = bench(
        lambda: load_model(args),
        prompt=args.prompt,
        tokens=args.tokens,
        runs=args.runs,
        draft=partial(draft_for, args),
        adapter=adapter_of(args),
    )
    streams.write((json.dumps(found, indent=2) if args.json else summary(found)) + "\n")


def _convert(args: argparse.Namespace) -> None:
    from fastlm.loading import load
    from fastlm.saving import save
    from fastlm.tokenizer.load import missing_tokenizer
    from fastlm.weights.paths import path_of

    with load(args.model, dtype=args.dtype, progress=sys.stderr.isatty()) as model:
        if args.adapter is not None:
            model.load_adapter("adapter", args.adapter)
            model.merge_adapter("adapter")
        save(model, args.out)
        if model.tokenizer is None:
            streams.note(f"{missing_tokenizer(model.engine.source)}: {args.out} takes and gives token ids, not text")
    streams.write(f"{args.out}: {path_of(args.out).stat().st_size:,} bytes\n")
