"""Speculative decoding: what is written is bit for bit what is written without, whatever is proposed."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from adapter_folders import low_rank, save_adapter
from bert_models import save_bert
from hypothesis import given, settings
from hypothesis import strategies as st
from models import TINY, add_byte_tokenizer, byte_shape, save_llama

import fastlm
from fastlm.errors import ParameterError, StateError, UnsupportedError

GOLDEN = Path(__file__).with_name("golden")
SHAPE = byte_shape(end=True)
RNG = np.random.default_rng(0)
PROMPTS = [[int(i) for i in RNG.integers(0, 256, n)] for n in (1, 2, 5, 9, 40, 70, 130, 64)]
PROMPTS.append([5, 6, 7, 8, 9] * 12)  # in which lookups find something
# Every option that a text is chosen by.
OPTIONS: list[dict[str, Any]] = [
    {},
    {"logprobs": 3, "min_tokens": 30},
    {"repetition_penalty": 1.3, "no_repeat_ngram_size": 3},
    {"presence_penalty": 0.5, "frequency_penalty": 0.3, "ignore_eos": True},
    {"logit_bias": {7: 4.0, 9: -5.0}, "bad_words_ids": [[7, 7], [30]], "suppress_tokens": [1, 2]},
    {"temperature": 1.0, "seed": 3},
    {"temperature": 0.7, "top_k": 5, "seed": 4, "logprobs": 0},
    {"temperature": 1.3, "top_p": 0.8, "seed": 5, "min_tokens": 12},
    {"temperature": 0.5, "min_p": 0.02, "typical_p": 0.9, "seed": 6, "repetition_penalty": 0.9},
    {"temperature": 2.0, "seed": 7, "frequency_penalty": 1.0, "no_repeat_ngram_size": 2},
    {"temperature": 0.3, "seed": 8, "forced_eos_token_id": 256, "max_tokens": 17},
    {"stop": ["e", "\x85"], "temperature": 1.0, "seed": 9},
    {"stop_token_ids": [65, 66, 67, 68, 69, 70], "temperature": 1.0, "seed": 10},
]


class Cast:
    """A model that writes, and others beside it: the same weights in two formats, and strange ones."""

    def __init__(self, folder: Path, threads: int = 2) -> None:
        one = add_byte_tokenizer(save_llama(folder / "one", SHAPE), end=True)
        other = add_byte_tokenizer(save_llama(folder / "other", replace(SHAPE, layers=1), seed=9), end=True)
        self.folder = one
        self.model = fastlm.load(one, threads=threads)
        self.same = fastlm.load(one, beside=self.model)
        self.near = fastlm.load(one, beside=self.model, dtype="int8")
        self.strange = fastlm.load(other, beside=self.model)

    def drafts(self) -> list[fastlm.Draft | fastlm.Lookup]:
        models = [fastlm.Draft(m, n) for m in (self.same, self.near, self.strange) for n in ("auto", 1, 5)]
        return [*models, *(fastlm.Lookup(n, k) for n, k in ((3, "auto"), (1, 4), (8, 32)))]

    def close(self) -> None:
        for model in (self.same, self.near, self.strange, self.model):
            model.close()


@pytest.fixture(scope="module")
def cast(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cast]:
    made = Cast(tmp_path_factory.mktemp("drafts"))
    yield made
    made.close()


def kept(done: fastlm.Completion) -> tuple[Any, ...]:
    """All that must not depend on proposals."""
    return done.text, done.token_ids, done.finish_reason, done.logprobs, done.usage.completion_tokens


@pytest.mark.parametrize("options", OPTIONS, ids=[" ".join(o) or "greedy" for o in OPTIONS])
def test_the_same_bits(cast: Cast, options: dict[str, Any]) -> None:
    """Alone and in batches, with every draft."""
    options = {"max_tokens": 50, **options}
    expected = [kept(cast.model.generate(p, **options)) for p in PROMPTS]
    for draft in cast.drafts():
        found = cast.model.batch(PROMPTS, draft=draft, **options)
        assert [kept(done) for done in found] == expected, draft
        assert all(d.draft is not None and 0 <= d.draft.accepted <= d.draft.proposed for d in found)
        assert kept(cast.model.generate(PROMPTS[-1], draft=draft, **options)) == expected[-1]
    assert cast.model.generate(PROMPTS[0], **options).draft is None


def test_a_thousand_prompts(cast: Cast) -> None:
    """Greedy, for three pairs of models and for lookups."""
    rng = np.random.default_rng(2)
    prompts = [[int(i) for i in rng.integers(0, 256, rng.integers(1, 30))] for _ in range(1000)]
    expected = [kept(done) for done in cast.model.batch(prompts, max_tokens=24)]
    proposed = 0
    for draft in (*(fastlm.Draft(m, 3) for m in (cast.same, cast.near, cast.strange)), fastlm.Lookup(3, 3)):
        for begin in range(0, len(prompts), 50):
            found = cast.model.batch(prompts[begin : begin + 50], max_tokens=24, draft=draft)
            assert list(map(kept, found)) == expected[begin : begin + 50]
            proposed += sum(done.draft.proposed for done in found if done.draft)
    assert proposed > 20_000


def test_several_drafts_in_one_batch(cast: Cast) -> None:
    """Requests without any, too, and such as read long prompts meanwhile."""
    each = [None, *cast.drafts()] * 3
    prompts = [PROMPTS[i % len(PROMPTS)] * (1 + i % 2) for i in range(len(each))]
    how = [{"temperature": i % 3 / 2, "seed": i, "max_tokens": 20 + i} for i in range(len(each))]
    plain = [fastlm.Request(p, **h) for p, h in zip(prompts, how, strict=True)]
    drafted = [fastlm.Request(p, draft=d, **h) for p, h, d in zip(prompts, how, each, strict=True)]
    assert list(map(kept, cast.model.batch(drafted))) == list(map(kept, cast.model.batch(plain)))


def test_a_draft_of_the_same_weights_is_always_right(cast: Cast) -> None:
    """It has the same logits and draws by the same numbers: six tokens a step."""
    for options in ({}, {"temperature": 1.0, "seed": 1}, {"temperature": 0.8, "top_k": 9, "top_p": 0.9, "seed": 2}):
        before = cast.model.engine.context.counters()["forwards"]
        done = cast.model.generate(
            PROMPTS[3], max_tokens=61, ignore_eos=True, draft=fastlm.Draft(cast.same, 5), **options
        )
        after = cast.model.engine.context.counters()["forwards"]
        assert done.draft == (50, 50)
        assert isinstance(before, int) and isinstance(after, int)
        assert after - before <= 1 + 10 * 6  # the prompt's, then ten steps, each after five of the draft


def test_proposals_that_pay_are_made_and_others_are_not(cast: Cast) -> None:
    """By what was accepted: times do not count for this, but that a step costs something."""
    options = {"max_tokens": 300, "ignore_eos": True}
    good = cast.model.generate(PROMPTS[-1], draft=fastlm.Lookup(), repetition_penalty=0.5, **options).draft
    assert good is not None and good.proposed > 20 and good.accepted > good.proposed / 2
    for _ in range(3):
        bad = cast.model.generate(PROMPTS[2], draft=fastlm.Draft(cast.strange), **options).draft
    assert bad is not None and bad.proposed < 100 and bad.accepted < 10


def test_streams(cast: Cast) -> None:
    for draft in cast.drafts():
        for options in OPTIONS[:8]:
            expected = cast.model.generate(PROMPTS[4], max_tokens=40, **options)
            chunks = list(cast.model.stream(PROMPTS[4], max_tokens=40, draft=draft, **options))
            assert "".join(c.text for c in chunks) == expected.text
            assert [t for c in chunks for t in c.token_ids] == expected.token_ids
            assert chunks[-1].finish_reason == expected.finish_reason


def test_sessions_go_on(cast: Cast) -> None:
    """Turn by turn, with another draft each, forks and rewinding between; the sequence is the same."""
    drafts = cast.drafts()
    plain, drafted = cast.model.session(), cast.model.session()
    for turn in range(12):
        how = {"max_tokens": 17, "temperature": turn % 2 * 0.9, "seed": turn, "stop": ["a"] if turn % 3 else []}
        prompt = PROMPTS[turn % 4] if turn % 4 else ()
        if turn == 0:
            prompt = PROMPTS[5]
        expected = plain.generate(list(prompt), **how)
        assert kept(drafted.generate(list(prompt), draft=drafts[turn % len(drafts)], **how)) == kept(expected)
        assert drafted.tokens == plain.tokens
        if turn % 5 == 2:
            plain, drafted = plain.fork(), drafted.fork()
            plain.rewind(9)
            drafted.rewind(9)
    plain.close()
    drafted.close()


def test_adapters(cast: Cast, tmp_path: Path) -> None:
    """The draft drafts for a text that an adapter writes."""
    cast.model.load_adapter("one", save_adapter(tmp_path / "one", low_rank(SHAPE, seed=4)))
    try:
        plain, adapted = cast.model.batch([PROMPTS[4], fastlm.Request(PROMPTS[4], adapter="one")], max_tokens=40)
        assert plain.token_ids != adapted.token_ids
        for draft in cast.drafts():
            requests = [fastlm.Request(PROMPTS[4], draft=draft), fastlm.Request(PROMPTS[4], adapter="one", draft=draft)]
            assert list(map(kept, cast.model.batch(requests, max_tokens=40))) == [kept(plain), kept(adapted)]
    finally:
        cast.model.unload_adapter("one")


def test_several_texts_and_event_loops(cast: Cast) -> None:
    options = {"n": 5, "temperature": 1.0, "seed": 5, "max_tokens": 30}
    expected = cast.model.generate(PROMPTS[4], **options)
    for draft in cast.drafts():
        found = cast.model.generate(PROMPTS[4], draft=draft, **options)
        later = asyncio.run(cast.model.agenerate(PROMPTS[4], draft=draft, **options))
        for done in (found, later):
            assert [kept(d) for d in (done, *done.alternatives)] == [
                kept(d) for d in (expected, *expected.alternatives)
            ]


def test_threads_and_formats(tmp_path: Path) -> None:
    """Any number of threads, quantised targets, keys and values in int8, no prefix cache."""
    folder = add_byte_tokenizer(save_llama(tmp_path / "one", SHAPE), end=True)
    for options in ({"dtype": "int8", "kv_dtype": "int8"}, {"dtype": "int4", "prefix_cache": False}, {}):
        texts = set()
        for threads in (1, 2, 3):
            with fastlm.load(folder, threads=threads, **options) as model, fastlm.load(folder, beside=model) as other:
                for draft in (None, fastlm.Draft(other, 3), fastlm.Draft(other), fastlm.Lookup(2, 7)):
                    done = model.batch(PROMPTS, max_tokens=30, temperature=0.9, seed=1, draft=draft)
                    texts.add(str(list(map(kept, done))))
        assert len(texts) == 1


def test_calls_at_once(cast: Cast) -> None:
    """Threads that write, cancel and drop, with drafts and without; the drafts write for themselves, too."""
    expected = [kept(m.generate(p, max_tokens=25)) for m in (cast.model, cast.same) for p in PROMPTS[:4]]
    wrong: list[object] = []

    def write(seed: int) -> None:
        drafts = cast.drafts()
        for turn in range(6):
            draft = drafts[(seed + turn) % len(drafts)]
            if turn % 3 == 2:
                stream = cast.model.stream(PROMPTS[seed % 4], max_tokens=200, draft=draft)
                next(stream)
                stream.close()
            found = [kept(d) for d in cast.model.batch(PROMPTS[:4], max_tokens=25, draft=draft)]
            found += [kept(d) for d in cast.same.batch(PROMPTS[:4], max_tokens=25, draft=fastlm.Lookup(tokens=3))]
            if found != expected:
                wrong.append(draft)

    threads = [threading.Thread(target=write, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


class Later:
    """A flag that is set when it was asked so many times; each time it calls something."""

    def __init__(self, times: int, call: Any = lambda: None) -> None:
        self.left, self.call = times, call

    def is_set(self) -> bool:
        self.left -= 1
        self.call()
        return self.left < 0


def test_cancelling(cast: Cast) -> None:
    """What was written until then is the beginning of the text."""
    whole = cast.model.generate(PROMPTS[4], max_tokens=400, ignore_eos=True).token_ids
    for draft in cast.drafts():
        done = cast.model.generate(PROMPTS[4], max_tokens=400, ignore_eos=True, draft=draft, cancel=Later(1))
        assert done.finish_reason in ("cancelled", "length")
        assert done.token_ids == whole[: len(done.token_ids)]
        session = cast.model.session()
        session.generate(PROMPTS[4], max_tokens=400, ignore_eos=True, draft=draft, cancel=Later(1))
        past = session.tokens
        again = session.generate([1], max_tokens=9)
        assert again.token_ids == cast.model.generate([*past, 1], max_tokens=9).token_ids
        session.close()


def test_the_end_of_the_context_and_of_memory(tmp_path: Path) -> None:
    """Drafts that have a smaller context, or memory for less, stop proposing; the text goes on to its end."""
    folder = save_llama(tmp_path / "one", replace(TINY, context=200))
    small = save_llama(tmp_path / "small", replace(TINY, context=64), seed=0)
    with fastlm.load(folder, threads=1) as model:
        expected = model.generate([1, 2, 3], max_tokens=500)
        assert expected.finish_reason == "length" and len(expected.token_ids) == 197
        page = 64 * model.memory()["kv_bytes_per_token"]
        with (
            fastlm.load(small, beside=model) as short,
            fastlm.load(folder, beside=model, kv_bytes=2 * page) as narrow,
            fastlm.load(folder, beside=model) as same,
        ):
            for draft in (
                fastlm.Draft(short, 4),
                fastlm.Draft(narrow, 4),
                fastlm.Draft(same, 32),
                fastlm.Lookup(3, 32),
            ):
                done = model.generate([1, 2, 3], max_tokens=500, draft=draft)
                assert kept(done) == kept(expected) and done.draft is not None
                assert (done.draft.proposed == 0) == (
                    draft.model is narrow if isinstance(draft, fastlm.Draft) else False
                )
            assert model.generate(list(range(70)), max_tokens=5, draft=fastlm.Draft(short, 4)).draft == (0, 0)


def test_ropes_that_go_by_length() -> None:
    """A proposal is never chosen with the short ropes where the sequence needs the long ones."""
    config = json.loads((GOLDEN / "phi3_longrope" / "config.json").read_text())
    ids = [int(i) for i in np.random.default_rng(3).integers(3, config["vocab_size"], 9)]
    ids = (ids * 99)[: config["original_max_position_embeddings"] - 9]
    folder, how = GOLDEN / "phi3_longrope", {"dtype": "float32"}
    with fastlm.load(folder, threads=1, **how) as model, fastlm.load(folder, beside=model, **how) as same:
        for options in ({"temperature": 0.0}, {"temperature": 1.0, "seed": 2}):
            expected = model.generate(ids, max_tokens=20, ignore_eos=True, **options)
            for draft in (fastlm.Lookup(2, 8), fastlm.Draft(same, 6), fastlm.Draft(same)):
                done = model.generate(ids, max_tokens=20, ignore_eos=True, draft=draft, **options)
                assert kept(done) == kept(expected)


def test_lookups_in_an_encoder_decoder() -> None:
    with fastlm.load(GOLDEN / "t5", threads=1) as model:
        expected = model.generate([5, 6, 7, 8, 9], max_tokens=40, ignore_eos=True)
        for tokens in ("auto", 6):
            done = model.generate([5, 6, 7, 8, 9], max_tokens=40, ignore_eos=True, draft=fastlm.Lookup(2, tokens))
            assert kept(done) == kept(expected)
        with (
            fastlm.load(GOLDEN / "llama", beside=model) as llama,
            pytest.raises(UnsupportedError, match="encoder-decoder"),
        ):
            model.generate([5, 6, 7], draft=fastlm.Draft(llama))


@pytest.mark.parametrize("filters", [{}, {"top_k": 6, "temperature": 0.8}], ids=["all", "filtered"])
@pytest.mark.parametrize("how", ["strange", "near", "lookup"])
def test_the_distribution(cast: Cast, how: str, filters: dict[str, Any]) -> None:
    """Pairs of tokens of which the second was proposed for: chi-square against the model's own probabilities."""
    model, prompt, n = cast.model, [*PROMPTS[1], 5, 6, 7, 8] * 2, 3000
    draft = fastlm.Lookup(1, 2) if how == "lookup" else fastlm.Draft(getattr(cast, how), 2)
    bias = dict.fromkeys(prompt, 8.0)  # few tokens, so that pairs are frequent
    options = {"temperature": 1.0, "max_tokens": 3, "logit_bias": bias, "ignore_eos": True, **filters}
    done = []
    for begin in range(0, n, 60):  # with more sequences a step would have no room for proposals
        requests = [fastlm.Request(prompt, seed=seed) for seed in range(begin, begin + 60)]
        done += model.batch(requests, draft=draft, **options)
    assert sum(d.draft.proposed for d in done if d.draft) > n / 2

    def probabilities(ids: list[int]) -> np.ndarray:
        logits = model.forward(ids, logits="last").logits
        assert logits is not None
        scores = logits[0].astype(np.float64)
        for token, value in bias.items():
            scores[token] += value
        scores /= options["temperature"]
        if "top_k" in filters:
            scores[scores < np.sort(scores)[-filters["top_k"]]] = -np.inf
        shares = np.exp(scores - scores.max())
        return shares / shares.sum()

    first = probabilities(prompt)
    expected = {}
    for a in np.flatnonzero(first > 0.005):
        second = probabilities([*prompt, int(a)])
        expected |= {(int(a), int(b)): n * first[a] * second[b] for b in np.flatnonzero(second > 0)}
    counts: dict[tuple[int, ...], int] = {}
    for d in done:
        pair = tuple(d.token_ids[:2])
        counts[pair] = counts.get(pair, 0) + 1
    cells = {pair: count for pair, count in expected.items() if count >= 5}
    rest = n - sum(cells.values())
    chi = sum((counts.get(pair, 0) - count) ** 2 / count for pair, count in cells.items())
    chi += (n - sum(counts.get(pair, 0) for pair in cells) - rest) ** 2 / max(rest, 1)
    freedom = len(cells)
    assert freedom > 10
    bound = freedom * (1 - 2 / (9 * freedom) + 3.0902 * (2 / (9 * freedom)) ** 0.5) ** 3  # p 0.001 (Wilson, Hilferty)
    assert chi < bound


