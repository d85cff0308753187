"""The command attention: which words a word looks at, in the terminal, as a picture or as a page."""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastlm.cli import streams
from fastlm.cli.options import load_model, model_options
from fastlm.cli.parser import command
from fastlm.cli.texts import Item, errors_of, items, text_options
from fastlm.errors import ParameterError
from fastlm.weights.paths import replacing

if TYPE_CHECKING:
    from fastlm.look.view import View

SUFFIXES = (".html", ".png")
MOST_TEXTS = 16


def register(commands: Any) -> None:
    """Add the command to the parser's."""
    parser = command(
        commands,
        "attention",
        "show which words a word looks at",
        _attention,
        'fastlm attention "Once upon a time, there was a girl." --token girl',
        'fastlm attention --model path/to/encoder "It was too tired." --layer 3 --head 1',
        'fastlm attention --model path/to/encoder "It was too tired." --out attention.html',
    )
    text_options(parser, whole=True)
    model_options(parser)
    parser.add_argument("--layer", type=int, metavar="N", help="from 0, or from the end: -1 (the mean of all)")
    parser.add_argument("--head", type=int, metavar="N", help="from 0 (the mean of all)")
    parser.add_argument("--token", metavar="TOKEN", help="which one looks: as it is written, or its number (all)")
    parser.add_argument(
        "--target", metavar="TEXT", help="that an encoder-decoder's decoder reads (what it writes itself)"
    )
    parser.add_argument(
        "--part", choices=("cross", "encoder", "decoder"), help="of an encoder-decoder (cross: decoder over encoder)"
    )
    parser.add_argument(
        "--out",
        metavar="PATH",
        help="write a page for any browser (.html) or a picture (.png, by the extra viz); default: in letters",
    )


def _attention(args: argparse.Namespace) -> None:
    if args.out is not None and Path(args.out).suffix not in SUFFIXES:
        raise ParameterError(f"--out: the name of the file must end in {' or '.join(SUFFIXES)}, not {args.out}")
    given = list(items(args))
    if not 1 <= len(given) <= MOST_TEXTS:
        raise ParameterError(f"attention: from 1 to {MOST_TEXTS} texts can be looked at, not {len(given)}")
    from fastlm.look.view import look

    target = None if args.target is None else streams.utf8(args.target, "--target")
    texts: list[list[View]] = []
    with load_model(args) as model:
        for item in given:
            with errors_of([item]):
                texts.append(look(model, _one(item), target))
    shown = [_of_part(args.part, views) for views in texts]
    tokens = [_token(args, view) for view in shown]
    name = Path(args.model or "the model in the package").name
    if args.out is None:
        _show(args, shown, tokens)
        return
    content = (
        _page(args, texts, shown[0], tokens[0], name)
        if args.out.endswith(".html")
        else _picture(args, shown, tokens, name)
    )
    with replacing(args.out) as file:
        file.write(content)


def _one(item: Item) -> str:
    if not isinstance(item.text, str):
        raise ParameterError(f"{item.where}: expected one text, found a pair")
    return item.text


def _of_part(part: str | None, views: list[View]) -> View:
    """Of an encoder-decoder the decoder over the encoder, unless another is asked for."""
    if part is not None and views[0].part == "self":
        raise ParameterError("--part: only an encoder-decoder has parts")
    return next(view for view in views if view.part in ("self", part or "cross"))


def _token(args: argparse.Namespace, view: View) -> int | None:
    return None if args.token is None else view.query(streams.utf8(args.token, "--token"))


def _show(args: argparse.Namespace, views: list[View], tokens: list[int | None]) -> None:
    from fastlm.look.terminal import SHADES, bars, cells

    width, plain = shutil.get_terminal_size().columns, not streams.can_show(SHADES)
    for view, token in zip(views, tokens, strict=True):
        matrix = view.matrix(args.layer, args.head)
        if token is None:
            streams.write(cells(view, matrix, width, plain))
        else:
            streams.write(bars(view, matrix, token, width, plain))


def _page(args: argparse.Namespace, texts: list[list[View]], first: View, token: int | None, name: str) -> bytes:
    from fastlm.look.page import page

    layer, head = first.place(args.layer, args.head)
    return page(texts, name, {"part": first.part, "layer": layer, "head": head, "token": token})


def _picture(args: argparse.Namespace, views: list[View], tokens: list[int | None], name: str) -> bytes:
    from fastlm.look.picture import picture

    layer, head = views[0].place(args.layer, args.head)
    where = "mean of all layers" if layer is None else f"layer {layer}"
    title = f"{name}: {where}, {'mean of all heads' if head is None else f'head {head}'}"
    queries = [token for token in tokens if token is not None]
    return picture(views, [view.matrix(layer, head) for view in views], queries or None, title)
