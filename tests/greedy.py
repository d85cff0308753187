"""Greedy writing by the reference."""

from __future__ import annotations

import numpy as np

from fastlm import reference
from fastlm.arch.spec import ModelSpec
from fastlm.reference import Ids, Weights


def write_greedily(
    spec: ModelSpec, weights: Weights, ids: Ids, n: int, *, decoder_ids: Ids | None = None, long_rope: bool = False
) -> list[int]:
    """The n most probable next tokens, one after the other, without regard to end tokens."""
    written: list[int] = []
    for _ in range(n):
        read, text = (ids, [*(decoder_ids or ()), *written]) if spec.encoder else ([*ids, *written], None)
        logits = reference.forward(spec, weights, read, decoder_ids=text, long_rope=long_rope).logits
        if logits is None:
            raise ValueError("a model without a head writes no tokens")
        written.append(int(np.argmax(logits[-1])))
    return written
