"""Options that are written in full: an unknown one is an error that names the nearest that there is."""

from __future__ import annotations

import argparse
import difflib
import sys
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NoReturn


class Parser(argparse.ArgumentParser):
    """argparse's, but that it takes no beginnings of names for the names, and keeps lists apart from what follows."""

    def __init__(self, **options: Any) -> None:
        super().__init__(allow_abbrev=False, formatter_class=argparse.RawDescriptionHelpFormatter, **options)

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """As argparse's, which parsers and their commands share; nothing is left over."""
        given = self._joined(sys.argv[1:] if args is None else args)
        found, unknown = super().parse_known_args(given, namespace)
        if unknown:
            self._refuse(unknown)
        return found, []

    def error(self, message: str) -> NoReturn:
        """End with the message alone: the usage of commands with many options would hide it."""
        self.exit(2, f"{self.prog}: error: {message}\n`{self.prog} --help` shows what there is\n")

    def _refuse(self, unknown: Sequence[str]) -> NoReturn:
        name = next((item for item in unknown if item.startswith("-")), None)
        if name is None:
            self.error(f"too many arguments: {' '.join(unknown)}{self._how_texts_go(unknown)}")
        if name.partition("=")[0] == "--model" and any(action.metavar == "MODEL" for action in self._actions):
            self.error(f"unknown option --model: here the model goes without it: {self.prog} MODEL")
        near = nearest(name, [s for action in self._actions for s in action.option_strings])
        self.error(f"unknown option {name}" + (f"; did you mean {near}?" if near else ""))

    def _how_texts_go(self, surplus: Sequence[str]) -> str:
        """What to know where a command takes one text, but several are given, or where options stand among them."""
        if any(action.dest == "texts" for action in self._actions):
            return " (texts go together, before the options or after them)"
        if not any(action.dest == "prompt" and not action.option_strings for action in self._actions):
            return ""
        if any(len(item.split()) > 1 for item in surplus):  # there were quotes
            return " (a model goes after --model)"
        return " (a text of several words goes in quotes, a model after --model)"

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        """As argparse's, but that an unknown command is an error that names the nearest."""
        if isinstance(action, argparse._SubParsersAction) and value not in action.choices:
            near = nearest(value, action.choices)
            self.error(
                f"unknown command {value}; "
                + (f"did you mean {near}?" if near else f"known are {', '.join(action.choices)}")
            )
        super()._check_value(action, value)

    def _joined(self, args: Iterable[str]) -> list[str]:
        """`--weights 2 1 a.txt` as `--weights 2,1 a.txt`: the numbers after an option of `numbers` belong to it."""
        lists = {s for action in self._actions if action.type is numbers for s in action.option_strings}
        found: list[str] = []
        for item in args:
            name, _, before = found[-1].partition("=") if found else ("", "", "")
            if name in lists and _is_number(item):
                found[-1] = f"{name}={before},{item}" if before else f"{name}={item}"
            else:
                found.append(item)
        return found


def command(
    commands: Any, name: str, what: str, run: Callable[[argparse.Namespace], None], *examples: str
) -> argparse.ArgumentParser:
    """Add a command: its name, what it does, the function that does it, and examples of its use."""
    shown = "\n".join(["examples:", *(f"  {example}" for example in examples)])
    parser: argparse.ArgumentParser = commands.add_parser(name, help=what, description=what, epilog=shown)
    parser.set_defaults(run=run)
    return parser


def numbers(text: str) -> list[float]:
    """The value of an option that takes several numbers."""
    return [float(part) for part in text.split(",")]


def nearest(name: str, names: Iterable[str]) -> str | None:
    """The option, or the command, that an unknown one may stand for."""
    known = {option.lstrip("-"): option for option in names}
    asked = name.lstrip("-").partition("=")[0].replace("_", "-")
    longer = [plain for plain in known if len(asked) > 1 and plain.startswith(asked)]
    found = longer or difflib.get_close_matches(asked, known, 1)
    return known[found[0]] if found else None


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
