"""The command line. Importing this is light, so that Ctrl-C ends a command quietly from its first moments on."""

from __future__ import annotations

import sys
from collections.abc import Sequence

INTERRUPTED = 130  # the exit status of a program that Ctrl-C ended, as shells count


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit status: 0, 1 (an error, told on stderr), 2 (usage) or 130 (Ctrl-C)."""
    try:
        _import_libraries()
        from fastlm.cli.run import run

        return run(argv)
    except KeyboardInterrupt:
        if sys.stderr is not None:
            sys.stderr.write("\nfastlm: interrupted\n")
        return INTERRUPTED


def _import_libraries() -> None:
    """Import what commands need. Ctrl-C waits until then: NumPy would make an ImportError of it."""
    import signal

    mask = getattr(signal, "pthread_sigmask", None)  # which Windows lacks
    before = mask(signal.SIG_BLOCK, {signal.SIGINT}) if mask else ()
    try:
        import fastlm.public  # noqa: F401
    finally:
        if mask:
            mask(signal.SIG_SETMASK, before)
