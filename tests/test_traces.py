"""What written tokens looked at: `generate(..., attentions=True)`."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fastlm
from fastlm import ModelMemoryError, ParameterError

GOLDEN = Path(__file__).with_name("golden")
IDS = [5, 9, 3, 40, 22, 17]


def same(found: Any, expected: list[list[np.ndarray]]) -> bool:
    """The same bits, token by token and layer by layer."""
    return len(found) == len(expected) and all(
        len(mine) == len(theirs) and all(np.array_equal(a, b) for a, b in zip(mine, theirs, strict=True))
        for mine, theirs in zip(found, expected, strict=True)
    )


def stepwise(model: fastlm.Model, ids: list[int], written: list[int]) -> list[list[np.ndarray]]:
    """The last row of a forward pass over all that was there when a token was chosen."""
    found = []
    for n in range(len(written)):
        outputs = model.forward([*ids, *written[:n]], attentions=True, logits="last")
        assert outputs.attentions
        found.append([layer[:, -1] for layer in outputs.attentions])
    return found


@pytest.mark.parametrize("name", ["llama", "gemma2", "gemma3_text", "bloom"])
@pytest.mark.parametrize("dtype", ["float32", "int8"])
def test_each_token_has_what_its_step_computed(name: str, dtype: str) -> None:
    with fastlm.load(GOLDEN / name, dtype=dtype, threads=2) as model:
        plain = model.generate(IDS, max_tokens=9, ignore_eos=True)
        done = model.generate(IDS, max_tokens=9, ignore_eos=True, attentions=True)
        assert plain.attentions is plain.cross_attentions is done.cross_attentions is None
        assert done.token_ids == plain.token_ids and done.attentions is not None
        assert [layers[0].shape[1] for layers in done.attentions] == list(range(6, 15))
        assert same(done.attentions, stepwise(model, IDS, done.token_ids))


def test_layers_that_differ_in_their_windows_and_a_long_prompt(stories: Path) -> None:
    with fastlm.load(stories, threads=2) as model:
        ids = model.generate("Once upon a time", max_tokens=180, ignore_eos=True).token_ids
        done = model.generate(ids, max_tokens=20, ignore_eos=True, attentions=True)
        assert done.attentions is not None and same(done.attentions, stepwise(model, ids, done.token_ids))


def test_ropes_that_change_while_a_text_is_written() -> None:
    """Tokens before that were chosen with the short ropes."""
    with fastlm.load(GOLDEN / "phi3_longrope", dtype="float32") as model:
        original, ids = model.config["original_max_position_embeddings"], list(range(3, 33))
        done = model.generate(ids, max_tokens=20, ignore_eos=True, attentions=True)
        assert done.attentions is not None and len(ids) < original < len(ids) + 19
        assert same(done.attentions, stepwise(model, ids, done.token_ids))


def test_over_a_source() -> None:
    with fastlm.load(GOLDEN / "t5_gated", dtype="float32") as model:
        done = model.generate(IDS, max_tokens=8, ignore_eos=True, attentions=True)
        start = model.engine.info["decoder_start"]
        outputs = model.forward(IDS, decoder_ids=[start, *done.token_ids[:-1]], attentions=True)
        assert outputs.attentions and outputs.cross_attentions
        own = [[layer[:, t, : t + 1] for layer in outputs.attentions] for t in range(8)]
        cross = [[layer[:, t] for layer in outputs.cross_attentions] for t in range(8)]
        assert same(done.attentions, own) and same(done.cross_attentions, cross)


def test_several_texts(stories: Path) -> None:
    """Each of them its own, whatever it is written beside."""
    options = {"max_tokens": 12, "temperature": 1.0, "seed": 3, "attentions": True}
    with fastlm.load(stories) as model:
        first = model.generate("Once upon a time", n=2, **options)
        (second,) = first.alternatives
        ids = model.engine.prompts.ids("Once upon a time")
        assert first.token_ids != second.token_ids
        for done in (first, second, *model.batch(["Once upon a time", "Lily"], **options)[:1]):
            assert done.attentions is not None and same(done.attentions, stepwise(model, ids, done.token_ids))


def test_as_many_as_there_are_tokens(stories: Path) -> None:
    with fastlm.load(stories) as model:
        stopped = model.generate("Once upon a time", stop="girl", attentions=True)
        assert stopped.finish_reason == "stop" and stopped.attentions is not None
        assert len(stopped.attentions) == len(stopped.token_ids) > 0
        assert model.generate("Once", max_tokens=0, attentions=True).attentions == []
        flag = threading.Event()
        flag.set()
        cancelled = model.generate("Once", cancel=flag, attentions=True)
        assert cancelled.finish_reason == "cancelled" and len(cancelled.attentions or []) == len(cancelled.token_ids)


def test_a_session_goes_on_as_if_nobody_had_looked(stories: Path) -> None:
    with fastlm.load(stories) as model, model.session() as one, model.session() as other:
        plain = one.generate("Once upon a time", max_tokens=9)
        done = other.generate("Once upon a time", max_tokens=9, attentions=True)
        assert one.tokens == other.tokens and done.attentions is not None
        more = other.generate(max_tokens=4, attentions=True)
        assert one.generate(max_tokens=4).token_ids == more.token_ids
        ids = [*model.engine.prompts.ids("Once upon a time"), *plain.token_ids]
        assert same(more.attentions, stepwise(model, ids, more.token_ids))


def test_what_cannot_be_had(stories: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with fastlm.load(stories) as model, model.session() as session:
        for stream in (model.stream, session.stream):
            with pytest.raises(ParameterError, match="attentions: they are there at the end of a text; use generate"):
                list(stream("Once", attentions=True))
        with pytest.raises(ParameterError, match="attentions must be True or False, not 1"):
            model.generate("Once", attentions=1)
        monkeypatch.setattr("fastlm.tasks.traces.MOST_BYTES", 99_999)
        with pytest.raises(ModelMemoryError, match="lower max_tokens, or look at parts with forward"):
            session.generate("Once", max_tokens=100, attentions=True)
        assert session.tokens == [] and session.generate("Once", max_tokens=3, attentions=True).attentions
