"""What generation returns."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """A written token, with its natural log-probability under the model's own distribution.

    `top` has the k most probable tokens at that place, best first, as (id, text, log-probability).
    """

    id: int
    text: str
    logprob: float
    top: tuple[tuple[int, str, float], ...] = ()


@dataclass(frozen=True, slots=True)
class Usage:
    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int  # of the prompt, found in the prefix cache


@dataclass(frozen=True, slots=True)
class Timings:
    """Seconds of reading the prompt (to the first token) and of writing the rest."""

    prompt_seconds: float
    decode_seconds: float


@dataclass(frozen=True, slots=True)
class Completion:
    """A finished generation; `str()` gives its text.

    Attributes
    ----------
    finish_reason
        "stop" (an end token, stop token or stop string), "length" or "cancelled".
    logprobs
        One entry per written token, when asked for.
    seed
        What the sampler was seeded with: the same seed gives the same text again.
    alternatives
        The other n - 1 completions when n > 1.
    """

    text: str
    token_ids: list[int]
    finish_reason: str
    usage: Usage
    timings: Timings
    seed: int
    logprobs: list[TokenLogprob] | None = None
    alternatives: tuple[Completion, ...] = field(default=())

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True, slots=True)
class Chunk:
    """A piece of a stream: whole code points of text (sometimes none) and the tokens written since the last piece."""

    text: str
    token_ids: list[int]
    finish_reason: str | None = None
    logprobs: list[TokenLogprob] | None = None

    def __str__(self) -> str:
        return self.text
