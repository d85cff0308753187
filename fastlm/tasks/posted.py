"""Writing text for event loops: as generate.py, but that no thread waits for a request."""

from __future__ import annotations

import asyncio
import os
import threading
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import Any

from fastlm.arguments import counting, items
from fastlm.driving import Posted
from fastlm.engine import Engine
from fastlm.errors import error_of
from fastlm.generation import Request
from fastlm.parameters import CancelFlag
from fastlm.results import Chunk, Completion
from fastlm.running import Run
from fastlm.structured.compiling import AT_A_TIME
from fastlm.structured.grammar import has_grammar
from fastlm.tasks.chat import request_of
from fastlm.tasks.generate import Progress, start
from fastlm.tokenizer.prompts import Prompt

Of = Callable[[int], AbstractContextManager[None]]  # where an error of the i-th is raised


async def generate(engine: Engine, prompt: Prompt | Request, params: Mapping[str, Any]) -> Completion:
    """See `Model.agenerate`."""
    (done,) = await _together(engine, [prompt], params, lambda index: nullcontext())
    return done


async def batch(
    engine: Engine, prompts: Iterable[Prompt | Request], params: Mapping[str, Any], progress: Progress | None = None
) -> list[Completion]:
    """See `Model.abatch`."""
    counting(progress)
    given = list(items(prompts, "prompts", "a list of prompts (agenerate() takes a single one)"))
    return await _together(engine, given, params, lambda index: error_of(f"prompts[{index}]"), progress)


async def stream(engine: Engine, prompt: Prompt | Request, params: Mapping[str, Any]) -> AsyncGenerator[Chunk, None]:
    """See `Model.astream`."""
    compiles = _compiles([prompt], params)
    runs = await begin(lambda cancel: start(engine, prompt, params, cancel, streams=True), compiles=compiles)
    texts = turns(engine, runs, whole=False)
    try:
        async for turn in texts:
            for _, chunk in turn:
                yield chunk
    finally:
        await texts.aclose()


async def chat(
    engine: Engine,
    messages: Sequence[Any],
    variables: Mapping[Any, Any],
    params: Mapping[str, Any],
    tool_choice: str | None = None,
) -> Completion:
    """See `Model.achat`."""
    request, way = await asyncio.to_thread(request_of, engine, messages, variables, params, tool_choice)
    done = await generate(engine, request, params)
    return done if way is None else way.apart(done)


class Compilers:
    """The threads that wait for grammars, which can take seconds: others' threads are not held meanwhile."""

    def __init__(self) -> None:
        self.forget()

    def forget(self) -> None:
        """In a child process, too, which has none of them."""
        self.threads = ThreadPoolExecutor(AT_A_TIME, "fastlm")


_compilers = Compilers()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_compilers.forget)


async def begin(
    started: Callable[[CancelFlag], list[Run]], *, quick: bool = False, compiles: bool = False
) -> list[Run]:
    """Runs that are started in a thread, since reading prompts takes time; it is asked to end if the task is.

    quick: start them here, which takes less time than to have a thread do it; compiles: there is a grammar.
    """
    cancel = threading.Event()
    if quick:
        return started(cancel)
    try:
        return await asyncio.get_running_loop().run_in_executor(
            _compilers.threads if compiles else None, started, cancel
        )
    except asyncio.CancelledError:
        cancel.set()
        raise


def _compiles(prompts: Iterable[Prompt | Request], params: Mapping[str, Any]) -> bool:
    """Whether there is a grammar to be compiled."""
    return any(map(has_grammar, [params, *(one.params for one in prompts if isinstance(one, Request))]))


async def turns(
    engine: Engine, runs: Sequence[Run], whole: bool, of: Of = lambda index: nullcontext()
) -> AsyncGenerator[list[tuple[int, Chunk]], None]:
    """What runs write, with their places in the list, all that is new at a time; each at its end if `whole`.

    The runs are closed at the end, also at an early one.
    """
    event = asyncio.Event()
    posted: dict[int, Posted] = {}
    try:
        for index, run in enumerate(runs):
            with of(index):
                posted[index] = Posted(engine, run, whole, event)
        while posted:
            await event.wait()
            event.clear()
            found = []
            for index in [i for i, one in posted.items() if one.fresh]:
                with of(index):
                    posted[index].look()
                    chunk = runs[index].advance(whole)
                if runs[index].finish is not None:
                    posted.pop(index).close()
                    runs[index].close()
                found.append((index, chunk))
            yield found
    finally:
        for one in posted.values():
            one.close()
        close(runs)


def close(runs: Iterable[Run]) -> None:
    """Cancel those that still run."""
    for run in runs:
        run.close()


async def _together(
    engine: Engine,
    prompts: Sequence[Prompt | Request],
    params: Mapping[str, Any],
    of: Of,
    progress: Progress | None = None,
) -> list[Completion]:
    """As generate.py's."""
    owners: list[int] = []  # of each run: the number of its prompt

    def started(cancel: CancelFlag) -> list[Run]:
        runs: list[Run] = []
        try:
            for index, prompt in enumerate(prompts):
                with of(index):
                    runs += start(engine, prompt, params, cancel)
                owners.extend([index] * (len(runs) - len(owners)))
        except BaseException:
            close(runs)
            raise
        return runs

    runs = await begin(started, compiles=_compiles(prompts, params))
    chunks: list[list[Chunk]] = [[] for _ in runs]
    left = Counter(owners)  # runs of each prompt
    async for turn in turns(engine, runs, True, lambda at: of(owners[at])):
        for at, chunk in turn:
            chunks[at].append(chunk)
            if runs[at].finish is not None:
                left[owners[at]] -= 1
                if progress is not None and not left[owners[at]]:
                    progress(sum(not count for count in left.values()), len(prompts))
    found: list[list[Completion]] = [[] for _ in prompts]
    for at, run in enumerate(runs):
        with of(owners[at]):
            found[owners[at]].append(await _result(run, chunks[at]))
    return [replace(first, alternatives=tuple(others)) if others else first for first, *others in found]


async def _result(run: Run, chunks: Sequence[Chunk]) -> Completion:
    """In a thread where it takes steps of its own."""
    return await asyncio.to_thread(run.result, chunks) if run.traces else run.result(chunks)
