"""fastlm serve: models over HTTP, as OpenAI's API does it."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastlm.arguments import whole
from fastlm.cli import streams
from fastlm.cli.options import LOADING, draft_for, draft_option, loading_options
from fastlm.cli.parser import command
from fastlm.errors import ModelFileError, ParameterError, UnsupportedError

if TYPE_CHECKING:
    from fastlm.drafts import Draft, Lookup
    from fastlm.model import Model

LOOPBACK = ("127.0.0.1", "localhost", "::1")
ADAPTER_FORM = "NAME=FOLDER, or MODEL:NAME=FOLDER where there are several models"
KEY_VARIABLE = "FASTLM_API_KEY"
LIMITS: tuple[tuple[str, type, str], ...] = (
    ("max_tokens", int, "most tokens of an answer (what the context holds)"),
    ("prompt_tokens", int, "most tokens of a prompt (what the context holds)"),
    ("body_bytes", int, "most bytes of a request (4 MiB)"),
    ("requests", int, "answered at a time; more get 503 (256)"),
    ("requests_each", int, "answered at a time for one key or address; more get 429 (128)"),
    ("seconds", float, "that an answer may take (600)"),
)


def register(commands: Any) -> None:
    """Add the command to the parser's."""
    parser = command(
        commands,
        "serve",
        "answer over HTTP as OpenAI's API does, with a chat page (needs the extra: pip install 'fastlm[server]')",
        _serve,
        "fastlm serve path/to/checkpoint",
        "fastlm serve small=path/to/one large=path/to/other --port 8080 --api-key secret",
        "fastlm serve path/to/checkpoint --adapter sql=path/to/adapter",
    )
    parser.add_argument(
        "models",
        metavar="MODEL",
        nargs="*",
        help="a model folder, a .flm file or a cached hub id, or NAME=MODEL; default: the model in the package",
    )
    parser.add_argument(
        "--adapter",
        action="append",
        metavar="NAME=FOLDER",
        help="a LoRA that requests may name as their model; MODEL:NAME=FOLDER where there are several; may be repeated",
    )
    loading_options(parser)
    draft_option(parser)
    group = parser.add_argument_group("serving")
    group.add_argument("--host", default=LOOPBACK[0], help="address to listen at (127.0.0.1: this machine only)")
    group.add_argument("--port", type=int, default=8000, help="(8000; 0: one that is free)")
    group.add_argument(
        "--api-key", action="append", metavar="KEY", help=f"that requests must bring; may be repeated (${KEY_VARIABLE})"
    )
    group.add_argument("--cors", action="append", metavar="ORIGIN", help="whose pages may ask; may be repeated (none)")
    limits = parser.add_argument_group("limits")
    for name, kind, what in LIMITS:
        limits.add_argument("--" + name.replace("_", "-"), type=kind, metavar="N", help=what)


def _serve(args: argparse.Namespace) -> None:
    from fastlm.server import Limits, app

    serve = _runner()
    given = {name: getattr(args, name) for name, _, _ in LIMITS if getattr(args, name) is not None}
    for name, value in given.items():
        if not value > 0:
            raise ParameterError(f"--{name.replace('_', '-')} must be above 0, not {value}")
    port = whole(args.port, "--port", 0, 65535)
    keys = args.api_key or [key for key in [os.environ.get(KEY_VARIABLE)] if key]
    if args.host not in LOOPBACK and not keys:
        streams.note(f"anybody who reaches {args.host} may ask: --api-key asks for a key")
    hosts = ("127.0.0.1", "localhost", "[::1]") if args.host in LOOPBACK else ()
    with ExitStack() as stack:
        models = _load(args, stack)
        _load_adapters(args.adapter or (), models)
        drafts = _drafts(args, models, stack)
        limits = Limits(**given)
        application = app(models, api_keys=keys, cors=args.cors or (), hosts=hosts, limits=limits, drafts=drafts)
        try:
            serve(application, args.host, port, partial(_tell, models))
        except OSError as error:
            raise ModelFileError(f"{args.host}:{port}: cannot be listened at: {error.strerror or error}") from error


def _runner() -> Callable[[Any, str, int, Callable[[str], None]], None]:
    """What serves, before any model is loaded."""
    try:
        import fastlm.server.build  # noqa: F401
        from fastlm.server.run import serve
    except ImportError as error:
        raise UnsupportedError(f"the server needs its extra: pip install 'fastlm[server]' ({error})") from error
    return serve


def _tell(models: Iterable[str], url: str) -> None:
    streams.note(f"{', '.join(models)} at {url}; Ctrl-C ends the server")


def _load(args: argparse.Namespace, stack: ExitStack) -> Mapping[str, Model]:
    """The models by name; they share one context's threads and memory."""
    from fastlm import _core
    from fastlm.loading import load

    options = {name: getattr(args, name) for name in LOADING}
    found: dict[str, Model] = {}
    for name, path in _named(args.models):
        if name in found:
            raise ParameterError(f"two models have the name {name}: give one of them another: NAME=MODEL")
        if found:
            options["beside"], options["threads"] = next(iter(found.values())), None
        elif len(args.models) > 1 and options["threads"] is None:
            options["threads"] = _core.usable_cores()  # not what the first one alone would want
        found[name] = stack.enter_context(load(path, **options))
    return found


def _load_adapters(given: Iterable[str], models: Mapping[str, Model]) -> None:
    """NAME=FOLDER of the only model, MODEL:NAME=FOLDER of one of several."""
    for item in given:
        name, _, folder = item.partition("=")
        model, colon, own = name.partition(":")
        if not colon and len(models) == 1:
            (model,), own = models, name
        if not own or not folder or model not in models:
            known = ", ".join(models)
            raise ParameterError(f"--adapter: expected {ADAPTER_FORM}, not {item} (models: {known})")
        models[model].load_adapter(own, folder)


def _drafts(args: argparse.Namespace, models: Mapping[str, Model], stack: ExitStack) -> Mapping[str, Draft | Lookup]:
    """What proposes tokens for the models that write, by their names."""
    if len(models) > 1 and args.draft not in (None, "lookup"):
        raise ParameterError("--draft: a model drafts for one that is served alone; for several give --draft lookup")
    found = {}
    for name, model in models.items():
        draft = stack.enter_context(draft_for(args, model))
        if draft is not None and model.engine.writes:
            found[name] = draft
    return found


def _named(given: Iterable[str]) -> list[tuple[str, str | None]]:
    """Names and paths: NAME=MODEL, or the last part of the path."""
    found: list[tuple[str, str | None]] = []
    for item in given:
        name, equals, path = item.partition("=")
        if equals and name and not Path(item).exists():
            found.append((name, path))
        else:
            found.append((Path(item).name.removesuffix(".flm") or item, item))
    return found or [("box", None)]
