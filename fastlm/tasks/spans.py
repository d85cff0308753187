"""Texts for gaps and for questions: fill_mask and answer."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from fastlm.arch.head_tasks import ANSWER, FILL
from fastlm.arguments import shown, whole
from fastlm.engine import Engine
from fastlm.errors import ParameterError, UnsupportedError
from fastlm.tasks.forward import softmax
from fastlm.tasks.labels import Span
from fastlm.tasks.texts import by_token, listed_rows, only, read, read_one
from fastlm.tokenizer.reading import Reading

LONGEST_ANSWER = 15  # tokens, as transformers' pipeline


@dataclass(frozen=True, slots=True)
class Filled:
    """What a gap may hold: the token, what it prints, how probable it is, and the whole text with it."""

    token: int
    text: str
    score: float
    sequence: str


def fill_mask(engine: Engine, text: str, top_k: int) -> list[Filled] | list[list[Filled]]:
    """See `Model.fill_mask`."""
    only(engine, FILL)
    top_k = whole(top_k, "top_k", 1, engine.vocab)
    tokenizer = engine.prompts.needed_tokenizer()
    mask = tokenizer.special_tokens.get("mask_token")
    if mask is None:
        raise UnsupportedError("fill_mask: the tokenizer names no mask token")
    reading = read_one(engine, text)
    token = tokenizer.id_of(mask)
    gaps = [i for i, found in enumerate(reading.ids) if found == token]
    if not gaps:
        raise ParameterError(f"text: there is no {mask} in it, which stands for the word that is looked for")
    p = softmax(listed_rows(engine, reading, gaps).astype(np.float64))
    found = []
    for gap, row in zip(gaps, p, strict=True):
        best = np.argsort(-row, kind="stable")[:top_k]
        alone = len(gaps) == 1
        found.append([_filled(engine, reading, gap, int(i), float(row[i]), alone) for i in best])
    return found[0] if len(found) == 1 else found


def _filled(engine: Engine, reading: Reading, gap: int, token: int, score: float, alone: bool) -> Filled:
    """Where other gaps are left, the text shows them, and so all special tokens."""
    tokenizer = engine.prompts.needed_tokenizer()
    ids = [*reading.ids[:gap], token, *reading.ids[gap + 1 :]]
    return Filled(token, tokenizer.decode([token]), score, tokenizer.decode(ids, skip_special=alone))


def answer(engine: Engine, question: str, context: str, top_k: int, no_answer: bool) -> list[Span]:
    """See `Model.answer`."""
    only(engine, ANSWER)
    if not isinstance(no_answer, bool):
        raise ParameterError(f"no_answer must be True or False, not {shown(no_answer)}")
    top_k = whole(top_k, "top_k", 1, 1000)
    if not isinstance(question, str) or not isinstance(context, str):
        raise ParameterError("question and context must be strings")
    (reading,) = read(engine, [(question, context)], "question and context", spans=True)
    (rows,) = by_token(engine, [reading])
    logits = rows.astype(np.float64)
    inside = np.array([part == 1 for part in reading.parts])
    if not inside.any():
        raise ParameterError("context: there is nothing in it")
    inside[0] = no_answer  # the first token stands for it
    start, end = (softmax(np.where(inside, logits[:, i], -np.inf)) for i in (0, 1))
    ends = np.lib.stride_tricks.sliding_window_view(np.pad(end, (0, LONGEST_ANSWER - 1)), LONGEST_ANSWER)
    both = start[:, None] * ends  # of a span from a token to each of the next ones
    both[0, 1:] = 0
    spans = []
    for place in np.argsort(-both, axis=None, kind="stable")[:top_k]:
        i, more = divmod(int(place), LONGEST_ANSWER)
        if both[i, more] == 0:
            break
        first, last = (reading.spans[i][0], reading.spans[i + more][1]) if i else (0, 0)
        spans.append(Span("", float(both[i, more]), context[first:last], first, last))
    return spans
