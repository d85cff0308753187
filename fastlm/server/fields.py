"""The fields of a request: which there are, and what they hold."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from typing import Any

from fastlm.arguments import shown
from fastlm.server.refusals import Refusal, wrong

# Fields that say who asks, or how the provider is to account for it: they change nothing here.
ASIDE = ("user", "safety_identifier", "metadata", "prompt_cache_key", "prompt_cache_retention")


class Fields:
    """A JSON object with names that are known; null is as absent."""

    def __init__(self, body: object, names: Iterable[str]) -> None:
        if not isinstance(body, dict):
            raise Refusal(400, f"the body must be a JSON object, not {shown(body)}", code="invalid_json")
        self.names = (*names, *ASIDE)
        for name in body:
            if name not in self.names:
                near = difflib.get_close_matches(name[:64], self.names, 1)
                hint = f"; did you mean {near[0]}?" if near else ""
                text = f"Unrecognized request argument supplied: {name[:200]}{hint}"
                raise Refusal(400, text, param=name[:200], code="unknown_parameter")
        self.values: Mapping[str, Any] = {name: value for name, value in body.items() if value is not None}

    def __contains__(self, name: str) -> bool:
        return name in self.values

    def given(self, names: Iterable[str]) -> dict[str, Any]:
        """Those of these fields that there are."""
        return {name: self.values[name] for name in names if name in self.values}

    def required(self, name: str) -> Any:
        if name not in self.values:
            raise Refusal(400, f"you must provide the parameter {name}", param=name, code="missing_required_parameter")
        return self.values[name]

    def text(self, name: str, default: str | None = None) -> str:
        value = self.required(name) if default is None else self.values.get(name, default)
        if not isinstance(value, str):
            raise wrong(name, f"{name} must be a string, not {shown(value)}")
        return value

    def flag(self, name: str, default: bool = False) -> bool:
        value = self.values.get(name, default)
        if not isinstance(value, bool):
            raise wrong(name, f"{name} must be true or false, not {shown(value)}")
        return value

    def count(self, name: str, default: int, low: int, high: int) -> int:
        value = self.values.get(name, default)
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            raise wrong(name, f"{name} must be an integer from {low} to {high}, not {shown(value)}")
        return value

    def only(self, name: str, *values: object) -> None:
        """Refuse another value than these, which ask for nothing."""
        if name in self.values and not any(
            self.values[name] == v and type(self.values[name]) is type(v) for v in values
        ):
            raise Refusal(
                400,
                f"{name}: {shown(self.values[name])} is not supported by this server: leave it out",
                param=name,
                code="unsupported_value",
            )

    def table(self, name: str) -> Mapping[str, Any]:
        value = self.values.get(name, {})
        if not isinstance(value, dict):
            raise wrong(name, f"{name} must be an object, not {shown(value)}")
        return value

    def items(self, name: str, most: int) -> list[Any]:
        """A list that is not empty."""
        value = self.required(name)
        if not isinstance(value, list) or not value:
            raise wrong(name, f"{name} must be a list that is not empty, not {shown(value)}")
        if len(value) > most:
            raise wrong(name, f"{name} has {len(value)} items; this server takes {most} at most")
        return value
