"""What a model is worth and what it costs, measured in fastlm: bits per byte, reads, operations and speed."""

from __future__ import annotations

import math
import os
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from fastlm.bench import bench, disturbance_of, step_tensors
from fastlm.disturbance import Disturbance
from fastlm.loading import load
from fastlm.train.corpus import TextFile, bits_per_byte
from fastlm.train.vocabulary import ModelCodec
from fastlm.weights.locate import locate

SPEED_PROMPT, SPEED_TOKENS = 16, 128
TRIES = 3  # of a measurement that other processes disturb


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """One model's.

    Attributes
    ----------
    bits
        Bits per byte of each file's held-out documents, and of all of them together under "all".
    read
        Bytes of weights that writing a token reads; None where that is not known.
    operations
        Multiplications and additions of a token with weights (attention to the text before comes on top), or None.
    speed
        Tokens written per second, the median of some runs, or None.
    others_share
        What part of the processors' time other processes took while that was measured, or None.
    """

    name: str
    parameters: int
    bits: dict[str, float]
    read: int | None = None
    operations: int | None = None
    speed: float | None = None
    others_share: float | None = None


def measure(
    name: str,
    path: str | os.PathLike[str],
    files: Sequence[TextFile],
    *,
    dtype: str = "auto",
    threads: int | None = None,
) -> Figures:
    """A decoder's, from its folder or .flm file; dtype and threads as in `fastlm.load`."""
    codec = ModelCodec(locate(path))
    with load(path, dtype=dtype, threads=threads) as model:

        def bits(text: str) -> float:
            ids = codec.held_out(text)
            return math.log2(model.perplexity(ids.tolist())) * (len(ids) - 1)

        found = bits_per_byte(files, [sum(bits(text) for text in file.held_out) for file in files])
        room = model.context - 2
        weights = step_tensors(model)
    prompt = min(SPEED_PROMPT, room // 2)
    timed = least_disturbed(
        lambda: bench(
            lambda: load(path, dtype=dtype, threads=threads), prompt=prompt, tokens=min(SPEED_TOKENS, room - prompt)
        )
    )
    return Figures(
        name=name,
        parameters=timed["parameters"],
        bits=found,
        read=timed["weight_bytes_per_token"],
        operations=None if weights is None else 2 * sum(t.rows * t.cols for t in weights if t.is_matrix),
        speed=statistics.median(timed["rates"]["decode"]),
        others_share=timed["others_share"],
    )


def least_disturbed(time: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """What `bench` finds when other processes leave it in peace; after some tries, when they disturbed it least."""
    found = time()
    for _ in range(TRIES - 1):
        if not disturbance_of(found).is_much:
            break
        found = min(found, time(), key=lambda tried: tried["others_share"] or 0.0)
    return found


def table(rows: Sequence[Figures]) -> list[str]:
    """The figures in Markdown; below them, which speeds other processes disturbed."""
    files = [name for name in rows[0].bits if name != "all"]
    costs = ["weights read per token", "operations per token", "tokens/s"]
    head = ["model", "parameters", "bits per byte", *files, *costs]
    lines = ["| " + " | ".join(head) + " |", "|---|" + "---:|" * (len(head) - 1)]
    for row in rows:
        cells = [row.name, f"{row.parameters:,}", f"**{row.bits['all']:.4f}**"]
        cells += [f"{row.bits[name]:.4f}" for name in files]
        cells.append("" if row.read is None else f"{row.read / 1e6:.2f} MB")
        cells.append("" if row.operations is None else f"{row.operations / 1e6:.1f} M")
        cells.append("" if row.speed is None else f"{row.speed:,.0f}")
        lines.append("| " + " | ".join(cells) + " |")
    return lines + _disturbed(rows)


def _disturbed(rows: Sequence[Figures]) -> list[str]:
    found = [(row, Disturbance(row.others_share, 0)) for row in rows if row.speed is not None]
    told = [f"{row.name}: {others}" for row, others in found if others.is_much]
    return ["", f"Tokens/s that are lower than on an idle machine: {'; '.join(told)}."] if told else []
