"""Labels of texts and of their tokens: classify, tag, and the numbers that they are made of."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fastlm.arch.head_tasks import CLASSIFY, TAG
from fastlm.arguments import whole
from fastlm.engine import Engine
from fastlm.errors import ParameterError, UnsupportedError, error_of
from fastlm.tasks.forward import softmax
from fastlm.tasks.texts import by_token, given, groups, only, read, read_one, scores
from fastlm.tokenizer.reading import Reading

Array = NDArray[np.float64]
HYPOTHESIS = "This example is {}."


@dataclass(frozen=True, slots=True)
class Label:
    """A label of a text, and how probable it is (of a regression: its value)."""

    label: str
    score: float


@dataclass(frozen=True, slots=True)
class Span:
    """A part of a text, text[start:end], with its label."""

    label: str
    score: float
    text: str
    start: int
    end: int


def names(config: Mapping[str, object], count: int) -> list[str]:
    """The labels' names by id2label of config.json; LABEL_3 where it has none, as transformers calls them."""
    given = config.get("id2label")
    named = given if isinstance(given, Mapping) else {}
    return [str(named.get(str(i), named.get(i, f"LABEL_{i}"))) for i in range(count)]


def sigmoid(x: Array) -> Array:
    return np.asarray(0.5 * (1.0 + np.tanh(0.5 * x)))


def probabilities(config: Mapping[str, object], logits: Array) -> Array:
    """Of labels that exclude each other, or each for itself; of a regression the numbers as they are."""
    kind = config.get("problem_type")
    if kind == "regression":
        return logits
    alone = kind == "multi_label_classification" or logits.shape[-1] == 1
    return sigmoid(logits) if alone else softmax(logits)


def classify(
    engine: Engine, texts: Iterable[object], labels: Sequence[str] | None, top_k: int | None
) -> list[list[Label]]:
    """See `Model.classify`."""
    only(engine, CLASSIFY)
    known = names(engine.config, engine.spec.outputs)
    wanted = known if labels is None else _wanted(labels)
    if top_k is not None:
        top_k = whole(top_k, "top_k", 1, len(wanted))
    found: list[list[Label]] = []
    if labels is not None:
        entailed = _entailment(known)
        for i, text in enumerate(given(texts)):
            with error_of(f"texts[{i}]"):
                found.append(_zero_shot(engine, entailed, text, wanted, top_k))
        return found
    for first, group in groups(given(texts)):
        logits = scores(engine, read(engine, group, first=first)).astype(np.float64)
        found += [_best(known, row, top_k) for row in probabilities(engine.config, logits)]
    return found


def _best(labels: Sequence[str], values: Array, top_k: int | None) -> list[Label]:
    order = np.argsort(-values, kind="stable")[:top_k]
    return [Label(labels[i], float(values[i])) for i in order]


def _wanted(labels: object) -> list[str]:
    found = list(given(labels, "labels"))
    if not found or not all(isinstance(label, str) for label in found):
        raise ParameterError("labels must be a list of texts")
    return [str(label) for label in found]


def _entailment(known: Sequence[str]) -> int:
    """Which of the head's labels says that the second text follows from the first."""
    entailed = next((i for i, name in enumerate(known) if name.lower().startswith("entail")), None)
    if entailed is None:
        raise UnsupportedError(f"labels: this head tells {', '.join(known)} apart; others need one for entailment")
    return entailed


def _zero_shot(engine: Engine, entailed: int, text: object, labels: list[str], top_k: int | None) -> list[Label]:
    """By natural-language inference (Yin et al. 2019): how much the text entails "This example is <label>.".

    Labels exclude each other, as in transformers' pipeline; one alone is true or not.
    """
    if not isinstance(text, str):
        raise ParameterError("with labels, a text is a string")
    pairs = [(text, HYPOTHESIS.format(label)) for label in labels]
    logits = scores(engine, read(engine, pairs, "labels")).astype(np.float64)
    if len(labels) == 1:  # nothing to tell it from but its contradiction, which is the last label or the first
        against = logits[:, 0 if entailed else -1]
        return _best(labels, softmax(np.stack([logits[:, entailed], against], axis=1))[:, 0], top_k)
    return _best(labels, softmax(logits[:, entailed]), top_k)


def tag(engine: Engine, text: str) -> list[Span]:
    """See `Model.tag`."""
    only(engine, TAG)
    reading = read_one(engine, text, spans=True)
    (logits,) = by_token(engine, [reading])
    p = softmax(logits.astype(np.float64))
    return list(_join(text, _words(reading, p, names(engine.config, engine.spec.outputs))))


@dataclass(slots=True)
class _Word:
    label: str
    score: float
    start: int
    end: int


def _words(reading: Reading, p: Array, known: list[str]) -> list[_Word]:
    """Words put together from their pieces; the first piece says what a word is."""
    found: list[_Word] = []
    last: tuple[int | None, int | None] = (None, None)
    for i, (start, end) in enumerate(reading.spans):
        if reading.parts[i] is None or start == end:
            continue
        word = (reading.parts[i], reading.words[i])
        if found and word == last and word[1] is not None:
            found[-1].end = end
            continue
        best = int(p[i].argmax())
        found.append(_Word(known[best], float(p[i, best]), start, end))
        last = word
    return found


def _join(text: str, words: list[_Word]) -> Iterable[Span]:
    """Neighbours of one kind as one span: B-X begins one, I-X goes on; O is none."""
    run: list[_Word] = []
    for word in [*words, _Word("O", 0.0, 0, 0)]:
        if run and (_kind(word) != _kind(run[-1]) or word.label.startswith("B-")):
            score = sum(w.score for w in run) / len(run)
            start, end = run[0].start, run[-1].end
            yield Span(_kind(run[0]), score, text[start:end], start, end)
            run = []
        if word.label != "O":
            run.append(word)


def _kind(word: _Word) -> str:
    return word.label[2:] if word.label[:2] in ("B-", "I-") else word.label
