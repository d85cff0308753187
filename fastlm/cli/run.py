"""What every command goes through: its arguments, its errors, and the end of its output."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from fastlm.cli import streams
from fastlm.errors import FastlmError, ParameterError

USAGE_ERROR, FAILURE = 2, 1


def run(argv: Sequence[str] | None) -> int:
    """As `fastlm.cli.main`, which answers Ctrl-C."""
    streams.prepare()
    try:
        status = _carry_out(argv)
        streams.flush()
        return status
    except BrokenPipeError:  # the reader has gone: say nothing, also not at exit
        streams.drop_output()
        return 0
    except (FastlmError, MemoryError) as error:
        sys.stderr.write(f"fastlm: error: {str(error) or 'out of memory'}\n")
        if isinstance(error, streams.OutputError):
            streams.drop_output()
        return USAGE_ERROR if isinstance(error, ParameterError) else FAILURE


def _carry_out(argv: Sequence[str] | None) -> int:
    from fastlm import __version__
    from fastlm.cli.attention import register as register_attention
    from fastlm.cli.chat import register as register_chat
    from fastlm.cli.commands import register
    from fastlm.cli.encoders import register as register_encoders
    from fastlm.cli.evaluate import register as register_evaluation
    from fastlm.cli.map import register as register_map
    from fastlm.cli.parser import Parser
    from fastlm.cli.serve import register as register_server
    from fastlm.cli.translate import register as register_translation
    from fastlm.train.options import register as register_training

    parser = Parser(prog="fastlm", description="Language models on this computer's CPU.")
    parser.add_argument("--version", action="version", version=f"fastlm {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    register(commands)
    register_chat(commands)
    register_encoders(commands)
    register_translation(commands)
    register_attention(commands)
    register_evaluation(commands)
    register_map(commands)
    register_server(commands)
    register_training(commands)
    try:
        args = parser.parse_args(argv)
    except SystemExit as end:  # after --help, or an error of usage that argparse has told
        return int(end.code or 0)
    args.run(args)
    return 0
