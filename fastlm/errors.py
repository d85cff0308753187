"""Exceptions. Each is a FastlmError and, where one fits, also the built-in error a caller would expect."""

import errno
from collections.abc import Iterator
from contextlib import contextmanager


class FastlmError(Exception):
    """Base of every error that fastlm raises on purpose."""


class ModelFormatError(FastlmError, ValueError):
    """A model file, its configuration or a tensor is malformed; the text names the file and the culprit."""


class UnsupportedError(FastlmError, ValueError):
    """The model is well formed but asks for something that this version cannot run."""


class ParameterError(FastlmError, ValueError, TypeError):
    """An argument is unknown, out of range or cannot be honoured by this model."""


class ContextLengthError(FastlmError, ValueError):
    """The prompt (plus what was asked for) is longer than the model's context."""


class ModelMemoryError(FastlmError, MemoryError):
    """Memory ran out; the text names the setting that bounds it (usually `context`)."""


class ModelFileError(FastlmError, OSError):
    """A file could not be found, read or written."""


class NumericError(FastlmError, ArithmeticError):
    """The model produced NaN or infinite logits."""


class Cancelled(FastlmError):
    """The call was cancelled before it had a result."""


class StateError(FastlmError, RuntimeError):
    """The object cannot do this now: it is closed, in use by another call, or was forked in mid-step."""


def file_error(path: object, done: str, error: Exception) -> FastlmError:
    """What to raise when the system fails on a file that was to be `done` ("read", "written").

    A ModelMemoryError where memory is what is missing, else a ModelFileError.
    """
    text = f"{str(path)[:300]}: cannot be {done}: {getattr(error, 'strerror', None) or error}"
    return ModelMemoryError(text) if getattr(error, "errno", None) == errno.ENOMEM else ModelFileError(text)


@contextmanager
def error_of(what: str) -> Iterator[None]:
    """An error in the block is of the same kind, and its text begins with what it is about: prompts[3]."""
    try:
        yield
    except FastlmError as error:
        raise type(error)(f"{what}: {error}") from error


@contextmanager
def memory_for(what: str) -> Iterator[None]:
    """Running out of memory in the block is a ModelMemoryError that says what it was for."""
    try:
        yield
    except FastlmError:
        raise
    except MemoryError as error:
        raise ModelMemoryError(f"out of memory for {what}: {error or 'nothing is left'}") from error
