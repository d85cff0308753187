"""Options that several commands share: which model, and how it is loaded."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from fastlm.errors import ParameterError

MODEL_HELP = "a model folder, a .flm file or a cached hub id"
PACKAGED_HELP = f"{MODEL_HELP}; default: the model in the package, which writes simple stories"
LOADING = ("dtype", "threads", "context", "kv_dtype", "kv_bytes", "prefix_cache")


def model_options(parser: argparse.ArgumentParser, packaged: bool = True) -> None:
    """--model and how it is loaded; packaged: whether the model in the package will do, too."""
    parser.add_argument(
        "--model", metavar="MODEL", required=not packaged, help=PACKAGED_HELP if packaged else MODEL_HELP
    )
    loading_options(parser)


def adapter_option(parser: argparse.ArgumentParser) -> None:
    """An adapter to run with; `load_model` loads it, under the name that `adapter_of` gives."""
    parser.add_argument("--adapter", metavar="FOLDER", help="run with this LoRA, a folder that PEFT wrote (none)")


def adapter_of(args: argparse.Namespace) -> str | None:
    """What the adapter that was asked for is called."""
    return None if args.adapter is None else "adapter"


def draft_option(parser: argparse.ArgumentParser) -> None:
    """What proposes tokens; `draft_for` loads it."""
    parser.add_argument(
        "--draft",
        metavar="MODEL",
        help="a smaller model of the same vocabulary, which proposes tokens, or lookup: what followed before (none)",
    )
    parser.add_argument(
        "--draft-tokens", type=int, metavar="N", help="that it proposes for each step (as many as are worth it)"
    )


@contextmanager
def draft_for(args: argparse.Namespace, model: Any) -> Iterator[Any]:
    """The value of `draft=` for a model, while it is needed; None: none was asked for."""
    from fastlm.drafts import Draft, Lookup
    from fastlm.loading import load

    tokens = "auto" if args.draft_tokens is None else args.draft_tokens
    if args.draft is None:
        if args.draft_tokens is not None:
            raise ParameterError("--draft-tokens needs --draft")
        yield None
    elif args.draft == "lookup":
        yield Lookup(tokens=tokens)
    else:
        dtype = "auto" if args.draft.endswith(".flm") else args.dtype
        with load(args.draft, dtype=dtype, kv_dtype=args.kv_dtype, beside=model) as drafts:
            yield Draft(drafts, tokens)


def dtype_option(parser: Any) -> None:
    """The format of the matrices."""
    parser.add_argument(
        "--dtype", default="auto", help="of the matrices: auto (as stored), float32, float16, bfloat16, int8, int4"
    )


def loading_options(parser: argparse.ArgumentParser) -> None:
    """What `load` takes beside the path."""
    group = parser.add_argument_group("loading")
    dtype_option(group)
    group.add_argument(
        "--threads",
        type=int,
        metavar="N",
        help="of the processor ($FASTLM_THREADS, else its fast cores, few for a tiny model)",
    )
    group.add_argument("--context", type=int, metavar="N", help="longest sequence in tokens (what the model has)")
    group.add_argument(
        "--kv-dtype", default="auto", help="of keys and values: auto (by the matrices), float32, bfloat16, int8"
    )
    group.add_argument("--kv-bytes", type=int, metavar="N", help="most memory for keys and values (by the machine's)")
    group.add_argument(
        "--no-prefix-cache",
        dest="prefix_cache",
        action="store_false",
        help="forget keys and values, instead of keeping them for prompts that begin alike",
    )


def load_model(args: argparse.Namespace) -> Any:
    """The model that the options name, a context manager."""
    from fastlm.loading import load

    model = load(args.model, **{name: getattr(args, name) for name in LOADING})
    if getattr(args, "adapter", None) is not None:
        try:
            model.load_adapter("adapter", args.adapter)
        except BaseException:
            model.close()
            raise
    return model
