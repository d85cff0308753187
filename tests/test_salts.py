"""Salts: sequences of different ones share no prefixes, and compute the same."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from adapter_folders import low_rank, save_adapter
from models import byte_shape, save_llama

import fastlm
from fastlm import _core
from fastlm.errors import StateError

IDS = np.arange(200, dtype=np.int32)
PAGE = 64


def read(model: fastlm.Model, salt: int, adapter: str | None = None, fork: bool = False) -> tuple[int, bytes]:
    """How many tokens were computed, and the logits."""
    session = model.engine.core.session()
    session.set_adapter(model.engine.adapters.find(adapter))
    session.set_salt(salt)
    session = session.fork() if fork else session
    logits = np.empty((1, model.vocab), np.float32)
    before = model.engine.context.counters()["tokens"]
    _core.forward(model.engine.core, [_core.Item(session, IDS, rows="last", logits=logits)])
    return model.engine.context.counters()["tokens"] - before, logits.tobytes()  # type: ignore[operator]


def test_prefixes_are_shared_within_a_salt(tmp_path: Path) -> None:
    with fastlm.load(save_llama(tmp_path / "model", byte_shape()), threads=1) as model:
        model.load_adapter("a", save_adapter(tmp_path / "a", low_rank(byte_shape(), 3)))
        left = len(IDS) - len(IDS) // PAGE * PAGE
        seen = set()
        for adapter in (None, "a"):
            for salt in (0, 1, 2**16 - 1):
                first, logits = read(model, salt, adapter)
                again, same = read(model, salt, adapter, fork=True)
                assert (first, again) == (len(IDS), left) and logits == same
                seen.add(logits)
        assert len(seen) == 2, "one for each adapter"
        with pytest.raises(OverflowError):
            read(model, 2**16)


def test_another_salt_in_the_midst(tmp_path: Path) -> None:
    """What was computed with the old one is computed anew; the text is the same."""
    with fastlm.load(save_llama(tmp_path / "model", byte_shape()), threads=1) as model:
        whole = model.generate(IDS.tolist(), max_tokens=6, temperature=0).token_ids
        session = model.session()
        begun = session.generate(IDS.tolist(), max_tokens=3, temperature=0).token_ids
        session._core.set_salt(7)
        assert begun + session.generate([], max_tokens=3, temperature=0).token_ids == whole
        session.close()
        with pytest.raises(StateError, match="closed"):
            session._core.set_salt(1)


def test_a_draft_reads_with_the_salt_of_its_target(tmp_path: Path) -> None:
    folder = save_llama(tmp_path / "model", byte_shape())
    with fastlm.load(folder, threads=1) as model, fastlm.load(folder, beside=model) as small:
        with model.session() as session:
            session._core.set_salt(5)
            session.generate(IDS.tolist(), max_tokens=8, temperature=0, draft=fastlm.Draft(small, 2))
        assert read(small, 0)[0] == len(IDS)
        assert read(small, 5)[0] == len(IDS) - len(IDS) // PAGE * PAGE
