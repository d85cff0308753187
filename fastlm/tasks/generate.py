"""Writing text: one prompt or many, at once or piece by piece."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from fastlm import _core
from fastlm.arguments import items
from fastlm.engine import Engine
from fastlm.errors import Cancelled, ParameterError, UnsupportedError
from fastlm.generation import Parameters, Request
from fastlm.results import Chunk, Completion
from fastlm.running import Flags, Run
from fastlm.tokenizer.prompts import Prompt


def stream(engine: Engine, prompt: Prompt | Request, params: Mapping[str, Any]) -> Iterator[Chunk]:
    """See `Model.stream`."""
    prompt, p = _one(engine, prompt, params)
    if p.n != 1:
        raise ParameterError("n: a stream has one text; call stream n times or use generate")
    (run,) = _start(engine, prompt, p)
    return run.chunks()


def batch(engine: Engine, prompts: Iterable[Prompt | Request], params: Mapping[str, Any]) -> list[Completion]:
    """See `Model.batch`."""
    runs: list[Run] = []
    sizes: list[int] = []
    try:
        for item in items(prompts, "prompts", "a list of prompts (generate() takes a single one)"):
            fresh = _start(engine, *_one(engine, item, params))
            runs += fresh
            sizes.append(len(fresh))
        flags = Flags(flagged for run in runs for flagged in run.flags.flagged)
        for run in runs:
            run.flags = flags
        done = [run.completion() for run in runs]
    finally:
        for run in runs:
            run.close()
    groups, at = [], 0
    for size in sizes:
        first, *others = done[at : at + size]
        groups.append(replace(first, alternatives=tuple(others)) if others else first)
        at += size
    return groups


def _one(engine: Engine, prompt: Prompt | Request, params: Mapping[str, Any]) -> tuple[Prompt, Parameters]:
    if isinstance(prompt, Request):
        return prompt.prompt, engine.parameters({**params, **prompt.params})
    return prompt, engine.parameters(params)


def _start(engine: Engine, prompt: Prompt, p: Parameters) -> list[Run]:
    """n requests with seeds of their own on forks of one sequence, whose prompt is read (or encoded) once."""
    if engine.kind == "encoder":
        raise UnsupportedError("an encoder writes no text: use forward()")
    ids = engine.prompts.ids(prompt)
    echo = engine.prompts.echo(prompt, ids, p.echo)
    first = engine.core.session()
    sequences: list[_core.Session | None] = [None] * p.n  # cancelled before they are there
    try:
        left = _read(engine, first, ids, p)
        sequences = [first, *(first.fork() for _ in range(p.n - 1))]
    except Cancelled:
        left = []
    return [
        engine.run(sequence, left, replace(p, seed=(p.seed + i) % 2**64, n=1), echo=echo, prompt_tokens=len(ids))
        for i, sequence in enumerate(sequences)
    ]


def _read(engine: Engine, session: _core.Session, ids: list[int], p: Parameters) -> list[int]:
    """Have the sequence read what its forks share; returns what each of them begins with."""
    if engine.kind == "encoder-decoder":
        start = _decoder_start(engine)
        session.encode(np.array(ids, np.int32), p.cancel)
        return [start]
    if p.n == 1:
        return ids
    if len(ids) > 1:
        _core.forward(engine.core, [_core.Item(session, np.array(ids[:-1], np.int32), rows=0)], p.cancel)
    return ids[-1:]


def _decoder_start(engine: Engine) -> int:
    start = engine.info["decoder_start"]
    if start is None:
        raise ParameterError(
            "config.json names no decoder_start_token_id in the vocabulary: the decoder has nothing to start from"
        )
    return int(start)
