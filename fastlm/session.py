"""A session: one sequence that grows turn by turn, keeps its computed state, forks and rewinds."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from types import TracebackType
from typing import Any, NoReturn

from fastlm import _core
from fastlm.arguments import whole
from fastlm.engine import Engine
from fastlm.errors import ParameterError, UnsupportedError
from fastlm.results import Chunk, Completion
from fastlm.running import Run
from fastlm.tasks.traces import tracer


class Session:
    """One sequence of a model, from `Model.session()`. Prompt and written tokens stay, so a next call continues them.

    A text prompt gets the tokenizer's special tokens, and the space that some put before a text, only at the beginning
    of the sequence: what comes later goes on after what is there, and brings its own space.
    """

    def __init__(self, engine: Engine, core: _core.Session) -> None:
        self._engine = engine
        self._core = core

    def __enter__(self) -> Session:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<fastlm.Session of <fastlm.Model {self._engine}>>"

    def __reduce_ex__(self, protocol: object) -> NoReturn:
        raise ParameterError(
            "a Session cannot be copied or pickled: its state belongs to this process. fork() makes a second one with "
            "the same past, and reading session.tokens brings a session of another process to the same place"
        )

    @property
    def tokens(self) -> list[int]:
        """Token ids of the sequence so far."""
        return self._core.tokens

    def __len__(self) -> int:
        return self._core.length

    def _run(self, prompt: str | Iterable[int], params: dict[str, Any], streams: bool = False) -> Run:
        engine = self._engine
        if engine.kind != "decoder":
            raise UnsupportedError(f"sessions continue a decoder's sequence; this model is an {engine.kind}")
        p = engine.parameters(params)
        if p.n != 1 and p.num_beams == 1:
            raise ParameterError("n: a session is one sequence; fork() it n times instead")
        if streams:
            p.check_stream()
        ids = engine.prompts.ids(prompt, start=self._core.length == 0)
        self._core.set_adapter(engine.adapters.find(p.adapter))
        trace = tracer(engine, self._core, ids, p)
        run = engine.run(self._core, ids, p, echo=engine.prompts.echo(prompt, ids, p.echo), trace=trace)
        run.goes_on = True
        return run

    def generate(self, prompt: str | Iterable[int] = "", **params: Any) -> Completion:
        """Continue the sequence with a prompt and write on; parameters as in `Model.generate` (n is 1)."""
        return self._run(prompt, params).completion()

    def stream(self, prompt: str | Iterable[int] = "", **params: Any) -> Iterator[Chunk]:
        """As `generate`, piece by piece; closing the iterator cancels."""
        return self._run(prompt, params, streams=True).chunks()

    def fork(self) -> Session:
        """A second session with the same past; the computed state is shared, not copied."""
        return Session(self._engine, self._core.fork())

    def rewind(self, n: int) -> None:
        """Drop the last n tokens."""
        self._core.rewind(whole(n, "n", 0, self._core.length))

    def close(self) -> None:
        """Give the state back."""
        self._core.close()
