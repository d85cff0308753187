"""What results and models look like, and what becomes of them when they are copied or pickled."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable, Iterator
from multiprocessing.reduction import ForkingPickler
from typing import Any

import numpy as np
import pytest
from models import add_byte_tokenizer, byte_shape, save_llama

import fastlm
from fastlm.errors import ParameterError
from fastlm.results import Completion, Timings, Usage

COPIES: dict[str, Callable[[Any], Any]] = {
    "pickle": lambda value: pickle.loads(pickle.dumps(value)),
    "old pickle": lambda value: pickle.loads(pickle.dumps(value, 2)),
    "deepcopy": copy.deepcopy,
    "copy": copy.copy,
    "pool": lambda value: pickle.loads(ForkingPickler.dumps(value)),
}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Iterator[fastlm.Model]:
    folder = add_byte_tokenizer(save_llama(tmp_path_factory.mktemp("model"), byte_shape()))
    with fastlm.load(folder, threads=1) as loaded:
        yield loaded


@pytest.mark.parametrize("how", COPIES)
def test_what_belongs_to_the_process(model: fastlm.Model, how: str) -> None:
    with model.session() as session:
        expected = session.generate([1, 2], max_tokens=3, ignore_eos=True).token_ids
        for value, words in (
            (model, "a Model cannot be"),
            (session, "a Session cannot be"),
            (model.generate, "a Model"),
        ):
            if how in ("copy", "deepcopy") and callable(value):
                continue  # a method is copied as it is
            for wrapped in (value, [value], {"a": (value,)}):
                if how == "copy" and wrapped is not value:
                    continue  # not what they hold
                with pytest.raises(ParameterError, match=words):
                    COPIES[how](wrapped)
        assert session.tokens == [1, 2, *expected] and len(session.generate([3], max_tokens=2).token_ids) <= 2
    assert model.generate([1, 2], max_tokens=3, ignore_eos=True).token_ids == expected


@pytest.mark.parametrize("how", COPIES)
def test_what_does_not(model: fastlm.Model, how: str) -> None:
    again = COPIES[how]
    done = model.generate([1, 2], max_tokens=3, n=2, temperature=1.0, logprobs=2)
    assert again(done) == done and again(done) is not done
    for chunk in model.stream("ab", max_tokens=3):
        assert again(chunk) == chunk
    outputs, copied = (f(model.forward([1, 2], attentions=True)) for f in (lambda x: x, again))
    assert np.array_equal(outputs.logits, copied.logits) and np.array_equal(outputs.attentions, copied.attentions)
    request = again(fastlm.Request("ab", max_tokens=3))
    assert (request.prompt, request.params) == ("ab", {"max_tokens": 3})
    assert again(model.tokenizer).encode("a b") == model.tokenizer.encode("a b")
    assert again(model.spec) == model.spec and again(model.config) == model.config
    error = again(ParameterError("a text"))
    assert type(error) is ParameterError and str(error) == "a text"


def completion(text: str, *others: Completion) -> Completion:
    return Completion(text, list(range(300)), "length", Usage(1, 300, 0), Timings(0.1, 0.2), 7, alternatives=others)


def test_a_completion_is_short() -> None:
    assert repr(completion("Hi\n")) == "<Completion 'Hi\\n': 300 tokens, length>"
    long = repr(completion("x" * 5000 + "end", completion("a")))
    assert len(long) < 120 and " ... " in long and "end" in long and "and 1 more" in long
    assert str(completion("a\nb")) == "a\nb"


def test_a_completion_in_a_notebook() -> None:
    shown = completion("a <b>\n  &", completion("second"))._repr_html_()
    assert "a &lt;b&gt;\n  &amp;" in shown and "second" in shown and "pre-wrap" in shown and "<b>" not in shown


def test_outputs_are_shapes(model: fastlm.Model) -> None:
    plain = model.forward([1, 2, 3])
    assert repr(plain) == "Outputs(logits=(3, 256), hidden=(3, 48))"
    whole = model.forward([1, 2, 3], attentions=True, hidden_states=True)
    assert repr(whole).endswith("attentions=2 x (4, 3, 3), hidden_states=3 x (3, 48))")


def test_models_and_tokenizers(model: fastlm.Model) -> None:
    assert repr(model.tokenizer) == "<fastlm.Tokenizer of 256 tokens>"
    for value in (model, model.session(), model.tokenizer):
        assert len(repr(value)) < 150 and "\n" not in repr(value)