@settings(max_examples=30, deadline=None)
@given(data=st.data())
def test_any_proposals(cast: Cast, data: st.DataObject) -> None:
    """Prompts of few words, so that everything repeats, with any draft and any option."""
    words = data.draw(st.lists(st.integers(0, 255), min_size=1, max_size=4))
    prompts = data.draw(st.lists(st.lists(st.sampled_from(words), min_size=1, max_size=150), min_size=1, max_size=4))
    options = data.draw(st.sampled_from(OPTIONS))
    tokens = data.draw(st.one_of(st.just("auto"), st.integers(1, 32)))
    models = st.sampled_from([cast.same, cast.near, cast.strange])
    lookups = st.integers(1, 8).map(lambda n: fastlm.Lookup(n, tokens))
    draft = data.draw(st.one_of(lookups, models.map(lambda m: fastlm.Draft(m, tokens))))
    how = {"max_tokens": data.draw(st.integers(0, 60)), **options}
    expected = list(map(kept, cast.model.batch(prompts, **how)))
    assert list(map(kept, cast.model.batch(prompts, draft=draft, **how))) == expected


# ---- bad input ----------------------------------------------------------------------------------------------------


def test_drafts_that_are_none(cast: Cast, tmp_path: Path) -> None:
    model = cast.model
    with fastlm.load(cast.folder, threads=1) as elsewhere, pytest.raises(ParameterError, match="another context"):
        model.generate([1], draft=fastlm.Draft(elsewhere))
    with pytest.raises(StateError, match="draft: its model is closed"):
        model.generate([1], draft=fastlm.Draft(elsewhere))
    with pytest.raises(ParameterError, match="itself"):
        model.generate([1], draft=fastlm.Draft(model))
    words = add_byte_tokenizer(save_llama(tmp_path / "words", SHAPE), end=True)
    table = json.loads((words / "tokenizer.json").read_text())
    pieces = table["model"]["vocab"]
    a, b = sorted(pieces)[:2]
    pieces[a], pieces[b] = pieces[b], pieces[a]
    (words / "tokenizer.json").write_text(json.dumps(table))
    for folder, told in (
        (save_llama(tmp_path / "sizes", TINY), "99 tokens, and its target 257"),
        (words, "token 0 is not the same in both vocabularies"),
        (save_bert(tmp_path / "bert"), "no decoder"),
    ):
        with fastlm.load(folder, beside=model) as other:
            for call in (model.generate, model.stream, model.session().generate):
                with pytest.raises(ParameterError, match=told):
                    call([1], draft=fastlm.Draft(other))
    with pytest.raises(ParameterError, match="num_beams is 2, but draft"):
        model.generate([1], num_beams=2, draft=fastlm.Lookup())
    assert model.generate([1], max_tokens=3).finish_reason == "length"


