"""What generation returns."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

SHOWN = 60  # characters of a text in a repr


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
    """Seconds of reading the prompt (to the first token) and of writing the rest, and what they cost.

    Attributes
    ----------
    cpu_seconds
        Processor time of all of the model's threads in the steps of this request, prompt and rest; waiting for each
        other counts, too. Of a step that several requests shared, its part by tokens: one of 8 sequences that are
        written together pays an eighth. nan where the system does not tell.
    prompt_cpu_seconds
        Of that, the prompt's.
    threads
        How many threads took part in the steps, on average over their time: fewer than `Model.threads` where something
        else wanted the processors. 0.0 where there was no step.
    """

    prompt_seconds: float
    decode_seconds: float
    cpu_seconds: float = math.nan
    prompt_cpu_seconds: float = math.nan
    threads: float = 0.0


class Drafted(NamedTuple):
    """Of speculative decoding: tokens that were proposed, and how many of them were accepted, that is written."""

    accepted: int
    proposed: int


ByToken = list[list[NDArray[np.float32]]]  # per written token, per layer: (heads, S)


class Trace(NamedTuple):
    """What written tokens looked at: in the text so far, and of an encoder-decoder in its source."""

    attentions: ByToken | None = None
    cross_attentions: ByToken | None = None


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A function that the model wants to have called; `arguments` is JSON, as the model wrote it."""

    id: str
    name: str
    arguments: str


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
    draft
        Of a call with `draft`: how many tokens were accepted, and proposed; each one that was accepted saved a step.
    score
        Of a beam search: the text's log probability, its end included, divided by tokens ** length_penalty.
    alternatives
        The other n - 1 completions when n > 1; of a beam search the next best ones.
    reasoning
        Of an answer of `chat`: what stood between <think> and </think>, which the text then lacks; None: nothing did.
    tool_calls
        Of an answer of `chat` that was given tools: the functions to call, which the text lacks, too; None: there were
        no tools, or it is not known how this model writes calls.
    attentions, cross_attentions
        When asked for: of each written token, per layer, float32 (heads, S): how the token before it, which chose it,
        looked at the S tokens up to itself; and, of an encoder-decoder, at the S tokens of the source.
    """

    text: str
    token_ids: list[int]
    finish_reason: str
    usage: Usage
    timings: Timings
    seed: int
    logprobs: list[TokenLogprob] | None = None
    draft: Drafted | None = None
    score: float | None = None
    alternatives: tuple[Completion, ...] = field(default=())
    reasoning: str | None = None
    tool_calls: tuple[ToolCall, ...] | None = None
    attentions: ByToken | None = field(default=None, compare=False)
    cross_attentions: ByToken | None = field(default=None, compare=False)

    def __str__(self) -> str:
        return self.text

    def __repr__(self) -> str:
        more = f", and {len(self.alternatives)} more" if self.alternatives else ""
        return f"<Completion {_short(self.text)}: {len(self.token_ids)} tokens, {self.finish_reason}{more}>"

    def _repr_html_(self) -> str:
        """The text as it is, for notebooks."""
        from html import escape  # here, because importing it takes milliseconds

        style = "white-space: pre-wrap"
        shown = "".join(f'<div style="{style}">{escape(c.text)}</div>' for c in (self, *self.alternatives))
        return f"{shown}<small>{len(self.token_ids)} tokens, {self.finish_reason}</small>"


def _short(text: str) -> str:
    """A text's beginning and end, in quotes."""
    return repr(text if len(text) <= SHOWN else f"{text[: SHOWN // 2]} ... {text[-SHOWN // 2 :]}")


@dataclass(frozen=True, slots=True)
class Chunk:
    """A piece of a stream: whole code points of text (sometimes none) and the tokens written since the last piece."""

    text: str
    token_ids: list[int]
    finish_reason: str | None = None
    logprobs: list[TokenLogprob] | None = None

    def __str__(self) -> str:
        return self.text
