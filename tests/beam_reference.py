"""Beam search and logits processors written down plainly, in float64, over the logits of the reference."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
NextLogits = Callable[[list[int]], Floats]  # of the token after these
NOTHING = -1e9


@dataclass(frozen=True)
class Search:
    """What is asked for; the names are those of transformers."""

    num_beams: int = 1
    max_new_tokens: int = 12
    length_penalty: float = 1.0
    early_stopping: bool | str = False
    eos: tuple[int, ...] = ()
    min_new_tokens: int = 0
    repetition_penalty: float = 1.0
    no_repeat_ngram_size: int = 0
    encoder_no_repeat_ngram_size: int = 0
    bad_words_ids: Sequence[Sequence[int]] = ()
    forced_bos_token_id: int | None = None
    forced_eos_token_id: tuple[int, ...] = ()
    suppress_tokens: tuple[int, ...] = ()
    begin_suppress_tokens: tuple[int, ...] = ()
    source: Sequence[int] = ()


@dataclass(order=True)
class Text:
    score: float
    tokens: list[int] = field(compare=False)  # with the end token, if any


def edited(scores: Floats, s: Search, text: list[int], n_prompt: int) -> Floats:
    """The scores of the token after `text`, as the processors leave them."""
    scores = scores.copy()
    written = len(text) - n_prompt
    for token in set(text) if s.repetition_penalty != 1 else ():
        scores[token] *= s.repetition_penalty if scores[token] < 0 else 1 / s.repetition_penalty
    for sequence, size in ((text, s.no_repeat_ngram_size), (list(s.source), s.encoder_no_repeat_ngram_size)):
        last = text[len(text) - size + 1 :] if size else None
        for at in range(size - 1, len(sequence)) if size and len(text) >= size - 1 else ():
            if sequence[at - size + 1 : at] == last:
                scores[sequence[at]] = -np.inf
    for word in s.bad_words_ids:
        *before, token = word
        if (before or token not in s.eos) and text[len(text) - len(before) :] == before:
            scores[token] = -np.inf
    if written < s.min_new_tokens:
        scores[list(s.eos)] = -np.inf
    if s.forced_bos_token_id is not None and len(text) == 1:
        scores[:] = -np.inf
        scores[s.forced_bos_token_id] = 0
    if s.forced_eos_token_id and written == s.max_new_tokens - 1:
        scores[:] = -np.inf
        scores[list(s.forced_eos_token_id)] = 0
    scores[list(s.suppress_tokens)] = -np.inf
    if written == (s.forced_bos_token_id is not None and n_prompt == 1):
        scores[list(s.begin_suppress_tokens)] = -np.inf
    return scores


def log_softmax(logits: Floats) -> Floats:
    shifted = logits - logits.max()
    return np.asarray(shifted - np.log(np.exp(shifted).sum()))


def greedy(next_logits: NextLogits, prompt: list[int], s: Search) -> list[int]:
    """What is written without beams, without the end token."""
    text = list(prompt)
    while len(text) - len(prompt) < s.max_new_tokens:
        token = int(np.argmax(edited(next_logits(text), s, text, len(prompt))))
        if token in s.eos:
            break
        text.append(token)
    return text[len(prompt) :]


def beam_search(next_logits: NextLogits, prompt: list[int], s: Search, bias: Floats | float = 0.0) -> list[Text]:
    """The best texts, best first: as transformers finds them, one at a time. bias: added to log probabilities."""
    n, n_kept = s.num_beams, max(2, 1 + len(s.eos)) * s.num_beams
    running, done = [Text(0.0, [])], [Text(NOTHING, []) for _ in range(n)]
    for length in range(1, s.max_new_tokens + 1):
        found = []
        for text in running:
            sequence = [*prompt, *text.tokens]
            scores = edited(log_softmax(next_logits(sequence)) + bias, s, sequence, len(prompt)) + text.score
            found += [Text(float(x), [*text.tokens, token]) for token, x in enumerate(scores) if x > -np.inf]
        found = sorted(found, reverse=True)[:n_kept]
        ends = [text.tokens[-1] in s.eos or length == s.max_new_tokens for text in found]
        running = [text for text, end in zip(found, ends, strict=True) if not end][:n]
        ended = [text for text, end in zip(found[:n], ends, strict=False) if end]
        done = sorted([*done, *(Text(t.score / length**s.length_penalty, t.tokens) for t in ended)], reverse=True)[:n]
        full = done[-1].score > NOTHING
        if not running or (full and s.early_stopping is True):
            break
        grown = s.max_new_tokens if s.early_stopping == "never" and s.length_penalty > 0 else length
        if full and running[0].score / grown**s.length_penalty <= done[-1].score:
            break
    return [text for text in done if text.score > NOTHING]
