"""The command line. Importing this is light, so that Ctrl-C ends a command quietly from its first moments on."""

from __future__ import annotations

import sys
from collections.abc import Sequence

INTERRUPTED = 130  # the exit status of a program that Ctrl-C ended, as shells count


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit status: 0, 1 (an error, told on stderr), 2 (usage) or 130 (Ctrl-C)."""
    try:
        from fastlm.cli.run import run

        return run(argv)
    except KeyboardInterrupt:
        if sys.stderr is not None:
            sys.stderr.write("\nfastlm: interrupted\n")
        return INTERRUPTED
