"""What each written token looked at.

Nothing is captured while a text is written. The bits of attention do not depend on how a sequence is cut into steps, so
one step over the tokens that were written gives, from the keys that are there already, what their own steps computed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from fastlm import _core
from fastlm.arch.spec import Attention, Source, Stack
from fastlm.engine import Engine
from fastlm.errors import ModelMemoryError
from fastlm.generation import Parameters
from fastlm.results import ByToken, Trace
from fastlm.tasks.forward import by_layer, heads, probabilities

MOST_BYTES = 1 << 30  # of the attentions of a call


def tracer(
    engine: Engine, session: _core.Session | None, ids: list[int], p: Parameters, n: int = 1
) -> Callable[[list[int]], Trace] | None:
    """What gives the attentions of the tokens that `session` writes after `ids`; None: nobody wants them.

    n: how many texts the call writes.

    Raises
    ------
    ModelMemoryError
        The longest text that was asked for would have more than a gigabyte of them.
    """
    if session is None or not p.attentions:
        return None
    begin = session.length + len(ids)
    counts = _Counts(heads(engine.spec.main), heads(engine.spec.main, Source.ENCODER))
    rows = min(int(p.sampling["max_tokens"]), engine.longest - begin)
    size = 4 * n * rows * (sum(counts.own) * (begin + rows) + sum(counts.cross) * session.source)
    if size > MOST_BYTES:
        raise ModelMemoryError(
            f"the attentions of {n * rows} written tokens could take {size / 1e9:.1f} GB, and at most "
            f"{MOST_BYTES / 1e9:.1f} are kept: lower max_tokens, or look at parts with forward(attentions=True)"
        )
    return lambda tokens: _trace(engine, session, begin, len(tokens), counts)


@dataclass(frozen=True, slots=True)
class _Counts:
    """Heads of each layer."""

    own: list[int]
    cross: list[int]


def _trace(engine: Engine, session: _core.Session, begin: int, count: int, counts: _Counts) -> Trace:
    """The token at position q was chosen by the one before it, whose row covers q tokens."""
    found, crosses = ByToken(), ByToken()
    if count:
        fork = session.fork()
        try:
            tokens = np.array(fork.tokens, np.int32)
            fork.rewind(len(tokens) - (begin - 1))
            for first, end in _pieces(engine.spec.main, begin - 1, begin - 1 + count):
                own = probabilities(counts.own, end - first, end)
                cross = probabilities(counts.cross, end - first, session.source)
                item = _core.Item(fork, tokens[first:end], rows="none", attentions=own, cross_attentions=cross)
                _core.forward(engine.core, [item])
                for row in range(end - first):
                    found.append([layer[:, row, : first + row + 1] for layer in by_layer(own, counts.own) or []])
                    crosses.append([layer[:, row] for layer in by_layer(cross, counts.cross) or []])
        finally:
            fork.close()
    return Trace(found, crosses if counts.cross and engine.kind == "encoder-decoder" else None)


def _pieces(stack: Stack, first: int, end: int) -> list[tuple[int, int]]:
    """Cut where the ropes of a longer sequence begin: a token before that was written with the others."""
    mixers = [s.mixer for layer in stack.layers for s in layer.sublayers if isinstance(s.mixer, Attention)]
    cuts = {mixer.rope.long_from for mixer in mixers if mixer.rope} - {0}
    edges = [first, *sorted(cut for cut in cuts if first < cut < end), end]
    return list(pairwise(edges))
