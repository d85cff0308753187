"""What a prompt is made of: a text with names of columns in braces."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from fastlm.arguments import shown
from fastlm.errors import ParameterError

Row = Mapping[str, Any]

_PART = re.compile(r"\{\{|\}\}|\{([^{}]*)\}|[{}]")


class Template:
    """A text in which {column} stands for that column of a row; {{ and }} are braces.

    Parameters
    ----------
    name
        Of the argument, in errors.

    Raises
    ------
    ParameterError
        A brace is alone.
    """

    def __init__(self, text: str, name: str = "prompt") -> None:
        if not isinstance(text, str):
            raise ParameterError(f"{name} must be a text with names of columns in braces, not {type(text).__name__}")
        self.text = text
        self.name = name
        for part in _PART.finditer(text):
            if part[0] in "{}" or part[0] == "{}":
                where = text[max(part.start() - 20, 0) : part.end() + 20]
                raise ParameterError(f"{name}: {where!r} has a brace without a name: write {{{{ and }}}} for braces")

    def fill(self, row: Mapping[str, Any]) -> str:
        """The text of one row: strings as they are, other values as JSON."""
        return _PART.sub(lambda part: self._value(row, part), self.text)

    def _value(self, row: Mapping[str, Any], part: re.Match[str]) -> str:
        if part[1] is None:
            return part[0][0]
        if part[1] not in row:
            known = ", ".join(map(str, row)) or "none"
            raise ParameterError(f"{self.name}: the row has no column {part[1]!r} (there is: {known:.200})")
        value = row[part[1]]
        return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def template_of(text: str | Template, name: str = "prompt") -> Template:
    """A template as it is, or that of a text."""
    return text if isinstance(text, Template) else Template(text, name)


def check_row(row: object) -> None:
    """Refuse what has no columns."""
    if not isinstance(row, Mapping):
        raise ParameterError(f"rows must be mappings, not {shown(row)}")
