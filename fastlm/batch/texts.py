"""Vectors and labels of rows, in their order, many at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from itertools import islice
from typing import Any

from fastlm.arguments import whole
from fastlm.batch.template import Row, Template, check_row, template_of
from fastlm.errors import FastlmError, StateError
from fastlm.model import Model

AT_ONCE = 1024  # rows whose texts are read together
Work = Callable[[list[str]], Any]  # what becomes of each text


def embed(
    rows: Iterable[Row],
    model: Model,
    text: str | Template,
    *,
    output: str = "embedding",
    at_once: int = AT_ONCE,
    **options: Any,
) -> Iterator[dict[str, Any]]:
    """Give the rows, in their order, with vectors of their texts.

    Parameters
    ----------
    rows
        Mappings, of any number: they are read as they are needed.
    text
        A text with names of columns in braces.
    output
        The column that gets the vector, float32 (D,); None, with the column `error` beside it, where there is none.
    at_once
        How many rows are read at a time.
    **options
        As of `Model.embed`, but for `progress`.

    Raises
    ------
    ParameterError, UnsupportedError
        An option, or the text, is wrong, or this model gives no vectors.
    StateError
        The model is closed.
    """
    return _read(rows, partial(model.embed, **options), text, output, at_once)


def classify(
    rows: Iterable[Row],
    model: Model,
    text: str | Template,
    *,
    output: str = "labels",
    at_once: int = AT_ONCE,
    **options: Any,
) -> Iterator[dict[str, Any]]:
    """Give the rows, in their order, with labels of their texts: a list of Label(label, score), best first.

    Parameters and errors are as of `embed`; the options are those of `Model.classify`.
    """
    return _read(rows, partial(model.classify, **options), text, output, at_once)


def _read(rows: Iterable[Row], work: Work, text: str | Template, output: str, at_once: int) -> Iterator[dict[str, Any]]:
    template = template_of(text, "text")
    whole(at_once, "at_once", 1, 1 << 20)
    work([])  # says what is wrong with its options before any row is read
    return _groups(iter(rows), work, template, output, at_once)


def _groups(rows: Iterator[Row], work: Work, template: Template, output: str, at_once: int) -> Iterator[dict[str, Any]]:
    while group := list(islice(rows, at_once)):
        texts = [_text(template, row) for row in group]
        results = iter(_each([text for text in texts if isinstance(text, str)], work))
        for row, text in zip(group, texts, strict=True):
            found = next(results) if isinstance(text, str) else text
            if isinstance(found, FastlmError):
                yield {**row, output: None, "error": str(found).removeprefix("texts[0]: ")}
            else:
                yield {**row, output: found}


def _text(template: Template, row: Row) -> str | FastlmError:
    check_row(row)
    try:
        return template.fill(row)
    except FastlmError as error:
        return error


def _each(texts: list[str], work: Work) -> list[Any]:
    """What becomes of each text; which one an error is about is found by halves."""
    try:
        return list(work(texts))
    except StateError:
        raise
    except FastlmError as error:
        if len(texts) == 1:
            return [error]
        middle = len(texts) // 2
        return [*_each(texts[:middle], work), *_each(texts[middle:], work)]
