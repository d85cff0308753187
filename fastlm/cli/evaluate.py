"""`fastlm eval`: a model's figures on the tasks of lm-evaluation-harness, whose options it hands on."""

from __future__ import annotations

import argparse
import sys
from typing import Any

from fastlm.cli.parser import command
from fastlm.errors import UnsupportedError


def register(commands: Any) -> None:
    """Add the command to the parser's."""
    parser = command(
        commands,
        "eval",
        "score a model on tasks of lm-evaluation-harness (extra: eval)",
        _evaluate,
        "fastlm eval path/to/checkpoint --tasks hellaswag --num_fewshot 5",
        "fastlm eval path/to/checkpoint --model_args dtype=int8 --tasks lambada_openai --limit 100",
    )
    parser.add_argument("model", metavar="MODEL", help="checkpoint folder, .flm file or cached hub id")
    parser.add_argument(
        "options", nargs=argparse.REMAINDER, metavar="OPTIONS", help="of `lm-eval run`, which lists them by -h"
    )


def _evaluate(args: argparse.Namespace) -> None:
    try:
        import fastlm.harness  # noqa: F401  # which makes fastlm known to the harness
    except ImportError as error:
        raise UnsupportedError(f"eval: {error.name} is missing; pip install 'fastlm[eval]'") from error
    from lm_eval.__main__ import cli_evaluate

    sys.argv = ["lm-eval", "run", "--model", "fastlm", "--model_args", f"pretrained={args.model}", *args.options]
    cli_evaluate()
