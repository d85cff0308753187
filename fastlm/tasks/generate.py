"""Writing text: one prompt or many, at once or piece by piece."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import Any

import numpy as np

from fastlm import _core
from fastlm.arguments import counting, items, shown
from fastlm.engine import Engine
from fastlm.errors import Cancelled, ModelMemoryError, ParameterError, UnsupportedError, error_of
from fastlm.generation import Parameters, Request
from fastlm.parameters import CancelFlag
from fastlm.results import Chunk, Completion
from fastlm.running import Flags, Run
from fastlm.tasks.traces import tracer
from fastlm.tokenizer.prompts import Prompt

Progress = Callable[[int, int], None]  # how many prompts are done, and of how many


def stream(engine: Engine, prompt: Prompt | Request, params: Mapping[str, Any]) -> Iterator[Chunk]:
    """See `Model.stream`."""
    prompt, p = _one(engine, prompt, params)
    p.check_stream()
    (run,) = _start(engine, prompt, p)
    return run.chunks()


def generate(engine: Engine, prompt: Prompt | Request, params: Mapping[str, Any]) -> Completion:
    """See `Model.generate`."""
    (done,) = _together(engine, [prompt], params, lambda index: nullcontext())
    return done


def batch(
    engine: Engine, prompts: Iterable[Prompt | Request], params: Mapping[str, Any], progress: Progress | None = None
) -> list[Completion]:
    """See `Model.batch`."""
    counting(progress)
    given = items(prompts, "prompts", "a list of prompts (generate() takes a single one)")
    return _together(engine, given, params, lambda index: error_of(f"prompts[{index}]"), progress)


def _together(
    engine: Engine,
    prompts: Iterable[Prompt | Request],
    params: Mapping[str, Any],
    of: Callable[[int], AbstractContextManager[None]],
    progress: Progress | None = None,
) -> list[Completion]:
    """A completion for each prompt; what goes wrong with the i-th is raised in the context that `of(i)` gives."""
    groups: list[list[Run]] = []
    try:
        for index, prompt in enumerate(prompts):
            with of(index):
                groups.append(_start(engine, *_one(engine, prompt, params)))
        flags = Flags(flagged for group in groups for run in group for flagged in run.flags.flagged)
        found = []
        for index, group in enumerate(groups):
            for run in group:
                run.flags = flags
            with of(index):
                first, *others = [run.completion() for run in group]
            found.append(replace(first, alternatives=tuple(others)) if others else first)
            if progress is not None:
                progress(len(found), len(groups))
        return found
    finally:
        for group in groups:
            for run in group:
                run.close()


def start(
    engine: Engine,
    prompt: Prompt | Request,
    params: Mapping[str, Any],
    cancel: CancelFlag | None = None,
    streams: bool = False,
) -> list[Run]:
    """The n runs of a request. cancel: set when an owner goes that does not wait for them in a thread."""
    prompt, p = _one(engine, prompt, params)
    if cancel is None:
        return _start(engine, prompt, p)
    if p.cancel is not None:
        raise ParameterError("cancel: nobody would ask it here: cancel the task, or close the stream")
    if streams:
        p.check_stream()
    return _start(engine, prompt, replace(p, cancel=cancel))


def _one(engine: Engine, prompt: Prompt | Request, params: Mapping[str, Any]) -> tuple[Prompt, Parameters]:
    if isinstance(prompt, Request):
        return _one(engine, prompt.prompt, {**params, **prompt.params})
    first = prompt[0] if isinstance(prompt, (list, tuple)) and prompt else None
    if isinstance(first, str):
        raise ParameterError(f"prompt: {shown(first)} is not a token id; a list of texts goes to batch()")
    if isinstance(first, Mapping):
        raise ParameterError(
            f"prompt: {shown(first)} is not a token id; messages go to chat(), or to stream() by chat_prompt(messages)"
        )
    return prompt, engine.parameters(params)


def _start(engine: Engine, prompt: Prompt, p: Parameters) -> list[Run]:
    """n requests with seeds of their own on forks of one sequence, whose prompt is read (or encoded) once."""
    if not engine.writes:
        what = "an encoder" if engine.kind == "encoder" else "a decoder without a head for words"
        raise UnsupportedError(f"{what} writes no text; this one can {', '.join(engine.tasks)}, and forward()")
    engine = engine.adapted(p.adapter)
    ids = engine.prompts.ids(prompt, source_lang=p.source_lang)
    begins, p = _target(engine, p)
    echo = engine.prompts.echo(prompt, ids, p.echo)
    first = engine.session()
    n = p.n if p.num_beams == 1 else 1  # beams find several texts
    sequences: list[_core.Session | None] = [None] * n  # cancelled before they are there
    try:
        left = _read(engine, first, ids, n, p, begins)
        sequences = [first, *(first.fork() for _ in range(n - 1))]
    except Cancelled:
        left = []
    if engine.kind == "encoder-decoder":
        p = p.after(len(left))
    runs = []
    for i, sequence in enumerate(sequences):
        own = replace(p, seed=(p.seed + i) % 2**64, n=p.n if n == 1 else 1)
        trace = tracer(engine, sequence, left, p, n)
        runs.append(engine.run(sequence, left, own, echo=echo, prompt_tokens=len(ids), trace=trace))
    return runs


def _target(engine: Engine, p: Parameters) -> tuple[int | None, Parameters]:
    """What a decoder beside an encoder begins with, and the parameters, by the language that it is to write."""
    if engine.kind != "encoder-decoder":
        return None, p
    if p.target_lang is None:
        return engine.decoder_start, p
    token = engine.prompts.target_start(p.target_lang)
    languages = engine.prompts.needed_tokenizer().languages
    if languages is not None and not languages.before:  # mBART: a text begins with what a source ends with
        return token, p
    return engine.decoder_start, p.beginning_with(token)


def _read(
    engine: Engine, session: _core.Session, ids: list[int], n: int, p: Parameters, begins: int | None
) -> list[int]:
    """Have the sequence read what its n forks share; returns what each of them begins with."""
    if begins is not None:
        session.set_source(np.array(ids, np.int32))
        return [begins]
    if n == 1:
        return ids
    if len(ids) > 1:
        item = _core.Item(session, np.array(ids[:-1], np.int32), rows="none")
        try:
            _core.forward(engine.core, [item], p.cancel)
        except ModelMemoryError:  # beside what runs now: requests wait for their turn, and each reads it then
            return ids
    return ids[-1:]
