"""Translating and summarising, by the model's own defaults: translate and summarize."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from typing import Any

from fastlm.cli.encoders import over_texts
from fastlm.cli.options import adapter_of, adapter_option, model_options
from fastlm.cli.outputs import output_options
from fastlm.cli.parser import command
from fastlm.cli.texts import Item, text_options
from fastlm.errors import ParameterError

SETTINGS = "task_specific_params"  # of T5's config.json: what stands before texts, and parameters


def register(commands: Any) -> None:
    """Add the commands to the parser's."""
    translate = command(
        commands,
        "translate",
        "translate texts, line by line",
        _translate,
        'fastlm translate --model path/to/opus-mt-en-de "Good morning."',
        "fastlm translate --model path/to/nllb --from eng_Latn --to fra_Latn --file book.txt --out book.jsonl",
    )
    _common(translate)
    translate.add_argument(
        "--to", metavar="LANG", help="the language to write, as the model names it (if it knows many)"
    )
    translate.add_argument(
        "--from", dest="source", metavar="LANG", help="the language of the texts (as the model says)"
    )

    summarize = command(
        commands,
        "summarize",
        "summarise texts",
        _summarize,
        "fastlm summarize --model path/to/distilbart --file article.txt",
    )
    _common(summarize, whole=True)


def _common(parser: argparse.ArgumentParser, whole: bool = False) -> None:
    text_options(parser, whole=whole)
    model_options(parser, packaged=False)
    adapter_option(parser)
    parser.add_argument(
        "--num-beams", type=int, metavar="N", help="texts that are written side by side (as the model says)"
    )
    parser.add_argument(
        "--max-tokens", type=int, metavar="N", help="most tokens of a result (as the model says, else 256)"
    )
    output_options(parser)


def _translate(args: argparse.Namespace) -> None:
    def work(model: Any, texts: Sequence[str]) -> list[str]:
        before, params = _language(model, args.to, args.source)
        return _written(args, model, texts, before, params)

    over_texts(args, work, lambda item, text: _record(item, "translation", text), lambda item, text: text + "\n")


def _summarize(args: argparse.Namespace) -> None:
    def work(model: Any, texts: Sequence[str]) -> list[str]:
        before, params = _own(_settings(model).get("summarization"))
        return _written(args, model, texts, before, params)

    over_texts(args, work, lambda item, text: _record(item, "summary", text), lambda item, text: text + "\n")


def _record(item: Item, name: str, text: str) -> dict[str, Any]:
    return {"text": item.text, name: text}


def _written(
    args: argparse.Namespace, model: Any, texts: Sequence[str], before: str, params: Mapping[str, Any]
) -> list[str]:
    """What the model makes of each text; an empty one stays so."""
    if model.kind != "encoder-decoder" or "generate" not in model.tasks:
        raise model.engine.refusal("this takes an encoder-decoder; fastlm generate and chat are for decoders")
    given = {"num_beams": args.num_beams, "max_tokens": args.max_tokens, "adapter": adapter_of(args)}
    params = {**params, **{name: value for name, value in given.items() if value is not None}}
    there = [text for text in texts if text.strip()]
    found = iter(model.batch([before + text for text in there], **params))
    return [str(next(found)) if text.strip() else "" for text in texts]


def _language(model: Any, to: str | None, source: str | None) -> tuple[str, dict[str, Any]]:
    """What stands before each text, and parameters, in the way in which this model is told what to write."""
    tokenizer = model.engine.prompts.needed_tokenizer()
    if tokenizer.languages is not None:
        if to is None:
            raise ParameterError(
                "--to: this model writes many languages: " + ", ".join(sorted(tokenizer.languages.ids))
            )
        return "", {"source_lang": source, "target_lang": to}
    tasks = {name.split("_to_")[-1]: name for name in _settings(model) if name.startswith("translation_")}
    if to in tasks:
        return _own(_settings(model)[tasks[to]])
    mark = f">>{to}<<"  # of Marian's models for several languages
    if to is not None and tokenizer.id_of(mark) is not None:
        return mark + " ", {}
    if to is not None or source is not None:
        known = f"; it knows {', '.join(sorted(tasks))}" if tasks else ": leave --to and --from out"
        raise ParameterError(f"--to: this model cannot be told a language by {to!r}{known}")
    return "", {}


def _own(said: object) -> tuple[str, dict[str, Any]]:
    """What a task's settings put before texts, and its parameters. Lengths count what a decoder begins with, too."""
    values = said if isinstance(said, Mapping) else {}
    names = ("no_repeat_ngram_size", "num_beams", "length_penalty", "early_stopping")
    params = {name: values[name] for name in names[: 4 if (values.get("num_beams") or 1) > 1 else 1] if name in values}
    lengths = {"max_tokens": values.get("max_length"), "min_tokens": values.get("min_length")}
    params |= {name: max(value - 1, 0) for name, value in lengths.items() if isinstance(value, int)}
    before = values.get("prefix")
    return before if isinstance(before, str) else "", params


def _settings(model: Any) -> Mapping[str, Any]:
    found = model.config.get(SETTINGS)
    return found if isinstance(found, Mapping) else {}
