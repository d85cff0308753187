"""Rows through a model, in their order, many at a time."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from typing import Any

from fastlm.arguments import shown, whole
from fastlm.batch.template import Row, Template, check_row, template_of
from fastlm.errors import FastlmError, ParameterError, StateError
from fastlm.model import Model
from fastlm.results import Completion
from fastlm.running import Run
from fastlm.tasks.chat import chat_ids
from fastlm.tasks.generate import start

AT_ONCE = 256  # rows that are begun; those that are written at a time are a step's affair


def generate(
    rows: Iterable[Row],
    model: Model,
    prompt: str | Template,
    *,
    output: str = "output",
    chat: bool = False,
    system: str | None = None,
    row_params: str | None = None,
    at_once: int = AT_ONCE,
    **params: Any,
) -> Iterator[dict[str, Any]]:
    """Write a text for each row; gives the rows, in their order, with what was written.

    Parameters
    ----------
    rows
        Mappings, of any number: they are read as they are needed.
    prompt
        A text with names of columns in braces.
    output
        The column that gets the text. Beside it, `finish_reason`; or `error` where a row could not be answered, and
        then the text is None.
    chat
        Whether the prompt is a message to answer, by the model's chat template, and not a text to go on with.
    system
        A message before it.
    row_params
        The column with parameters of a row's own, which count before the others: a mapping, its JSON, or None.
    at_once
        How many rows are begun at a time.
    **params
        As of `Model.generate`; n is 1.

    Raises
    ------
    ParameterError
        A parameter, or the prompt, is wrong: no row could be answered.
    StateError
        The model is closed.
    """
    template = template_of(prompt)
    whole(at_once, "at_once", 1, 1 << 20)
    if system is not None and not chat:
        raise ParameterError("system: it is a message of a conversation: give chat too")
    if model.engine.parameters(params).n != 1:
        raise ParameterError("n: each row gets one text")
    return _written(iter(rows), _Writer(model, template, output, chat, system, row_params, params), at_once)


def _written(rows: Iterator[Row], writer: _Writer, at_once: int) -> Iterator[dict[str, Any]]:
    begun: deque[tuple[Row, Run | FastlmError]] = deque()
    try:
        while True:
            for row in islice(rows, at_once - len(begun)):
                begun.append((row, writer.begin(row)))
            if not begun:
                return
            yield writer.finish(*begun.popleft())
    finally:
        for _, run in begun:
            if isinstance(run, Run):
                run.close()


class _Writer:
    """Begins and finishes the text of a row."""

    def __init__(
        self,
        model: Model,
        template: Template,
        output: str,
        chat: bool,
        system: str | None,
        row_params: str | None,
        params: Mapping[str, Any],
    ) -> None:
        self._engine = model.engine
        self._template = template
        self._output = output
        self._chat = chat
        self._system = system
        self._row_params = row_params
        self._params = params

    def begin(self, row: Row) -> Run | FastlmError:
        """The run, or why there is none."""
        check_row(row)
        try:
            text = self._template.fill(row)
            (run,) = start(self._engine, self._ids(text) if self._chat else text, self._params_of(row))
            return run
        except StateError:
            raise
        except FastlmError as error:
            return error

    def _params_of(self, row: Row) -> Mapping[str, Any]:
        """All parameters of a row."""
        name = self._row_params
        own = None if name is None else row.get(name)
        if not own:  # null, or the empty cell of a table
            return self._params
        if isinstance(own, str):
            try:
                own = json.loads(own)
            except (ValueError, RecursionError) as error:
                raise ParameterError(f"{name}: is no JSON: {error}") from None
        if not isinstance(own, Mapping):
            raise ParameterError(f"{name}: expected a mapping of parameters, not {shown(own)}")
        params = {**self._params, **own}
        if self._engine.parameters(params).n != 1:
            raise ParameterError(f"{name}: n: each row gets one text")
        return params

    def _ids(self, text: str) -> list[int]:
        system = [] if self._system is None else [{"role": "system", "content": self._system}]
        return chat_ids(self._engine, [*system, {"role": "user", "content": text}], {})

    def finish(self, row: Row, run: Run | FastlmError) -> dict[str, Any]:
        """The row with its text, or its error."""
        done: Completion | FastlmError
        try:
            done = run.completion() if isinstance(run, Run) else run
        except StateError:
            raise
        except FastlmError as error:
            done = error
        if isinstance(done, FastlmError):
            return {**row, self._output: None, "error": str(done)}
        return {**row, self._output: done.text, "finish_reason": done.finish_reason}
