"""The command line: generate, chat, next, info, bench, convert; train/options.py adds train, finetune, distill."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fastlm.errors import FastlmError, ParameterError

DTYPE_HELP = "of the matrices: auto, float32, float16, bfloat16, int8, int4"
MODEL_HELP = "a model folder, a .flm file or a cached hub id"
PACKAGED_HELP = f"{MODEL_HELP}; default: the model in the package, which writes simple stories"
USAGE_ERROR, FAILURE, INTERRUPTED = 2, 1, 130


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit status: 0, 1 (an error, told on stderr), 2 (usage) or 130 (Ctrl-C)."""
    args = _parser().parse_args(argv)
    try:
        args.run(args)
        sys.stdout.flush()
        return 0
    except KeyboardInterrupt:
        sys.stderr.write("\n")
        return INTERRUPTED
    except BrokenPipeError:  # the reader has gone: say nothing, also not at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (FastlmError, MemoryError) as error:
        sys.stderr.write(f"fastlm: error: {error}\n")
        return USAGE_ERROR if isinstance(error, ParameterError) else FAILURE


def _parser() -> argparse.ArgumentParser:
    from fastlm import __version__
    from fastlm.train.options import register as register_training

    parser = argparse.ArgumentParser(prog="fastlm", description="Language models on this computer's CPU.")
    parser.add_argument("--version", action="version", version=f"fastlm {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    generate = commands.add_parser("generate", help="write on from a prompt, streaming")
    generate.add_argument("prompt", nargs="?", help="default: the beginning of sequence alone")
    _model_options(generate)
    _sampling_options(generate)
    generate.add_argument("--json", action="store_true", help="print the whole result as JSON at the end")
    generate.set_defaults(run=_generate)

    chat = commands.add_parser("chat", help="talk to a model that has a chat template")
    _model_options(chat)
    _sampling_options(chat)
    chat.add_argument("--system", help="a system message")
    chat.set_defaults(run=_chat)

    following = commands.add_parser("next", help="show the probabilities of the next token")
    following.add_argument("prompt", nargs="?", help="default: the beginning of sequence alone")
    _model_options(following)
    following.add_argument("-k", type=int, default=10, help="how many (10)")
    following.add_argument("--json", action="store_true")
    following.set_defaults(run=_next)

    info = commands.add_parser("info", help="show what a model is made of")
    info.add_argument("model", metavar="MODEL", nargs="?", help=PACKAGED_HELP)
    _loading_options(info)
    info.add_argument("--json", action="store_true")
    info.add_argument("--plan", action="store_true", help="the operations of a step instead")
    info.set_defaults(run=_info)

    bench = commands.add_parser("bench", help="time a model on this computer")
    bench.add_argument("model", metavar="MODEL", nargs="?", help=PACKAGED_HELP)
    _loading_options(bench)
    bench.add_argument("--prompt", type=int, help="tokens to read (512, or what the context has room for)")
    bench.add_argument("--tokens", type=int, default=64, help="tokens to write after it (64)")
    bench.add_argument("--runs", type=int, default=5, help="that count, after one that does not (5)")
    bench.add_argument("--json", action="store_true")
    bench.set_defaults(run=_bench)

    convert = commands.add_parser("convert", help="write a .flm file, which opens at once")
    convert.add_argument("model", metavar="MODEL", help=MODEL_HELP)
    convert.add_argument("out", metavar="OUT.flm")
    convert.add_argument("--dtype", default="auto", help=DTYPE_HELP)
    convert.set_defaults(run=_convert)

    register_training(commands)
    return parser


def _model_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", help=PACKAGED_HELP)
    _loading_options(parser)


def _loading_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--dtype", default="auto", help=DTYPE_HELP)
    parser.add_argument("--kv-dtype", default="auto", help="of keys and values: auto, float32, bfloat16, int8")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--context", type=int, help="longest sequence in tokens")
    parser.add_argument("--kv-bytes", type=int, help="most memory for keys and values")


def _sampling_options(parser: argparse.ArgumentParser) -> None:
    whole = ("max-tokens", "min-tokens", "top-k", "no-repeat-ngram-size", "seed")
    real = ("temperature", "top-p", "min-p", "typical-p", "repetition-penalty", "presence-penalty", "frequency-penalty")
    for names, kind in ((whole, int), (real, float)):
        for name in names:
            parser.add_argument(f"--{name}", type=kind)
    parser.add_argument("--stop", action="append", help="end before this text; may be repeated")
    parser.add_argument("--ignore-eos", action="store_true", default=None)


SAMPLING = [
    "max_tokens",
    "min_tokens",
    "top_k",
    "no_repeat_ngram_size",
    "seed",
    "temperature",
    "top_p",
    "min_p",
    "typical_p",
    "repetition_penalty",
    "presence_penalty",
    "frequency_penalty",
    "stop",
    "ignore_eos",
]


def _load(args: argparse.Namespace) -> Any:
    from fastlm.loading import load

    names = ("dtype", "threads", "context", "kv_dtype", "kv_bytes")
    return load(args.model, **{name: getattr(args, name) for name in names})


def _params(args: argparse.Namespace) -> dict[str, Any]:
    return {name: getattr(args, name) for name in SAMPLING}


def _prompt(model: Any, prompt: str | None) -> str | list[int]:
    if prompt is not None:
        return prompt
    start = model.bos
    if start is None:
        raise ParameterError("this model has no beginning-of-sequence token: give a prompt")
    return [start]


def _write(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()


def _generate(args: argparse.Namespace) -> None:
    with _load(args) as model:
        prompt = _prompt(model, args.prompt)
        if args.json:
            from dataclasses import asdict

            done = model.generate(prompt, **_params(args))
            print(json.dumps({"prompt": prompt, **asdict(done)}, ensure_ascii=False))
            return
        chunks = model.stream(prompt, **_params(args))  # first: it says what is wrong with them
        if isinstance(prompt, str):
            _write(prompt)
        for chunk in chunks:
            _write(chunk.text)
        _write("\n")


def _chat(args: argparse.Namespace) -> None:
    with _load(args) as model:
        messages = [{"role": "system", "content": args.system}] if args.system else []
        while True:
            try:
                question = input("> ")
            except EOFError:
                _write("\n")
                return
            messages.append({"role": "user", "content": question})
            answer = []
            stream = model.stream(model.chat_prompt(messages), **_params(args))
            try:
                for chunk in stream:
                    answer.append(chunk.text)
                    _write(chunk.text)
            except KeyboardInterrupt:  # ends the answer, not the conversation
                pass
            finally:
                stream.close()
            _write("\n")
            messages.append({"role": "assistant", "content": "".join(answer)})


def _next(args: argparse.Namespace) -> None:
    with _load(args) as model:
        found = model.next_tokens(_prompt(model, args.prompt), args.k)
    if args.json:
        rows = [{"id": i, "text": text, "probability": p} for i, text, p in found]
        print(json.dumps(rows, ensure_ascii=False))
        return
    width = max(len(repr(text)) for _, text, _ in found)
    for token, text, p in found:
        bar = "\u2588" * round(40 * p / found[0][2])
        print(f"{token:>7}  {text!r:<{width}}  {100 * p:6.2f} %  {bar}")


def _info(args: argparse.Namespace) -> None:
    from fastlm.describe import describe, plan, summary

    with _load(args) as model:
        if args.plan:
            _write(plan(model))
            return
        found = describe(model)
    print(json.dumps(found, indent=2) if args.json else summary(found))


def _bench(args: argparse.Namespace) -> None:
    from fastlm.bench import bench, summary

    found = bench(lambda: _load(args), prompt=args.prompt, tokens=args.tokens, runs=args.runs)
    print(json.dumps(found, indent=2) if args.json else summary(found))


def _convert(args: argparse.Namespace) -> None:
    from fastlm.loading import load
    from fastlm.saving import save

    with load(args.model, dtype=args.dtype, progress=sys.stderr.isatty()) as model:
        save(model, args.out)
    print(f"{args.out}: {Path(args.out).stat().st_size:,} bytes")
