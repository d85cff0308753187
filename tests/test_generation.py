"""Generation parameters, each against logits of forward() and NumPy."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import public_model
import pytest
from models import TINY, save_llama
from refusals import refused

import fastlm
from fastlm.describe import describe, summary
from fastlm.errors import ModelFormatError, ParameterError
from fastlm.generation import resolve
from fastlm.generation_config import not_honoured

PROMPT = "Once upon a time"


@pytest.fixture(scope="module")
def model(stories: Path) -> Iterator[fastlm.Model]:
    with fastlm.load(stories, threads=1) as loaded:
        yield loaded


def last_logits(model: fastlm.Model, ids: list[int]) -> Any:
    logits = model.forward(ids, logits="last").logits
    assert logits is not None
    return logits[0].astype(np.float64)


def greedy(model: fastlm.Model, ids: list[int], n: int, change: Any) -> list[int]:
    """n tokens of argmax after `change(logits, written, all ids)`."""
    written: list[int] = []
    for _ in range(n):
        x = last_logits(model, ids + written)
        change(x, written, ids + written)
        written.append(int(x.argmax()))
    return written


def test_defaults_are_greedy(model: fastlm.Model) -> None:
    done = model.generate(PROMPT, max_tokens=20)
    assert done.token_ids == greedy(model, model.tokenizer.encode(PROMPT), 20, lambda *_: None)  # type: ignore[union-attr]
    assert done.finish_reason == "length"
    assert done.usage.prompt_tokens == 5
    assert done.usage.completion_tokens == 20
    assert str(done) == done.text == ", there was a little girl named Lily. She loved to play outside in the sunshine."


def test_penalties(model: fastlm.Model) -> None:
    ids = [1, 403, 407]

    def repetition(x: Any, written: list[int], seen: list[int]) -> None:
        for t in set(seen):
            x[t] = x[t] / 1.7 if x[t] > 0 else x[t] * 1.7

    def presence(x: Any, written: list[int], seen: list[int]) -> None:
        for t in set(written):
            x[t] -= 1.5 + 0.6 * written.count(t)

    assert model.generate(ids, max_tokens=40, repetition_penalty=1.7).token_ids == greedy(model, ids, 40, repetition)
    both = model.generate(ids, max_tokens=40, presence_penalty=1.5, frequency_penalty=0.6)
    assert both.token_ids == greedy(model, ids, 40, presence)


def test_no_repeated_ngrams(model: fastlm.Model) -> None:
    written = model.generate([1], max_tokens=150, no_repeat_ngram_size=3, ignore_eos=True).token_ids
    triples = list(zip(written, written[1:], written[2:], strict=False))
    assert len(triples) == len(set(triples))
    plain = model.generate([1], max_tokens=150, ignore_eos=True).token_ids
    assert plain != written


def test_logit_bias(model: fastlm.Model) -> None:
    assert set(model.generate(PROMPT, max_tokens=5, logit_bias={300: 1000.0}).token_ids) == {300}
    banned = model.generate(PROMPT, max_tokens=1).token_ids[0]
    assert banned not in model.generate(PROMPT, max_tokens=50, logit_bias={banned: -1000.0}).token_ids


def test_end_tokens(model: fastlm.Model) -> None:
    force = {public_model.END: 1000.0}
    ended = model.generate(PROMPT, logit_bias=force)
    assert (ended.token_ids, ended.text, ended.finish_reason) == ([], "", "stop")
    assert model.generate(PROMPT, logit_bias=force, ignore_eos=True, max_tokens=3).token_ids == [public_model.END] * 3
    held = model.generate(PROMPT, logit_bias=force, min_tokens=4)
    assert len(held.token_ids) == 4
    assert public_model.END not in held.token_ids
    plain = model.generate(PROMPT, max_tokens=9).token_ids
    assert model.generate(PROMPT, stop_token_ids=[plain[5]]).token_ids == plain[: plain.index(plain[5])]


def test_stop_strings(model: fastlm.Model) -> None:
    done = model.generate(PROMPT, stop=["play outs", "zzz"])
    assert done.text == ", there was a little girl named Lily. She loved to "
    assert done.finish_reason == "stop"
    assert "".join(str(c) for c in model.stream(PROMPT, stop="play outs")) == done.text


def test_sampling_is_seeded(model: fastlm.Model) -> None:
    options = {"temperature": 1.2, "top_k": 50, "top_p": 0.95, "max_tokens": 30}
    texts = [model.generate(PROMPT, seed=seed, **options).text for seed in (1, 1, 2, 3)]
    assert texts[0] == texts[1]
    assert len(set(texts)) == 3
    free = model.generate(PROMPT, **options)
    assert model.generate(PROMPT, seed=free.seed, **options).text == free.text


def test_samples_follow_the_distribution(model: fastlm.Model) -> None:
    p = np.exp(last_logits(model, [1]) / 0.9)
    p /= p.sum()
    n = 4000
    found = [model.generate([1], max_tokens=1, temperature=0.9, seed=i, ignore_eos=True).token_ids[0] for i in range(n)]
    counts = np.bincount(found, minlength=len(p))
    common = p * n >= 5
    chi2 = float((((counts - p * n) ** 2) / (p * n))[common].sum())
    degrees = int(common.sum())
    assert chi2 < degrees + 5 * np.sqrt(2 * degrees)
    kept = set(np.argsort(-p)[:3].tolist())
    assert {model.generate([1], max_tokens=1, temperature=0.9, top_k=3, seed=i).token_ids[0] for i in range(60)} <= kept


def test_n_alternatives(model: fastlm.Model) -> None:
    done = model.generate(PROMPT, n=4, temperature=1.0, seed=10, max_tokens=12)
    texts = [done.text, *(other.text for other in done.alternatives)]
    assert texts == [model.generate(PROMPT, temperature=1.0, seed=10 + i, max_tokens=12).text for i in range(4)]
    assert len(set(texts)) > 1


def test_logprobs(model: fastlm.Model) -> None:
    ids = [1, 403]
    done = model.generate(ids, max_tokens=6, logprobs=3, temperature=0.7, seed=4, repetition_penalty=1.3)
    assert done.logprobs is not None
    assert [entry.id for entry in done.logprobs] == done.token_ids
    for i, entry in enumerate(done.logprobs):
        x = last_logits(model, ids + done.token_ids[:i])
        logp = x - x.max() - np.log(np.exp(x - x.max()).sum())
        assert entry.logprob == pytest.approx(logp[entry.id], abs=1e-5)
        best = np.argsort(-logp, kind="stable")[:3]
        assert [t for t, _, _ in entry.top] == best.tolist()
        assert [p for _, _, p in entry.top] == pytest.approx(logp[best].tolist(), abs=1e-5)
    assert model.generate(ids, max_tokens=2).logprobs is None


def test_echo_and_aliases(model: fastlm.Model) -> None:
    assert (
        model.generate(PROMPT, max_new_tokens=3, echo=True).text == PROMPT + model.generate(PROMPT, max_tokens=3).text
    )
    with pytest.raises(ParameterError, match="max_tokens"):
        model.generate(PROMPT, max_tokens=3, max_new_tokens=3)


def test_a_closed_stream(model: fastlm.Model) -> None:
    stream = model.stream(PROMPT, max_tokens=400, ignore_eos=True)
    next(stream)
    stream.close()
    assert model.generate(PROMPT, max_tokens=2).finish_reason == "length"


def test_unknown_names_get_a_hint(model: fastlm.Model) -> None:
    with pytest.raises(ParameterError, match="did you mean 'temperature'"):
        model.generate(PROMPT, temprature=1)
    with pytest.raises(ParameterError, match="top_p acts on sampling"):
        model.generate(PROMPT, top_p=0.5)
    for name, value in (("num_beam_groups", 2), ("adapter", "x"), ("draft", object()), ("length_penalty", 2.0)):
        with pytest.raises(ParameterError, match=name):
            model.generate(PROMPT, **{name: value})


OFF = {"top_k": 0, "top_p": 1.0, "min_p": 0, "typical_p": 1, "num_beams": 1, "length_penalty": 1.0}
ACTING = {"top_k": 5, "top_p": 0.9, "min_p": 0.1, "typical_p": 0.5}


def test_filters_of_a_greedy_model() -> None:
    """What is off asks for nothing; what would act cannot be honoured."""
    plain = resolve({"seed": 1}, {}, 512)
    assert resolve({**OFF, "seed": 1}, {}, 512) == plain
    assert all(resolve({name: value, "seed": 1}, {}, 512) == plain for name, value in OFF.items())
    assert resolve({"top_k": 1}, {}, 512).sampling["temperature"] == 0.0  # the best token is what greedy takes
    for name, value in ACTING.items():
        with pytest.raises(ParameterError, match=f"{name} acts on sampling"):
            resolve({**OFF, name: value}, {}, 512)
        assert resolve({name: value}, {"do_sample": True}, 512).sampling[name] == value
        assert resolve({name: value, "temperature": 0.5}, {}, 512).sampling[name] == value


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("max_tokens", -1),
        ("max_tokens", 1.5),
        ("max_tokens", True),
        ("temperature", -0.1),
        ("temperature", float("nan")),
        ("temperature", "hot"),
        ("top_k", -1),
        ("top_p", 0.0),
        ("top_p", 1.1),
        ("min_p", 2),
        ("typical_p", 0),
        ("repetition_penalty", 0),
        ("presence_penalty", float("inf")),
        ("n", 0),
        ("seed", -1),
        ("stop", ""),
        ("stop", [1]),
        ("stop_token_ids", [512]),
        ("logit_bias", {-1: 1.0}),
        ("logit_bias", [1]),
        ("logprobs", -1),
        ("ignore_eos", 1),
        ("cancel", 5),
    ],
)
def test_values_are_checked(name: str, value: object) -> None:
    with pytest.raises(ParameterError, match=name):
        resolve({name: value}, {}, 512)


def test_generation_config_counts_after_explicit_values() -> None:
    config = {"do_sample": True, "temperature": 0.6, "top_p": 0.9, "max_new_tokens": 7, "repetition_penalty": 1.1}
    p = resolve({}, config, 512).sampling
    assert (p["temperature"], p["top_p"], p["max_tokens"], p["repetition_penalty"]) == (0.6, 0.9, 7, 1.1)
    p = resolve({"temperature": 0, "max_tokens": 3, "top_p": None}, config, 512).sampling
    assert (p["temperature"], p["max_tokens"]) == (0.0, 3)
    assert resolve({}, {"temperature": 0.6, "top_k": 50}, 512).sampling["temperature"] == 0.0
    assert resolve({}, {"do_sample": True}, 512).sampling["temperature"] == 1.0


HONOURED = {
    "do_sample": True,
    "temperature": 0.6,
    "top_k": 20,
    "top_p": 0.95,
    "min_p": 0.1,
    "typical_p": 0.9,
    "repetition_penalty": 1.1,
    "no_repeat_ngram_size": 3,
    "max_new_tokens": 9,
    "min_new_tokens": 2,
    "num_beams": 1,
    "early_stopping": True,
    "suppress_tokens": [5],
    "forced_bos_token_id": 7,
    "bad_words_ids": [[3]],
}
MEANINGLESS = {
    "_from_model_config": True,
    "transformers_version": "4.40.0",
    "bos_token_id": 1,
    "eos_token_id": [2, 3],
    "pad_token_id": 0,
    "decoder_start_token_id": 0,
    "use_cache": True,
    "cache_implementation": "hybrid",
    "output_attentions": True,
    "return_dict_in_generate": True,
}
NEUTRAL = {
    "num_return_sequences": 1,
    "length_penalty": 1.0,
    "max_length": 20,
    "guidance_scale": 1.0,
    "suppress_tokens": [],
    "forced_bos_token_id": None,
    "diversity_penalty": 0.0,
    "early_stopping": False,
}
IGNORED = {
    "num_beam_groups": 2,
    "max_length": 448,
    "a_setting_of_next_year": "x",
}


def test_settings_that_are_not_honoured(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert not_honoured({**HONOURED, **MEANINGLESS, **NEUTRAL}) == {}
    assert not_honoured({**HONOURED, **MEANINGLESS, **IGNORED}) == IGNORED
    save_llama(tmp_path)
    path = tmp_path / "generation_config.json"
    path.write_text(json.dumps({**HONOURED, **IGNORED}))
    with fastlm.load(tmp_path) as model:
        model.generate([1], max_tokens=1)
        found = describe(model)
        assert found["not_honoured"] == IGNORED
        assert "of generation_config.json, not honoured: num_beam_groups 2, max_length 448" in summary(found)
    (record,) = caplog.records
    assert record.name == "fastlm" and "num_beam_groups, max_length" in record.getMessage()
    path.write_text(json.dumps({**HONOURED, **NEUTRAL}))
    with fastlm.load(tmp_path) as model:
        assert "not honoured" not in summary(describe(model))
    assert len(caplog.records) == 1


WRONG_TYPES = [
    ("eos_token_id", "2"),
    ("eos_token_id", 2.0),
    ("eos_token_id", [2, "3"]),
    ("eos_token_id", True),
    ("bos_token_id", {}),
    ("decoder_start_token_id", "0"),
    ("do_sample", 1),
    ("do_sample", "true"),
    ("temperature", "hot"),
    ("top_k", [5]),
    ("max_new_tokens", True),
    ("num_beams", "4"),
    ("early_stopping", "always"),
    ("bad_words_ids", [3]),
    ("suppress_tokens", "5"),
    ("max_length", [9]),
]


@pytest.mark.parametrize(("name", "value"), WRONG_TYPES, ids=[f"{name} {value}" for name, value in WRONG_TYPES])
def test_settings_of_another_type(tmp_path: Path, name: str, value: object) -> None:
    """Without a word about them, a text never ended, or was greedy."""
    folder = save_llama(tmp_path)
    (folder / "generation_config.json").write_text(json.dumps({name: value}))
    with refused(ModelFormatError, f"{folder / 'generation_config.json'}: {name} must be"):
        fastlm.load(folder)
    (folder / "generation_config.json").write_text(json.dumps({name: None}))
    fastlm.load(folder).close()
    if name.endswith("_token_id"):
        (folder / "config.json").write_text(json.dumps({**TINY.config(), name: value}))
        with refused(ModelFormatError, f"{folder / 'config.json'}: {name} must be"):
            fastlm.load(folder)
