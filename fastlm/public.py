"""The public names. `fastlm` hands them on when they are first asked for."""

from fastlm._core import version as _version
from fastlm.drafts import Draft, Lookup
from fastlm.errors import (
    Cancelled,
    ContextLengthError,
    FastlmError,
    ModelFileError,
    ModelFormatError,
    ModelMemoryError,
    NumericError,
    ParameterError,
    StateError,
    UnsupportedError,
)
from fastlm.generation import Request
from fastlm.loading import load
from fastlm.model import Model
from fastlm.results import Chunk, Completion, TokenLogprob, ToolCall
from fastlm.session import Session
from fastlm.tasks.forward import Outputs
from fastlm.tasks.labels import Label, Span
from fastlm.tasks.late import max_sim
from fastlm.tasks.rerank import Ranked
from fastlm.tasks.spans import Filled

__version__ = _version()
__all__ = [
    "Cancelled",
    "Chunk",
    "Completion",
    "ContextLengthError",
    "Draft",
    "FastlmError",
    "Filled",
    "Label",
    "Lookup",
    "Model",
    "ModelFileError",
    "ModelFormatError",
    "ModelMemoryError",
    "NumericError",
    "Outputs",
    "ParameterError",
    "Ranked",
    "Request",
    "Session",
    "Span",
    "StateError",
    "TokenLogprob",
    "ToolCall",
    "UnsupportedError",
    "__version__",
    "load",
    "max_sim",
]