def test_values_that_are_none(cast: Cast) -> None:
    for value in (True, "lookup", cast.same, 3, [fastlm.Lookup()]):
        with pytest.raises(ParameterError, match=r"fastlm\.Draft\(model\) or fastlm\.Lookup"):
            cast.model.generate([1], draft=value)
    for wrong in (0, 33, -1, 1.5, "many", True, None):
        with pytest.raises(ParameterError, match="draft: tokens"):
            fastlm.Lookup(tokens=wrong)
        with pytest.raises(ParameterError, match="draft: tokens"):
            fastlm.Draft(cast.same, wrong)
    for wrong in (0, 9, "3", None):
        with pytest.raises(ParameterError, match="draft: ngram"):
            fastlm.Lookup(wrong)
    for wrong in (None, "model", cast.same.engine):
        with pytest.raises(ParameterError, match="draft: model"):
            fastlm.Draft(wrong)


def test_a_draft_that_is_closed_meanwhile(cast: Cast) -> None:
    """What runs keeps it; later calls are refused; also where it is closed in the midst of a step, by the poll."""
    expected = cast.model.generate(PROMPTS[4], max_tokens=400, ignore_eos=True)
    for tokens in ("auto", 4):
        draft = fastlm.Draft(fastlm.load(cast.folder, beside=cast.model), tokens)
        stream = cast.model.stream(PROMPTS[4], max_tokens=400, ignore_eos=True, draft=draft)
        first = next(stream)
        draft.model.close()
        assert [t for c in (first, *stream) for t in c.token_ids] == expected.token_ids
        with pytest.raises(StateError, match="closed"):
            cast.model.generate([1], draft=draft)
    models = [fastlm.load(cast.folder, beside=cast.model) for _ in range(2)]
    others = [cast.model.stream(PROMPTS[5], max_tokens=300, draft=fastlm.Draft(m, 3)) for m in models]
    for other in others:
        next(other)

    def leave() -> None:
        for model in models:
            model.close()
        while others:
            others.pop().close()

    done = cast.model.generate(
        PROMPTS[4], max_tokens=400, ignore_eos=True, draft=fastlm.Draft(models[0], 2), cancel=Later(10**9, leave)
    )
    assert kept(done) == kept(expected)


