"""How much a server takes on."""

from __future__ import annotations

from dataclasses import dataclass

from fastlm.errors import ContextLengthError


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Bounds of a server.

    Attributes
    ----------
    body_bytes
        Of a request; a larger one is refused (413).
    prompt_tokens
        Of one prompt; None: what the model's context holds.
    max_tokens
        That an answer may have at most; None: what the context holds.
    default_tokens
        That an answer of a chat may have where the request does not say.
    choices
        Texts of one request: n, times the prompts.
    logprobs
        Log-probabilities that one request may ask for: texts, times their tokens, times those told of each.
    texts
        Of one request for vectors, or documents to rerank.
    requests
        That are answered, or wait for their turn, at a time; more are refused (503).
    requests_each
        Of one key, or of one address where there are no keys; more are refused (429).
    seconds
        That an answer may take; then it ends.
    body_seconds, stall_seconds
        That a request may take to arrive, and that a client may take to read what is sent.
    """

    body_bytes: int = 4 << 20
    prompt_tokens: int | None = None
    max_tokens: int | None = None
    default_tokens: int = 1024
    choices: int = 64
    logprobs: int = 1 << 18
    texts: int = 2048
    requests: int = 256
    requests_each: int = 128
    seconds: float = 600.0
    body_seconds: float = 30.0
    stall_seconds: float = 60.0

    def check_prompt(self, ids: list[int], name: str) -> list[int]:
        """The tokens of a prompt, which must not be too many."""
        if self.prompt_tokens is not None and len(ids) > self.prompt_tokens:
            raise ContextLengthError(f"{name}: {len(ids)} tokens are more than this server takes: {self.prompt_tokens}")
        return ids
