"""`cancel` ends a generation with finish_reason "cancelled", whatever part of the model is running."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from models import Shape, save_llama

import fastlm
from fastlm.results import Usage

GOLDEN = Path(__file__).parent / "golden"
LONG = 8000  # tokens that the small encoder reads for many times the 10 ms between two questions


class AfterFirst:
    """A flag that is set once it was asked `free` times."""

    def __init__(self, free: int = 1) -> None:
        self.asked = 0
        self._free = free

    def is_set(self) -> bool:
        self.asked += 1
        return self.asked > self._free


@pytest.fixture(scope="module")
def decoder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[fastlm.Model]:
    """Reads 500 tokens in some tenths of a second."""
    shape = Shape(hidden=512, layers=8, heads=8, width=1536)
    with fastlm.load(save_llama(tmp_path_factory.mktemp("slow"), shape), threads=1) as model:
        yield model


@pytest.fixture(scope="module")
def translator() -> Iterator[fastlm.Model]:
    with fastlm.load(GOLDEN / "t5", context=LONG) as model:
        yield model


def check_cancelled(done: fastlm.Completion, prompt_tokens: int) -> None:
    assert (done.finish_reason, done.token_ids, done.text) == ("cancelled", [], "")
    assert done.usage == Usage(prompt_tokens, 0, 0)


def test_a_flag_that_is_set_before(decoder: fastlm.Model, translator: fastlm.Model) -> None:
    flag = threading.Event()
    flag.set()
    for model in (decoder, translator):
        for n in (1, 3):
            done = model.generate([5, 6, 7], cancel=flag, n=n)
            assert len(done.alternatives) == n - 1
            for each in (done, *done.alternatives):
                check_cancelled(each, 3)
        (chunk,) = model.stream([5, 6, 7], cancel=flag, logprobs=1)
        assert chunk == fastlm.Chunk("", [], "cancelled", [])


def test_an_encoder_that_is_stopped(translator: fastlm.Model) -> None:
    flag = AfterFirst()
    check_cancelled(translator.generate([5] * LONG, cancel=flag), LONG)
    assert flag.asked == 2
    assert list(translator.stream([5] * LONG, cancel=AfterFirst())) == [fastlm.Chunk("", [], "cancelled")]
    done = translator.generate([5] * LONG, cancel=AfterFirst(), n=2, seed=7, temperature=1.0, logprobs=0)
    assert [each.seed for each in (done, *done.alternatives)] == [7, 8] and done.logprobs == []
    assert translator.generate([5, 6], max_tokens=2, ignore_eos=True).finish_reason == "length"


def test_a_shared_prompt_that_is_stopped(decoder: fastlm.Model) -> None:
    flag = AfterFirst()
    done = decoder.generate(list(range(3, 90)) * 5, cancel=flag, n=3, seed=2**64 - 1, temperature=1.0)
    assert flag.asked == 2
    assert [each.seed for each in (done, *done.alternatives)] == [2**64 - 1, 0, 1]
    for each in (done, *done.alternatives):
        check_cancelled(each, 87 * 5)


def test_every_flag_of_a_batch_is_heeded(decoder: fastlm.Model) -> None:
    """Also that of a request whose turn to be waited for has not come."""
    flags = [AfterFirst(1000), AfterFirst(3), threading.Event()]
    asked = [fastlm.Request([7, 8 + i], cancel=flag, max_tokens=60) for i, flag in enumerate(flags)]
    first, second, third = decoder.batch([*asked], ignore_eos=True)
    alone = decoder.batch([request.prompt for request in asked], ignore_eos=True, max_tokens=60)
    assert (first.token_ids, third.token_ids) == (alone[0].token_ids, alone[2].token_ids)
    assert second.finish_reason == "cancelled" and len(second.token_ids) < 60
    assert second.token_ids == alone[1].token_ids[: len(second.token_ids)]


def test_flags_that_fail(decoder: fastlm.Model) -> None:
    class Broken:
        def is_set(self) -> bool:
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        decoder.generate([3, 4], cancel=Broken())
    with pytest.raises(ZeroDivisionError):
        decoder.batch([[3, 4], fastlm.Request([5], cancel=Broken())])
    assert decoder.generate([3, 4], max_tokens=2, ignore_eos=True).finish_reason == "length"
