"""What the extra `train` brings."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from fastlm.errors import UnsupportedError


def need(name: str, *, extra: str = "train") -> Any:
    """Import a module of an extra.

    Raises
    ------
    UnsupportedError
        It is not installed; the text says how to install it.
    """
    try:
        return import_module(name)
    except ImportError as error:
        raise UnsupportedError(f"this needs {name}: pip install '.[{extra}]' in a clone of fastlm ({error})") from error