def test_a_session_ends_where_its_text_does(tmp_path: Path) -> None:
    """Its tokens after a stop string are those of the text, whatever was written past it, so that it goes on alike."""
    folder = add_byte_tokenizer(save_llama(tmp_path / "one", SHAPE), end=True)
    path = folder / "tokenizer.json"
    pattern = {"type": "Replace", "pattern": {"Regex": "qq"}, "content": "q"}
    described = json.loads(path.read_text())
    described["decoder"] = {"type": "Sequence", "decoders": [described["decoder"], pattern]}
    path.write_text(json.dumps(described))
    stopped = 0
    with fastlm.load(folder, threads=2) as model, fastlm.load(folder, beside=model) as same:
        assert model.tokenizer is not None and not model.tokenizer.prints_by_table
        for seed in range(8):
            how: dict[str, Any] = {"max_tokens": 60, "temperature": 1.0, "seed": seed, "stop": ["e", "a", "\x85"]}
            found = []
            for draft in (None, fastlm.Draft(same, 6), fastlm.Lookup(1, 8)):
                for streams in (False, True):
                    with model.session() as session:
                        if streams:
                            chunks = list(session.stream(PROMPTS[4], draft=draft, **how))
                            ids, reason = [t for c in chunks for t in c.token_ids], chunks[-1].finish_reason
                        else:
                            done = session.generate(PROMPTS[4], draft=draft, **how)
                            ids, reason = done.token_ids, str(done.finish_reason)
                        assert session.tokens == PROMPTS[4] + ids
                        found.append((ids, reason, session.generate(PROMPTS[0], max_tokens=9).token_ids))
            assert all(each == found[0] for each in found)
            stopped += found[0][1] == "stop"
    assert stopped > 0
