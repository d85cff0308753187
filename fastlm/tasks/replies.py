"""The parts of an answer: what the model thought, what it says, and which functions it wants to have called."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from fastlm.engine import Engine
from fastlm.results import Chunk, Completion, ToolCall
from fastlm.running import overlap
from fastlm.tasks.calls import Format, calls_of, format_of
from fastlm.tokenizer.tokenizer import Tokenizer

THINKS, THOUGHT = "<think>", "</think>"
PYTHON_TAG = "<|python_tag|>"  # before the calls of llama3, if it is there


@dataclass(frozen=True, slots=True)
class Part:
    """A piece of what an answer consists of: text, reasoning, or a call."""

    text: str = ""
    reasoning: str = ""
    call: ToolCall | None = None


class Reply:
    """Takes an answer apart, as it is written.

    Parameters
    ----------
    form
        Of calls; None: there are none.
    thinks
        Whether reasoning stands between <think> and </think>; begun: the prompt ends in its midst.
    """

    def __init__(self, form: Format | None, thinks: bool, begun: bool) -> None:
        self._form = form
        self._thinks = thinks
        self._inside = THINKS if begun else ""  # the mark that the part which is written stands behind
        self._held = ""
        self._empty = True  # no text yet: spaces before it do not count

    def push(self, text: str, last: bool = False) -> Iterator[Part]:
        """Take what was written; gives what is certain by now. last: nothing follows."""
        self._held += text
        while self._held:
            step = self._in_reasoning(last) if self._inside == THINKS else self._step(last)
            if step is None:
                break
            yield from step
        if last and self._inside and self._inside != THINKS:
            yield from self._call(self._held)
            self._held = ""

    def _in_reasoning(self, last: bool) -> list[Part] | None:
        thought, mark, rest = self._held.partition(THOUGHT)
        if mark:
            self._inside, self._held, self._empty = "", rest, True
            return [Part(reasoning=thought)] if thought else []
        return self._release(len(self._held) - (0 if last else overlap(self._held, THOUGHT)), reasoning=True)

    def _step(self, last: bool) -> list[Part] | None:
        if self._inside:
            assert self._form is not None
            body, mark, rest = self._held.partition(self._form.end) if self._form.end else (self._held, "", "")
            if not mark:
                return None
            self._held, self._inside = rest, ""
            return self._call(body)
        if self._empty:
            self._held = self._held.lstrip()
        if self._form is not None and not self._form.begin and self._empty and self._held:
            whole = self._held.startswith(("{", PYTHON_TAG))
            if whole or (PYTHON_TAG.startswith(self._held) and not last):
                self._inside = "{" if whole else ""
                return None
        return self._before_a_mark(last)

    def _before_a_mark(self, last: bool) -> list[Part] | None:
        marks = [THINKS] if self._thinks else []
        marks += [self._form.begin] if self._form is not None and self._form.begin else []
        found = [(at, mark) for mark in marks if (at := self._held.find(mark)) >= 0]
        if not found:
            held = 0 if last else max((overlap(self._held, mark) for mark in marks), default=0)
            return self._release(len(self._held) - held, reasoning=False)
        at, mark = min(found)
        parts = self._release(at, reasoning=False) or []
        self._held, self._inside = self._held[len(mark) :], mark
        return parts

    def _release(self, n: int, reasoning: bool) -> list[Part] | None:
        text, self._held = self._held[:n], self._held[n:]
        if not text:
            return None
        if reasoning:
            return [Part(reasoning=text)]
        self._empty = False
        return [Part(text=text)]

    def _call(self, body: str) -> list[Part]:
        """The calls in a part; its text where it is none."""
        assert self._form is not None
        calls = calls_of(body.removeprefix(PYTHON_TAG) if self._inside == "{" else body, self._form)
        if calls:
            return [Part(call=call) for call in calls]
        self._empty = False
        return [Part(text=(self._form.begin + body))]


@dataclass(frozen=True, slots=True)
class Way:
    """How the answers of one conversation are taken apart.

    Attributes
    ----------
    marks
        Those that are special tokens, which print nothing, by their ids.
    """

    form: Format | None
    thinks: bool
    begun: bool
    tokenizer: Tokenizer
    marks: dict[int, str]

    def reply(self) -> Reply:
        return Reply(self.form, self.thinks, self.begun)

    def mark(self, text: str) -> str:
        """A mark in a rule of a grammar: the special token that is written so, else the text."""
        token = next((i for i, mark in self.marks.items() if mark == text), None)
        return json.dumps(text) if token is None else f"<[{token}]>"

    def text_of(self, chunk: Chunk) -> str:
        """The text of a piece, with the marks that print nothing before it."""
        return "".join(self.marks[i] for i in chunk.token_ids if i in self.marks) + chunk.text

    def apart(self, done: Completion) -> Completion:
        """A whole answer, and its alternatives, taken apart."""
        text = done.text
        if not self.marks.keys().isdisjoint(done.token_ids):
            text = self.tokenizer.decode(done.token_ids, skip_special=False)
        parts = list(self.reply().push(text, last=True))
        reasoning = "".join(part.reasoning for part in parts).strip("\n")
        return replace(
            done,
            text="".join(part.text for part in parts),
            reasoning=reasoning or None,
            tool_calls=None if self.form is None else tuple(part.call for part in parts if part.call is not None),
            alternatives=tuple(map(self.apart, done.alternatives)),
        )


def way_of(engine: Engine, prompt: Sequence[int], variables: Mapping[Any, Any]) -> Way | None:
    """How answers to a prompt are taken apart, by the template that made it; None: they are nothing but text."""
    assert engine.templates is not None
    tokenizer, source = engine.prompts.needed_tokenizer(), engine.templates.source(variables)
    form, thinks = format_of(source) if variables.get("tools") else None, THOUGHT in source
    if form is None and not thinks:
        return None
    begun = thinks and tokenizer.decode(prompt[-8:], skip_special=False).rstrip().endswith(THINKS)
    shown = [THINKS, THOUGHT, PYTHON_TAG, *((form.begin, form.end, *form.inner) if form is not None else ())]
    ids = {mark: tokenizer.id_of(mark) for mark in shown if mark}
    marks = {i: mark for mark, i in ids.items() if i is not None and tokenizer.piece_of(i) is None}
    return Way(form, thinks, begun, tokenizer, marks)
