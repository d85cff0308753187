"""The model's calls on a real model: batches, sessions, scoring, looking inside, life and end."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import public_model
import pytest
from models import TINY, random_weights, save_checkpoint

import fastlm
from fastlm.errors import ContextLengthError, ParameterError, StateError
from fastlm.saving import save

PROMPTS = ["Once upon a time", "The dog", "Lily and Tom went", "One day, a big", "She"]


@pytest.fixture(scope="module")
def model(stories: Path) -> Iterator[fastlm.Model]:
    with fastlm.load(stories, threads=1) as loaded:
        yield loaded


def test_attributes(model: fastlm.Model) -> None:
    assert model.kind == "decoder"
    assert model.config["model_type"] == "llama"
    assert model.tokenizer is not None
    assert model.tokenizer.count("Once") == 2
    assert model.memory()["weight_bytes"] >= public_model.PARAMETERS * 4
    assert model.context == 512


def test_batch_equals_single_calls(model: fastlm.Model) -> None:
    together = model.batch(PROMPTS, max_tokens=25)
    assert [c.text for c in together] == [model.generate(p, max_tokens=25).text for p in PROMPTS]
    mixed = model.batch([fastlm.Request("The dog", max_tokens=3), [1, 403]], max_tokens=6)
    assert [len(c.token_ids) for c in mixed] == [3, 6]
    with pytest.raises(ParameterError, match="list"):
        model.batch("text")


def test_batches_tell_how_far_they_are(model: fastlm.Model) -> None:
    seen: list[tuple[int, int]] = []

    def progress(done: int, total: int) -> None:
        seen.append((done, total))

    model.batch(PROMPTS, max_tokens=3, n=2, temperature=1.0, progress=progress)
    wanted = [(i + 1, len(PROMPTS)) for i in range(len(PROMPTS))]
    assert seen == wanted
    seen.clear()
    asyncio.run(model.abatch(PROMPTS, max_tokens=3, n=2, temperature=1.0, progress=progress))
    assert seen == wanted
    with pytest.raises(ParameterError, match="progress must be a function"):
        model.batch(PROMPTS, progress=True)  # type: ignore[arg-type]

    def fails(done: int, total: int) -> None:
        raise KeyError(done)

    with pytest.raises(KeyError):
        model.batch(PROMPTS, max_tokens=3, progress=fails)
    assert model.generate("a", max_tokens=2).token_ids


def test_streams_add_up(model: fastlm.Model) -> None:
    chunks = list(model.stream("Once upon a time", max_tokens=60))
    done = model.generate("Once upon a time", max_tokens=60)
    assert "".join(c.text for c in chunks) == done.text
    assert [t for c in chunks for t in c.token_ids] == done.token_ids
    assert chunks[-1].finish_reason == "length"
    assert len(chunks) > 5


def test_sessions(model: fastlm.Model) -> None:
    whole = model.generate("Once upon a time", max_tokens=40)
    with model.session() as session:
        first = session.generate("Once upon a time", max_tokens=15)
        prompt = session.tokens[:5]
        fork = session.fork()
        second = session.generate([], max_tokens=25)
        assert first.token_ids + second.token_ids == whole.token_ids
        assert session.tokens == prompt + whole.token_ids
        assert "".join(str(c) for c in fork.stream([], max_tokens=25)) == second.text
        fork.rewind(25)
        assert len(fork) == 20
        told = fork.generate(" The", max_tokens=4)
        ids = prompt + first.token_ids + model.tokenizer.encode("The", special=False)  # type: ignore[union-attr]
        assert told.token_ids == model.generate(ids, max_tokens=4).token_ids
        with pytest.raises(ParameterError):
            session.rewind(10_000)


def test_context_limit(model: fastlm.Model) -> None:
    rng = np.random.default_rng(0)
    ids = rng.integers(3, 512, 512).tolist()
    done = model.generate(ids[:500], max_tokens=100, ignore_eos=True)
    assert (len(done.token_ids), done.finish_reason) == (12, "length")
    with pytest.raises(ContextLengthError, match="512"):
        model.generate([*ids, 5])


def test_next_tokens(model: fastlm.Model) -> None:
    found = model.next_tokens("Once upon a", k=4)
    assert found[0][1] == " time"
    assert [p for *_, p in found] == sorted((p for *_, p in found), reverse=True)
    assert sum(p for *_, p in model.next_tokens("Once", k=public_model.VOCAB)) == pytest.approx(1.0)


def token_scores(model: fastlm.Model, ids: list[int]) -> np.ndarray:
    """log p of ids[1:] by NumPy from all logits."""
    logits = model.forward(ids).logits
    assert logits is not None
    x = logits.astype(np.float64)[:-1]
    logp = x - x.max(axis=1, keepdims=True)
    logp -= np.log(np.exp(logp).sum(axis=1, keepdims=True))
    return np.take_along_axis(logp, np.array(ids[1:])[:, None], axis=1)[:, 0]


def test_loglikelihood(model: fastlm.Model) -> None:
    assert model.tokenizer is not None
    ids, after = model.tokenizer.encode("Once upon"), model.tokenizer.encode(" a time", special=False)
    assert model.loglikelihood("Once upon") == pytest.approx(token_scores(model, ids).sum())
    expected = token_scores(model, ids + after)[-len(after) :].sum()
    assert model.loglikelihood("Once upon", continuation=" a time") == pytest.approx(expected)
    whole = model.loglikelihood("Once upon a time")
    assert whole == pytest.approx(model.loglikelihood("Once upon") + expected)
    with pytest.raises(ContextLengthError):
        model.loglikelihood([5] * 513)


def test_perplexity_of_a_text_that_is_all_but_impossible(tmp_path: Path) -> None:
    weights = random_weights(TINY)
    weights["lm_head.weight"] *= np.float32(1e5)
    with fastlm.load(save_checkpoint(tmp_path / "sure", TINY.config(), weights)) as sure:
        assert sure.perplexity([1, 2, 3]) == np.inf
        assert np.isfinite(sure.loglikelihood([1, 2, 3]))


def test_perplexity(model: fastlm.Model) -> None:
    ids = [1, *np.random.default_rng(1).integers(3, 512, 399).tolist()]
    assert model.perplexity(ids) == pytest.approx(np.exp(-token_scores(model, ids).mean()))
    total, scored = 0.0, 1
    for at in range(0, 400, 60):
        end = min(at + 100, 400)
        total -= token_scores(model, ids[at:end])[scored - end :].sum()
        scored = end
        if end == 400:
            break
    assert model.perplexity(ids, window=100, stride=60) == pytest.approx(np.exp(total / 399))
    for window, stride in ((1, None), (513, None), (10, 10), (10, 0)):
        with pytest.raises(ParameterError, match=r"window|stride"):
            model.perplexity(ids, window=window, stride=stride)


def test_forward(model: fastlm.Model) -> None:
    ids = [1, *range(300, 330)]
    out = model.forward(ids, attentions=True, hidden_states=True)
    assert out.logits is not None
    assert out.attentions is not None
    assert out.hidden_states is not None
    assert (out.logits.shape, out.hidden.shape) == ((31, public_model.VOCAB), (31, 256))
    assert [a.shape for a in out.attentions] == [(4, 31, 31)] * 4
    assert np.allclose(np.sum(out.attentions, axis=-1), 1, atol=1e-5)
    assert np.all(np.triu(out.attentions[0][0], 1) == 0)
    assert len(out.hidden_states) == 5
    assert np.array_equal(out.hidden_states[-1], out.hidden)
    last = model.forward(ids, logits="last")
    assert last.logits is not None
    assert np.array_equal(last.logits[0], out.logits[-1])
    assert last.attentions is None


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_dtypes(stories: Path, model: fastlm.Model, dtype: str) -> None:
    with fastlm.load(stories, dtype=dtype) as narrow:
        a, b = narrow.forward([1, 403, 407]).logits, model.forward([1, 403, 407]).logits
        assert a is not None
        assert b is not None
        assert not np.array_equal(a, b)
        assert np.abs(a - b).max() < 0.02 * b.std()


def test_progress_and_arguments(stories: Path) -> None:
    seen: list[tuple[int, int, str]] = []
    with fastlm.load(stories, progress=lambda *step: seen.append(step), threads=2, context=64) as small:
        assert small.context == 64
        with pytest.raises(ContextLengthError, match="64"):
            small.generate([5] * 65)
    done = [step[0] for step in seen]
    assert done == sorted(done)
    assert done[-1] == seen[-1][1]


def test_close(stories: Path) -> None:
    model = fastlm.load(stories)
    session = model.session()
    stream = model.stream("Once", max_tokens=50)
    next(stream)
    model.close()
    model.close()
    for call in (lambda: model.generate("x"), lambda: model.forward([1]), model.session, lambda: session.generate("x")):
        with pytest.raises(StateError):
            call()


def test_import_is_light(tmp_path: Path) -> None:
    """Beyond numpy it loads fastlm itself and some modules of the standard library."""
    code = "import numpy, sys; before = set(sys.modules); import fastlm; print(*(set(sys.modules) - before))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path)
    loaded = done.stdout.split()
    roots = {name.partition(".")[0] for name in loaded if "cython" not in name}  # its run-time modules are built in
    assert roots <= {"fastlm", "numpy", *sys.stdlib_module_names}
    assert len(loaded) < 150


def test_what_a_newcomer_reads(stories: Path, tmp_path: Path) -> None:
    with fastlm.load(stories) as model:
        assert repr(model) == f"<fastlm.Model llama (decoder), {public_model.PARAMETERS:,} parameters, float32>"
        with model.session() as session:
            assert repr(model) in repr(session)
            with pytest.raises(ParameterError, match=r"n: a session is one sequence; fork\(\)"):
                session.generate("Once", n=2)
            with pytest.raises(ContextLengthError, match=r"^600 tokens are more than the context of 512: "):
                session.generate([5] * 600)
            session.generate([5] * 500, max_tokens=5, ignore_eos=True)
            with pytest.raises(
                ContextLengthError, match=r"^605 tokens, with those that the session has, are more than"
            ):
                session.generate([5] * 100)
        for name, hint in (("do_sample", "temperature"), ("stream", r"stream\(\)"), ("max_length", "max_tokens")):
            with pytest.raises(ParameterError, match=f"unknown parameter '{name}': .*{hint}"):
                model.generate("Once", **{name: True})
        with pytest.raises(ParameterError, match="max_tokens must be at least 0, not -3"):
            model.generate("Once", max_tokens=-3)
        for name in ("model.gguf", "MODEL.safetensors"):
            with pytest.raises(ParameterError, match=r"end it in \.flm"):
                save(model, tmp_path / name)
    assert repr(model).endswith(", closed>") and not list(tmp_path.iterdir())
