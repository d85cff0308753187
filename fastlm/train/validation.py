"""Bits per byte of held-out text."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from fastlm.train.corpus import TextFile, Window, bits_per_byte, windows
from fastlm.train.models import Machine
from fastlm.train.vocabulary import ModelCodec

TOKENS_AT_ONCE = 8192


@dataclass(frozen=True, slots=True)
class HeldOut:
    """The held-out documents of each file as windows, shortest first."""

    windows: list[tuple[int, Window]]  # (number of the file, window)
    files: Sequence[TextFile]

    @staticmethod
    def of(files: Sequence[TextFile], codec: ModelCodec, length: int) -> HeldOut:
        found = [
            (number, window)
            for number, file in enumerate(files)
            for text in file.held_out
            for window in windows(codec.held_out(text), length)
        ]
        found.sort(key=lambda item: len(item[1].ids))
        return HeldOut(found, files)

    def bits_per_byte(self, model: Any, logits: Callable[[Any, Any], Any], where: Machine) -> dict[str, float]:
        """Of each file, and of all of them together under "all"."""
        import torch

        nats = [0.0] * len(self.files)
        model.eval()
        with torch.no_grad():
            for rows in self._batches():
                ids, scored = _padded([window for _, window in rows])
                tokens = torch.from_numpy(ids).to(where.device)
                with where.products():
                    found = logits(model, tokens[:, :-1])
                loss = torch.nn.functional.cross_entropy(
                    found.float().transpose(1, 2), tokens[:, 1:].long(), reduction="none"
                )
                sums = (loss.double() * torch.from_numpy(scored).to(where.device)).sum(1).tolist()
                for (number, _), value in zip(rows, sums, strict=True):
                    nats[number] += value
        model.train()
        return bits_per_byte(self.files, [value / math.log(2) for value in nats])

    def _batches(self) -> list[list[tuple[int, Window]]]:
        found: list[list[tuple[int, Window]]] = []
        for item in self.windows:
            longest = len(item[1].ids)
            if not found or (len(found[-1]) + 1) * longest > TOKENS_AT_ONCE:
                found.append([])
            found[-1].append(item)
        return found


def _padded(rows: Sequence[Window]) -> tuple[Any, Any]:
    """Token ids (rows, longest) and whether each prediction is scored (rows, longest - 1)."""
    longest = max(len(window.ids) for window in rows)
    ids = np.zeros((len(rows), longest), np.int32)
    scored = np.zeros((len(rows), longest - 1), np.float64)
    for i, window in enumerate(rows):
        ids[i, : len(window.ids)] = window.ids
        scored[i, len(window.ids) - 1 - window.scored : len(window.ids) - 1] = 1
    return ids, scored
