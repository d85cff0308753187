"""A conversation with a model: its messages, what is asked for, and what the answers took."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from fastlm.arguments import has_surrogate, shown
from fastlm.cli import streams
from fastlm.cli.outputs import record
from fastlm.cli.screen import Printer
from fastlm.errors import ContextLengthError, ParameterError, StateError
from fastlm.model import Model
from fastlm.results import Completion
from fastlm.tasks.chat import after_reasoning
from fastlm.tasks.generate import start
from fastlm.tasks.replies import way_of

Messages = list[dict[str, str]]
ROLES = ("system", "user", "assistant")


def message(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}


@dataclass(frozen=True, slots=True)
class Answer:
    """What a question got.

    Attributes
    ----------
    fills_context
        Whether there is no room for another token.
    """

    question: str
    done: Completion
    fills_context: bool

    def record(self) -> dict[str, Any]:
        """For JSON."""
        return {"question": self.question, **record(self.done)}


@dataclass(slots=True)
class Talk:
    """A conversation. What raises leaves it as it was.

    Attributes
    ----------
    system
        A message before the others; None: there is none.
    params
        As of `Model.generate`; None is as absent.
    drops
        Whether the oldest turns go where a question does not fit.
    messages
        Those of turns, each of which is a question and its answer.
    """

    model: Model
    system: str | None
    params: Mapping[str, Any]
    drops: bool = False
    messages: Messages = field(default_factory=list)
    last: Answer | None = None

    def check(self) -> None:
        """Refuse what every question would be refused for."""
        self._prompt([message("user", "Hello")])
        self.model.engine.parameters(self.params).check_stream()

    def ask(self, question: str, show: Printer) -> Answer:
        """Answer a question, and show the answer as it is written. Ctrl-C ends it, but not the conversation.

        Raises
        ------
        ContextLengthError
            It does not fit, beside the turns that are to stay.
        """
        turns = list(self.messages)
        while True:
            asked = [*turns, message("user", question)]
            try:
                done, full = self._answered(self._prompt(asked), show)
                break
            except ContextLengthError:
                if not self.drops or not turns:
                    raise
                turns = turns[_first_turn(turns) :]
        if dropped := len(self.messages) - len(turns):
            streams.note(f"the context is full: {dropped} of the oldest messages are forgotten")
        self.messages = [*asked, message("assistant", done.text)]
        self.last = Answer(question, done, full)
        return self.last

    def again(self, show: Printer) -> Answer:
        """Answer the last question anew."""
        kept, last = self.messages, self.last
        question = self.undo()
        try:
            return self.ask(question, show)
        except BaseException:
            self.messages, self.last = kept, last
            raise

    def undo(self) -> str:
        """Forget the last turn; returns its question."""
        if not self.messages:
            raise StateError("there is no turn yet")
        at = max(i for i, one in enumerate(self.messages) if one["role"] == "user")
        question = self.messages[at]["content"]
        self.messages, self.last = self.messages[:at], None
        return question

    def drop(self, n: int) -> None:
        """Forget the n oldest turns."""
        turns = self.messages
        for _ in range(n):
            if not turns:
                raise StateError(f"there are not {n} turns")
            turns = turns[_first_turn(turns) :]
        self.messages = turns

    def change(self, params: Mapping[str, Any]) -> None:
        """Other parameters of answers; None takes one back."""
        given = {**self.params, **params}
        self.model.engine.parameters(given).check_stream()
        self.params = given

    def whole(self) -> Messages:
        """All messages, to keep them."""
        return [*([] if self.system is None else [message("system", self.system)]), *self.messages]

    def restore(self, given: object) -> None:
        """Take up a conversation that `whole` gave."""
        if not isinstance(given, list):
            raise ParameterError(f"expected a list of messages, found {shown(given)}")
        for i, one in enumerate(given):
            known = isinstance(one, dict) and set(one) == {"role", "content"} and isinstance(one["content"], str)
            if (
                not known
                or has_surrogate(one["content"])
                or one["role"] not in ROLES
                or (one["role"] == "system" and i > 0)
            ):
                expected = "a role, of which the first one alone may be system, and a content"
                raise ParameterError(f"message {i + 1}: expected {expected}, found {shown(one)}")
        begins = bool(given) and given[0]["role"] == "system"
        turns = given[begins:]
        if any(one["role"] != ROLES[1 + i % 2] for i, one in enumerate(turns)) or len(turns) % 2:
            raise ParameterError("a question (user) and its answer (assistant) must follow each other, to the last one")
        self.system, self.messages, self.last = given[0]["content"] if begins else None, turns, None

    def full(self) -> str:
        """What to do where the context is full."""
        return f"the context of {self.model.context:,} tokens is full: the answer ends here"

    def _prompt(self, messages: Messages) -> list[int]:
        first = [] if self.system is None else [message("system", self.system)]
        return self.model.chat_prompt([*first, *messages])

    def _answered(self, ids: list[int], show: Printer) -> tuple[Completion, bool]:
        engine, stop, chunks = self.model.engine, threading.Event(), []
        way = way_of(engine, ids, {})
        reply = None if way is None else way.reply()
        (run,) = start(engine, ids, after_reasoning(self.params, way), stop, streams=True)
        try:
            while run.finish is None:
                try:
                    chunks.append(chunk := run.advance(False))
                    if way is None or reply is None:
                        show.text(chunk.text)
                        continue
                    for part in reply.push(way.text_of(chunk), last=run.finish is not None):
                        (show.reasoning if part.reasoning else show.text)(part.reasoning or part.text)
                except KeyboardInterrupt:
                    stop.set()
        finally:
            run.close()
            show.end()
        done = run.result(chunks)
        full = done.finish_reason == "length" and len(ids) + len(done.token_ids) >= self.model.context
        return (done if way is None else way.apart(done)), full


def _first_turn(messages: Messages) -> int:
    """How many messages the oldest turn has."""
    return next((i for i, one in enumerate(messages) if i and one["role"] == "user"), len(messages))
