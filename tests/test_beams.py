"""Beam search and logits processors: against transformers (tests/golden/make_beams.py) and a plain NumPy search."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from beam_reference import NextLogits, Search, beam_search, greedy
from models import Shape, save_llama

import fastlm
from fastlm import reference
from fastlm.arch import registry
from fastlm.errors import ModelMemoryError, NumericError, ParameterError
from fastlm.weights.bind import bind
from fastlm.weights.safetensors import Checkpoint

GOLDEN = Path(__file__).with_name("golden")
CASES = json.loads((GOLDEN / "beams.json").read_text())
STEPS = 12
NAMES = ("t5_gated", "llama")


@cache
def loaded(name: str) -> fastlm.Model:
    """A golden without the settings of its config.json: an empty generation_config.json takes their place."""
    with tempfile.TemporaryDirectory() as folder:
        for file in ("config.json", "model.safetensors"):
            (Path(folder) / file).symlink_to(GOLDEN / name / file)
        (Path(folder) / "generation_config.json").write_text("{}")
        return fastlm.load(folder, dtype="float32")


@pytest.fixture(scope="module", autouse=True)
def _closed() -> Iterator[None]:
    yield
    loaded.cache_clear()


def found(done: fastlm.Completion) -> list[tuple[list[int], float | None]]:
    return [(text.token_ids, text.score) for text in (done, *done.alternatives)]


def title(case: dict[str, Any]) -> str:
    return " ".join([case["model"], *(f"{name}={value}" for name, value in case["params"].items())])


@pytest.mark.parametrize("case", CASES, ids=map(title, CASES))
def test_texts_and_scores_are_those_of_transformers(case: dict[str, Any]) -> None:
    done = loaded(case["model"]).generate(
        case["ids"], **{"max_tokens": STEPS, **case["params"]}, stop_token_ids=case["ends"]
    )
    assert [tokens for tokens, _ in found(done)] == case["texts"]
    scores = [score for _, score in found(done) if score is not None]
    assert scores == pytest.approx(case["scores"], abs=1e-3)
    assert {text.finish_reason for text in (done, *done.alternatives)} == {
        "length" if len(tokens) == STEPS else "stop" for tokens in case["texts"]
    }


def test_the_cases_tell_options_apart() -> None:
    """Some texts end early, some do not, and options change the best text."""
    lengths = {len(text) for case in CASES for text in case["texts"]}
    assert {0, STEPS} & lengths and len(lengths) > 5
    assert len({tuple(map(tuple, case["texts"])) for case in CASES}) > len(CASES) / 2


# ---- a plain search over the reference's logits ----


def next_logits(name: str, ids: list[int]) -> tuple[NextLogits, list[int]]:
    """What gives the logits of the reference, and the tokens that writing starts after."""
    file = GOLDEN / name / "config.json"
    with Checkpoint(GOLDEN / name / "model.safetensors") as checkpoint:
        binding = bind(registry.read(json.loads(file.read_text()), file), checkpoint)
        spec, weights = binding.spec, {slot: source.array64() for slot, source in binding.items()}

    def logits(text: list[int]) -> Any:
        given = {"decoder_ids": text} if spec.encoder else {}
        result = reference.forward(spec, weights, ids if spec.encoder else text, **given).logits
        assert result is not None
        return result[-1]

    return logits, [0] if spec.encoder else ids


def drawn(rng: np.random.Generator, vocab: int) -> dict[str, Any]:
    """Options in our names; about half of the processors."""
    some = rng.integers(3, vocab, 12).tolist()
    maybe = {
        "min_tokens": int(rng.integers(1, 6)),
        "repetition_penalty": float(rng.choice([0.8, 1.2, 1.7])),
        "no_repeat_ngram_size": int(rng.integers(1, 4)),
        "encoder_no_repeat_ngram_size": int(rng.integers(1, 3)),
        "bad_words_ids": [some[:1], some[1:3], some[2:5]],
        "forced_bos_token_id": some[5],
        "forced_eos_token_id": some[6:8],
        "suppress_tokens": some[8:10],
        "begin_suppress_tokens": some[10:],
    }
    given = {name: value for name, value in maybe.items() if rng.random() < 0.4}
    return {
        **given,
        "num_beams": int(rng.integers(2, 7)),
        "length_penalty": float(rng.choice([-1.0, 0.0, 0.5, 1.0, 2.0])),
        "early_stopping": [False, True, "never"][rng.integers(3)],
        "max_tokens": int(rng.integers(1, 9)),
        "stop_token_ids": rng.integers(3, vocab, int(rng.integers(1, 9))).tolist(),
    }


def as_search(given: dict[str, Any], own: tuple[int, ...], source: list[int]) -> Search:
    theirs = {"max_tokens": "max_new_tokens", "min_tokens": "min_new_tokens", "stop_token_ids": "eos"}
    named = {theirs.get(name, name): value for name, value in given.items()}
    for name in ("eos", "forced_eos_token_id", "suppress_tokens", "begin_suppress_tokens"):
        named[name] = tuple(named.get(name, ()))
    return Search(**{**named, "eos": tuple(dict.fromkeys((*named["eos"], *own)))}, source=source)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("seed", range(8))
def test_texts_are_those_of_a_plain_search(name: str, seed: int) -> None:
    rng = np.random.default_rng(seed)
    model = loaded(name)
    own = (1,) if name == "t5_gated" else (2,)
    ids = rng.integers(3, model.vocab, int(rng.integers(2, 20))).tolist()
    given = drawn(rng, model.vocab)
    logits, prompt = next_logits(name, ids)
    search = as_search(given, own, ids)
    expected = beam_search(logits, prompt, search)
    done = model.generate(ids, **given, n=given["num_beams"])
    assert [tokens for tokens, _ in found(done)] == [without(text.tokens, search.eos) for text in expected]
    assert [score for _, score in found(done)] == pytest.approx([text.score for text in expected], abs=1e-4)
    once = {k: v for k, v in given.items() if k not in ("num_beams", "length_penalty", "early_stopping")}
    assert model.generate(ids, **once, num_beams=1).token_ids == greedy(logits, prompt, search)


def without(tokens: list[int], ends: tuple[int, ...]) -> list[int]:
    return tokens[:-1] if tokens and tokens[-1] in ends else tokens


# ---- the same bits, whatever runs beside ----

SOURCES = [np.random.default_rng(i).integers(3, 90, 3 + 17 * i).tolist() for i in range(9)]
WAYS: list[dict[str, Any]] = [
    {"num_beams": 4, "n": 3, "max_tokens": 80, "ignore_eos": True},
    {"max_tokens": 30, "ignore_eos": True},
    {"num_beams": 3, "length_penalty": 2.0, "max_tokens": 40, "no_repeat_ngram_size": 2},
    {"temperature": 1.0, "seed": 3, "n": 2, "max_tokens": 20},
    {"num_beams": 2, "max_tokens": 9, "forced_eos_token_id": 1},
]


def works() -> list[tuple[list[int], dict[str, Any]]]:
    return [(ids, WAYS[i % len(WAYS)]) for i, ids in enumerate(SOURCES)]


@pytest.fixture(params=["encoder-decoder", "decoder"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    return GOLDEN / "t5" if request.param == "encoder-decoder" else save_llama(tmp_path)


@pytest.mark.parametrize("dtype", ["float32", "int8"])
def test_bits_do_not_depend_on_batch_threads_or_prefix(folder: Path, dtype: str) -> None:
    with fastlm.load(folder, dtype=dtype, threads=1, prefix_cache=False) as model:
        expected = [found(model.generate(ids, **params)) for ids, params in works()]
    for threads in (1, 2, 3):
        with fastlm.load(folder, dtype=dtype, threads=threads) as model:
            for _ in range(2):  # the second time prefixes are known
                requests = [fastlm.Request(ids, **params) for ids, params in works()]
                assert [found(done) for done in model.batch(requests)] == expected


@pytest.mark.parametrize("kv_dtype", ["float32", "bfloat16", "int8"])
def test_a_branch_holds_what_its_text_would_alone(tmp_path: Path, kv_dtype: str) -> None:
    """Texts that part and end in the midst of pages, over a vocabulary of several blocks."""
    shape = Shape(vocab=700, context=256)
    with fastlm.load(save_llama(tmp_path, shape), kv_dtype=kv_dtype, prefix_cache=False, threads=2) as model:
        ids = np.random.default_rng(2).integers(3, shape.vocab, 45).tolist()

        def logits(text: list[int]) -> Any:
            found = model.forward(text, logits="last").logits
            assert found is not None
            return found[-1].astype(np.float64)

        asked = {"num_beams": 5, "n": 5, "max_tokens": 30, "repetition_penalty": 1.4, "suppress_tokens": [650, 7]}
        for given in ({**asked, "ignore_eos": True}, {**asked, "forced_eos_token_id": 5, "logit_bias": {300: 2.0}}):
            done = found(model.generate(ids, **given))
            search = Search(
                num_beams=5,
                max_new_tokens=30,
                repetition_penalty=1.4,
                suppress_tokens=(650, 7),
                eos=() if "ignore_eos" in given else (2,),
                forced_eos_token_id=(5,) if "forced_eos_token_id" in given else (),
            )
            biased = np.zeros(shape.vocab)
            biased[300] = given.get("logit_bias", {}).get(300, 0.0)
            expected = beam_search(logits, ids, search, biased)
            assert [tokens for tokens, _ in done] == [without(text.tokens, search.eos) for text in expected]
            assert [score for _, score in done] == pytest.approx([text.score for text in expected], abs=1e-3)


class AfterSome:
    """A flag that is set once it was asked a few times."""

    def __init__(self, n: int) -> None:
        self.left = n

    def is_set(self) -> bool:
        self.left -= 1
        return self.left < 0


def test_a_cancelled_request_changes_no_other_text(folder: Path) -> None:
    with fastlm.load(folder, threads=2) as model:
        expected = [found(model.generate(ids, **params)) for ids, params in works()]
        for asked in (0, 1, 2, 5):
            requests = []
            for i, (ids, params) in enumerate(works()):
                cancel = {"cancel": AfterSome(asked)} if i % 3 == 1 else {}
                requests += [fastlm.Request(ids, **params), fastlm.Request(ids[::-1], **params, **cancel)]
            done = model.batch(requests)
            assert [found(text) for text in done[::2]] == expected
            assert asked or any(text.finish_reason == "cancelled" for text in done[1::2])


# ---- what is shared, and what is given back ----


def counted(model: fastlm.Model) -> int:
    count = model.engine.context.counters()["tokens"]
    assert isinstance(count, int)
    return count


def test_a_source_is_encoded_once_for_all_beams() -> None:
    model = loaded("t5")
    before = counted(model)
    model.generate([5, 6, 7, 1], num_beams=4, max_tokens=5, ignore_eos=True)
    assert counted(model) - before == 4 + 1 + 4 * 4


def test_many_translations_need_the_memory_of_few() -> None:
    """Pages for two sources and four beams at a time: a page that is not given back would be missed at once."""
    rng = np.random.default_rng(0)
    probe = loaded("t5").memory()["kv_bytes_per_token"]
    with fastlm.load(GOLDEN / "t5", kv_bytes=12 * 64 * 2 * probe) as model:
        sources = [rng.integers(3, 90, int(rng.integers(1, 60))).tolist() for _ in range(300)]
        first = [found(done) for done in model.batch(sources, num_beams=4, max_tokens=6)]
        assert [found(model.generate(ids, num_beams=4, max_tokens=6)) for ids in sources[:20]] == first[:20]
        assert [found(done) for done in model.batch(sources, num_beams=4, max_tokens=6)] == first


def test_a_session_goes_on_with_the_best_text() -> None:
    model = loaded("llama")
    session, ids = model.session(), [5, 9, 33]
    done = session.generate(ids, num_beams=3, max_tokens=70, ignore_eos=True)
    assert len(done.token_ids) == 70 and session.tokens == [*ids, *done.token_ids]
    again = session.generate([7], max_tokens=5, ignore_eos=True)
    assert again.token_ids == model.generate([*ids, *done.token_ids, 7], max_tokens=5, ignore_eos=True).token_ids


def test_texts_are_those_of_their_tokens(stories: Path) -> None:
    with fastlm.load(stories) as model:
        assert model.tokenizer is not None
        ids = model.tokenizer.encode("Once upon a time")
        done = model.generate(ids, num_beams=3, n=3, temperature=0, max_tokens=12)
        for text in (done, *done.alternatives):
            whole = model.tokenizer.decode([*ids, *text.token_ids])
            assert text.text and model.tokenizer.decode(ids) + text.text == whole


# ---- errors ----


@pytest.mark.parametrize(
    ("params", "words"),
    [
        ({"num_beams": 4, "temperature": 1.0}, "not drawn"),
        ({"num_beams": 4, "stop_token_ids": [1], "logprobs": 2}, "logprobs"),
        ({"num_beams": 2, "n": 3}, "at most num_beams"),
        ({"num_beams": 4, "attentions": True}, "forward"),
        ({"num_beams": 97}, "vocabulary"),
        ({"num_beams": 0}, "num_beams"),
        ({"length_penalty": 2.0}, "give num_beams"),
        ({"early_stopping": True}, "give num_beams"),
        ({"num_beams": 2, "early_stopping": "always"}, "early_stopping"),
        ({"num_beams": 2, "num_beam_groups": 2}, "groups"),
        ({"bad_words_ids": [[]]}, "bad_words_ids"),
        ({"bad_words_ids": [[3, 400]]}, "bad_words_ids"),
        ({"suppress_tokens": [96]}, "suppress_tokens"),
        ({"forced_bos_token_id": [1, 2]}, "forced_bos_token_id"),
    ],
)
def test_what_cannot_be_honoured_is_named(params: dict[str, Any], words: str) -> None:
    with pytest.raises(ParameterError, match=words):
        loaded("t5").generate([5, 6, 1], **params)


def test_beams_are_not_streamed() -> None:
    with pytest.raises(ParameterError, match="num_beams=1, or use generate"):
        next(iter(loaded("t5").stream([5, 6, 1], num_beams=2)))


def test_more_beams_than_memory_holds() -> None:
    probe = loaded("llama").memory()["kv_bytes_per_token"]
    with fastlm.load(GOLDEN / "llama", dtype="float32", kv_bytes=9 * 64 * probe + 64) as model:
        with pytest.raises(ModelMemoryError, match=r"num_beams is 8.*lower num_beams"):
            model.generate([5, 6, 7], num_beams=8, max_tokens=90)
        assert len(model.generate([5, 6, 7], num_beams=4, max_tokens=90, ignore_eos=True).token_ids) == 90


def test_sources_that_cannot_be_read() -> None:
    model = loaded("t5")
    with pytest.raises(ParameterError, match="empty"):
        model.generate([])
    with pytest.raises(fastlm.ContextLengthError):
        model.generate([5] * (model.context + 1))
    probe = model.memory()["kv_bytes_per_token"]
    with (
        fastlm.load(GOLDEN / "t5", dtype="float32", kv_bytes=3 * 64 * 2 * probe) as small,
        pytest.raises(ModelMemoryError, match="the source has 400 tokens"),
    ):
        small.generate([5] * 400, max_tokens=3)


def test_nothing_left_to_choose() -> None:
    model = loaded("t5")
    with pytest.raises(NumericError, match="no token to choose"):
        model.generate([5, 1], num_beams=3, suppress_tokens=list(range(model.vocab)))


def test_max_length_of_generation_config_counts_the_start(tmp_path: Path) -> None:
    for name in ("config.json", "model.safetensors"):
        (tmp_path / name).symlink_to(GOLDEN / "t5" / name)
    settings = {"num_beams": 3, "max_length": 9, "min_length": 5, "early_stopping": True, "length_penalty": 0.5}
    (tmp_path / "generation_config.json").write_text(json.dumps(settings))
    ids = [5, 17, 42, 8, 1]
    with fastlm.load(tmp_path, dtype="float32") as model:
        told = {"num_beams": 3, "max_tokens": 8, "min_tokens": 4, "early_stopping": True, "length_penalty": 0.5}
        assert found(model.generate(ids)) == found(loaded("t5").generate(ids, **told))
        assert len(model.generate(ids, max_tokens=12, ignore_eos=True).token_ids) == 12
        with pytest.raises(ParameterError, match="num_beams=1"):
            model.stream(ids)
        assert "".join(chunk.text for chunk in model.stream(ids, num_beams=1)) == ""


def test_settings_of_an_old_config(tmp_path: Path) -> None:
    """They count where there is no generation_config.json, as in transformers."""
    (tmp_path / "model.safetensors").symlink_to(GOLDEN / "t5" / "model.safetensors")
    old = {"num_beams": 3, "length_penalty": 2.0, "bad_words_ids": [[44]], "forced_eos_token_id": 1, "max_length": 7}
    (tmp_path / "config.json").write_text(
        json.dumps({**json.loads((GOLDEN / "t5" / "config.json").read_text()), **old})
    )
    told = {name: value for name, value in old.items() if name != "max_length"}
    with fastlm.load(tmp_path, dtype="float32") as model:
        expected = found(loaded("t5").generate([5, 17, 42, 1], max_tokens=6, **told))
        assert found(model.generate([5, 17, 42, 1])) == expected
        (tmp_path / "generation_config.json").write_text("{}")
    with fastlm.load(tmp_path, dtype="float32") as model:
        assert model.generate([5, 17, 42, 1], max_tokens=6).score is None
