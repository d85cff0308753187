"""Every method that takes ids, on all three kinds of models: bad ids, shapes and lengths; arguments of other types."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from models import add_byte_tokenizer, byte_shape, save_llama
from refusals import refused

import fastlm
from fastlm.errors import ContextLengthError, ParameterError, StateError, UnsupportedError

GOLDEN = Path(__file__).with_name("golden")
LENGTH = 128  # context of the decoder
Kinds = dict[str, fastlm.Model]
Call = Callable[[Kinds, Any], object]


@pytest.fixture(scope="module")
def kinds(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kinds]:
    """96 tokens, but for the decoder, which has 256 and a tokenizer."""
    folder = save_llama(tmp_path_factory.mktemp("decoder"), replace(byte_shape(), context=LENGTH))
    decoder = fastlm.load(add_byte_tokenizer(folder), threads=2)
    with decoder, fastlm.load(GOLDEN / "bert") as encoder, fastlm.load(GOLDEN / "t5") as both:
        yield {"decoder": decoder, "encoder": encoder, "encoder-decoder": both}


IDS: dict[str, Call] = {
    "generate": lambda m, ids: m["decoder"].generate(ids),
    "several": lambda m, ids: m["decoder"].generate(ids, n=2),
    "echo": lambda m, ids: m["decoder"].generate(ids, echo=True),
    "nothing": lambda m, ids: m["decoder"].generate(ids, max_tokens=0),
    "stream": lambda m, ids: m["decoder"].stream(ids),
    "batch": lambda m, ids: m["decoder"].batch([[1], ids]),
    "session": lambda m, ids: m["decoder"].session().generate(ids),
    "session-stream": lambda m, ids: m["decoder"].session().stream(ids),
    "next_tokens": lambda m, ids: m["decoder"].next_tokens(ids),
    "loglikelihood": lambda m, ids: m["decoder"].loglikelihood(ids),
    "continuation": lambda m, ids: m["decoder"].loglikelihood([1, 2], continuation=ids),
    "perplexity": lambda m, ids: m["decoder"].perplexity(ids),
    "stop_token_ids": lambda m, ids: m["decoder"].generate([1], stop_token_ids=ids),
    "forward": lambda m, ids: m["decoder"].forward(ids),
    "encoder": lambda m, ids: m["encoder"].forward(ids),
    "token_type_ids": lambda m, ids: m["encoder"].forward([1, 2], token_type_ids=ids),
    "encoder ids": lambda m, ids: m["encoder-decoder"].forward(ids, decoder_ids=[0]),
    "decoder_ids": lambda m, ids: m["encoder-decoder"].forward([1], decoder_ids=ids),
    "translate": lambda m, ids: m["encoder-decoder"].generate(ids),
}
NAMES = {"encoder": "ids", "encoder ids": "ids", "forward": "ids", "loglikelihood": "text", "perplexity": "text"}
NAMES |= {name: name for name in ("continuation", "token_type_ids", "decoder_ids", "stop_token_ids")}
BAD: list[Any] = [-1, 256, 2**31 - 1, 2**31, 2**32, 2**63, -(2**63), 10**5000, 1.0, math.nan, "1", b"1", None, [1]]
BAD += [True, np.True_, np.float32(1), np.ones(2, np.int64), np.int64(-1), object()]


@pytest.mark.parametrize("call", IDS)
@pytest.mark.parametrize("bad", BAD, ids=[f"{i}-{type(bad).__name__}" for i, bad in enumerate(BAD)])
def test_bad_ids(kinds: Kinds, call: str, bad: Any) -> None:
    for ids in ([bad, 1], [1, bad], iter([1, bad])):
        with refused(ParameterError, NAMES.get(call, "prompt")):
            IDS[call](kinds, ids)


SHAPES: dict[str, Any] = {
    "two dimensions": np.ones((2, 2), np.int64),
    "one row": np.ones((1, 3), np.int64),
    "no dimension": np.array(3),
    "floats": np.ones(2),
    "bytes": b"\1\2",
    "bytearray": bytearray(2),
    "mapping": {1: 2},
    "number": 7,
    "object": object(),
    "nested": [[1, 2]],
    "texts": ["a", "b"],
}


@pytest.mark.parametrize("call", IDS)
@pytest.mark.parametrize("shape", SHAPES)
def test_what_is_no_list_of_ids(kinds: Kinds, call: str, shape: str) -> None:
    if call == "stop_token_ids" and shape == "number":
        return  # a single one may stand by itself
    with refused(ParameterError, NAMES.get(call, "prompt")):
        IDS[call](kinds, SHAPES[shape])


@pytest.mark.parametrize("call", [name for name in IDS if name not in ("stop_token_ids", "token_type_ids")])
def test_nothing_at_all(kinds: Kinds, call: str) -> None:
    for nothing in ([], (), np.zeros(0, np.int32), iter(())):
        with refused(ParameterError):
            IDS[call](kinds, nothing)
    if call not in ("continuation", "decoder_ids"):
        with refused(ParameterError):
            IDS[call](kinds, None)


def test_ids_of_every_integer_type(kinds: Kinds) -> None:
    expected = kinds["decoder"].forward([3, 4]).logits
    for ids in (np.array([3, 4], np.uint8), np.array([3, 4], np.int64), (np.int16(3), np.uint64(4)), range(3, 5)):
        found = kinds["decoder"].forward(ids).logits
        assert expected is not None and found is not None and (found == expected).all()


def test_token_types(kinds: Kinds) -> None:
    for types in ([0, 2], [-1, 0], [0], [0, 0, 0], []):
        with refused(ParameterError, "token_type_ids"):
            kinds["encoder"].forward([1, 2], token_type_ids=types)
    for name in ("decoder", "encoder-decoder"):
        with refused(ParameterError, "token_type_ids"):
            kinds[name].forward([1], decoder_ids=[0] if "-" in name else None, token_type_ids=[1])


def test_decoder_ids_where_there_are_none(kinds: Kinds) -> None:
    for name in ("decoder", "encoder"):
        with refused(ParameterError, "decoder_ids", name):
            kinds[name].forward([1], decoder_ids=[1])
    with refused(ParameterError, "decoder_ids"):
        kinds["encoder-decoder"].forward([1])


@pytest.mark.parametrize("method", ["generate", "stream", "next_tokens", "loglikelihood", "perplexity"])
def test_what_an_encoder_cannot_do(kinds: Kinds, method: str) -> None:
    with refused(UnsupportedError):
        getattr(kinds["encoder"], method)([1, 2])
    with refused(UnsupportedError, "encoder"):
        kinds["encoder"].session().generate([1])


@pytest.mark.parametrize("wrong", [0, -1, 2**70, 1.5, "5", True, math.nan])
def test_small_integers(kinds: Kinds, wrong: Any) -> None:
    model = kinds["decoder"]
    calls: dict[str, Callable[[], object]] = {
        "k": lambda: model.next_tokens([1], k=wrong),
        "window": lambda: model.perplexity([1] * 9, window=wrong),
        "stride": lambda: model.perplexity([1] * 9, window=5, stride=wrong),
    }
    if wrong != 0:
        calls["n"] = lambda: model.session().rewind(wrong)
    for name, call in calls.items():
        with refused(ParameterError, name):
            call()


# ---- lengths -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("short", [1, 0, -1])
def test_the_context_is_filled_to_its_end(kinds: Kinds, short: int) -> None:
    """At the limit a prompt has no answer, one below it a single token; above it is an error, and nothing shifts."""
    model, ids = kinds["decoder"], [1] * (LENGTH - short)
    calls: list[Callable[[], list[Any]]] = [
        lambda: [model.generate(ids)],
        lambda: [*model.generate(ids, n=2).alternatives],
        lambda: list(model.stream(ids)),
        lambda: [model.session().generate(ids)],
    ]
    for call in calls:
        if short < 0:
            with refused(ContextLengthError, "tokens", f"context of {LENGTH}"):
                call()
            continue
        written = call()
        assert all(part.usage.prompt_tokens == len(ids) for part in written if hasattr(part, "usage"))
        assert written[-1].finish_reason == "length"
        assert sum(len(part.token_ids) for part in written) == short


def test_a_session_at_its_end(kinds: Kinds) -> None:
    session = kinds["decoder"].session()
    session.generate([1] * LENGTH)
    again = session.generate([], max_tokens=5)
    assert (again.finish_reason, again.token_ids, len(session)) == ("length", [], LENGTH)
    with refused(ContextLengthError, str(LENGTH)):
        session.generate([1])
    session.rewind(3)
    assert len(session.generate([1], max_tokens=9).token_ids) == 2


def test_outputs_of_absurd_size(kinds: Kinds) -> None:
    """Lengths are checked before room is made: these attentions would take terabytes."""
    ids = [1] * 200_000
    with refused(ContextLengthError, "200000", "context"):
        kinds["decoder"].forward(ids, attentions=True, hidden_states=True)
    with refused(ContextLengthError, "200000", "context"):
        kinds["encoder-decoder"].forward([1], decoder_ids=ids, attentions=True)
    with refused(ContextLengthError, "200000", "context"):
        kinds["encoder-decoder"].forward(ids, decoder_ids=[0])


def test_modest_prompts_with_huge_parameters(kinds: Kinds) -> None:
    model, most = kinds["decoder"], 2**32 - 1
    assert len(model.generate([1], max_tokens=most, logprobs=256).token_ids) == LENGTH - 1
    assert model.generate([1, 2], n=64, max_tokens=most, min_tokens=most).finish_reason == "length"
    assert len(model.generate([1], no_repeat_ngram_size=most, max_tokens=3).token_ids) == 3
    assert len(model.generate([1], top_k=most, temperature=1e6, max_tokens=3).token_ids) == 3
    assert model.generate([1], stop=[f"{i}\0" for i in range(10_000)], max_tokens=3).text
    extremes = {i: (-1e9 if i % 2 else 1e9) for i in range(256)}
    ids = model.generate([1], logit_bias=extremes, temperature=1e-30, max_tokens=9).token_ids
    assert len(ids) == 9 and not any(i % 2 for i in ids)


# ---- arguments of other types --------------------------------------------------------------------------------------


def test_lists_of_prompts(kinds: Kinds) -> None:
    model = kinds["decoder"]
    assert model.batch([]) == []
    for prompts in ("text", b"bytes", None, 5, {1: 2}, np.array(1)):
        with refused(ParameterError, "prompts"):
            model.batch(prompts)  # type: ignore[arg-type]
    with refused(ParameterError, "n"):
        model.stream([1], n=2)


def test_empty_continuations(kinds: Kinds) -> None:
    model = kinds["decoder"]
    for nothing in ("", [], ()):
        with refused(ParameterError, "continuation", "empty"):
            model.loglikelihood("text", continuation=nothing)
    for method in (model.loglikelihood, model.perplexity):
        with refused(ParameterError, "one token"):
            method([1])


def test_texts_with_half_a_surrogate_pair(kinds: Kinds) -> None:
    for call in ("generate", "session", "loglikelihood", "continuation", "perplexity", "next_tokens"):
        with refused(ParameterError, "surrogate"):
            IDS[call](kinds, "a\udc00")
    with refused(ParameterError, "stop", "surrogate"):
        kinds["decoder"].generate([1], stop=["a\ud800"])


def test_an_iterator_is_echoed(kinds: Kinds) -> None:
    """It can be read once only."""
    model, ids = kinds["decoder"], [65, 66]
    for echo in (model.generate(iter(ids), echo=True), model.session().generate(iter(ids), echo=True)):
        assert echo.text.startswith(model.tokenizer.decode(ids)) and echo.usage.prompt_tokens == 2


def test_prompts_that_other_calls_take(kinds: Kinds) -> None:
    model = kinds["decoder"]
    messages = [{"role": "user", "content": "hello"}]
    for call in (model.generate, model.stream, lambda prompt: model.generate(fastlm.Request(prompt))):
        with refused(ParameterError, "prompt", "batch()"):
            call(["a", "b"])
        with refused(ParameterError, "prompt", "chat()", "stream()", "chat_prompt(messages)"):
            call(messages)
    with refused(ParameterError, "stream()", "stream(chat_prompt(messages))"):
        model.generate("a", stream=True)
    with refused(ParameterError, "prompts[1]", "batch()"):
        model.batch(["a", ["b", "c"]])


def test_values_of_generation_config(tmp_path: Path) -> None:
    folder = save_llama(tmp_path)
    for name, value in {"top_k": -1, "temperature": -0.5, "repetition_penalty": math.nan, "top_p": 3}.items():
        (folder / "generation_config.json").write_text(json.dumps({"do_sample": True, name: value}))
        with fastlm.load(folder) as model:
            with refused(ParameterError, "generation_config.json", name):
                model.generate([1])
            assert model.generate([1], **{name: 1.0 if name != "top_k" else 1}, max_tokens=1).token_ids


def test_conversations(kinds: Kinds, tmp_path: Path) -> None:
    good = [{"role": "user", "content": "hello"}]
    with refused(UnsupportedError, "template"):
        kinds["decoder"].chat(good)
    (tmp_path / "chat_template.jinja").write_text("{% for m in messages %}{{ m.content }}{% endfor %}")
    with fastlm.load(add_byte_tokenizer(save_llama(tmp_path, byte_shape()))) as model:
        assert model.chat(good, max_tokens=2).usage.prompt_tokens == 5
        for bad in ("hello", b"", None, 5, [], [5], [{}], {"role": "user"}, [None]):
            with refused(ParameterError, "messages"):
                model.chat(bad)  # type: ignore[arg-type]
        with refused(ParameterError, "template_kwargs"):
            model.chat(good, template_kwargs=5)  # type: ignore[arg-type]
        with refused(ParameterError, "empty"):
            model.chat([{"role": "user", "content": ""}])


def test_closed(tmp_path: Path) -> None:
    model = fastlm.load(save_llama(tmp_path))
    session = model.session()
    model.close()
    for call in (lambda: session.stream([1]), lambda: session.rewind(0), lambda: len(session), lambda: session.tokens):
        with refused(StateError, "closed"):
            call()
    session.close()
    session.close()
