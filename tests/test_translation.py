"""Encoder-decoders: several texts of one source, and labels by a head that reads what the decoder makes of it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import tokenizers
from tokenizers import models, pre_tokenizers, processors

import fastlm
from fastlm.errors import ParameterError, UnsupportedError

GOLDEN = Path(__file__).parent / "golden"
SENTENCE = "the animal street was too tired this example is capital of france ."
WORDS = ["<s>", "<pad>", "</s>", "<unk>", *SENTENCE.split()]
SOURCE = [5, 17, 42, 8, 1]


@pytest.fixture(scope="module")
def model() -> Iterator[fastlm.Model]:
    with fastlm.load(GOLDEN / "t5") as loaded:
        yield loaded


def tokens_run(model: fastlm.Model) -> int:
    count = model.engine.context.counters()["tokens"]
    assert isinstance(count, int)
    return count


@pytest.mark.parametrize("n", [1, 3])
def test_a_source_is_encoded_once(model: fastlm.Model, n: int) -> None:
    before = tokens_run(model)
    done = model.generate(SOURCE, n=n, max_tokens=1, ignore_eos=True)
    assert len(done.alternatives) == n - 1
    assert tokens_run(model) - before == len(SOURCE) + n


def test_texts_of_one_source_are_those_of_separate_calls(model: fastlm.Model) -> None:
    params = {"max_tokens": 12, "temperature": 1.0, "ignore_eos": True}
    done = model.generate(SOURCE, n=3, seed=7, **params)
    texts = [done, *done.alternatives]
    assert len({tuple(text.token_ids) for text in texts}) > 1, "the seeds must tell"
    for i, text in enumerate(texts):
        alone = model.generate(SOURCE, seed=7 + i, **params)
        assert (text.token_ids, text.seed, text.usage) == (alone.token_ids, alone.seed, alone.usage)


@pytest.fixture
def nli(tmp_path: Path) -> Iterator[fastlm.Model]:
    """A BART that tells whether a text follows from another, with a tokenizer of words."""
    folder = tmp_path / "nli"
    shutil.copytree(GOLDEN / "bart_classes", folder)
    library = tokenizers.Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="<unk>"))
    library.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    library.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> </s> $B </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    library.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "PreTrainedTokenizerFast"}))
    with fastlm.load(folder, dtype="float32") as loaded:
        yield loaded


def test_labels(nli: fastlm.Model) -> None:
    assert nli.tasks == ("classify",) and nli.kind == "encoder-decoder"
    texts = ["the animal was too tired", ("the street", "france is the capital"), "street"]
    found = nli.classify(texts)
    for text, labels in zip(texts, found, strict=True):
        (reading,) = nli.tokenizer.read([(text,) if isinstance(text, str) else text])  # type: ignore[union-attr]
        logits = nli.forward(reading.ids).logits
        assert logits is not None and logits.shape == (1, 3)
        given = nli.forward(reading.ids, decoder_ids=[2, *reading.ids[:-1]]).logits
        assert given is not None and np.array_equal(given, logits)
        p = np.exp(logits[0] - logits[0].max())
        scores = dict(zip(("contradiction", "neutral", "entailment"), p / p.sum(), strict=True))
        assert {label.label: pytest.approx(label.score, abs=1e-5) for label in labels} == scores
    assert found == [nli.classify([text])[0] for text in texts], "alone and together"
    with pytest.raises(UnsupportedError, match="can classify"):
        nli.generate("the animal")


def test_zero_shot(nli: fastlm.Model) -> None:
    (found,) = nli.classify(["the animal was too tired"], labels=["street", "france"])
    pairs = [("the animal was too tired", f"This example is {label.label}.") for label in found]
    readings = nli.tokenizer.read(pairs)  # type: ignore[union-attr]
    logits = [nli.forward(reading.ids).logits[0, 2] for reading in readings]  # type: ignore[index]
    p = np.exp(np.array(logits) - max(logits))
    assert [label.score for label in found] == pytest.approx((p / p.sum()).tolist(), abs=1e-5)
    assert found[0].score > found[1].score


def test_ids_are_those_of_the_stack_that_reads_them() -> None:
    """The encoder knows 90 tokens, the decoder 101."""
    with fastlm.load(GOLDEN / "marian_two") as two:
        assert two.vocab == 101
        assert two.forward([89, 3], decoder_ids=[89, 100]).logits.shape == (2, 101)  # type: ignore[union-attr]
        with pytest.raises(ParameterError, match=r"token id 90 is outside of the vocabulary of 90"):
            two.forward([90], decoder_ids=[89])
        with pytest.raises(ParameterError, match=r"token id 90 is outside of the vocabulary of 90"):
            two.generate([90])
        with pytest.raises(ParameterError, match=r"token id 101 is outside of the vocabulary of 101"):
            two.forward([3], decoder_ids=[101])


def test_sources_of_a_batch_are_encoded_together(model: fastlm.Model) -> None:
    """One step of the encoder, one of the decoder, whatever their lengths."""
    sources = [SOURCE[: 1 + i % 5] * (1 + i) for i in range(8)]
    before = model.engine.context.counters()["forwards"]
    together = model.batch(sources, max_tokens=1, ignore_eos=True)
    assert model.engine.context.counters()["forwards"] == before + 2
    assert [done.token_ids for done in together] == [
        model.generate(ids, max_tokens=1, ignore_eos=True).token_ids for ids in sources
    ]


def test_translations_of_several_threads(model: fastlm.Model) -> None:
    sources = [[3 + (7 * i + k) % 90 for k in range(1 + i)] for i in range(24)]
    params = {"max_tokens": 8, "num_beams": 3, "ignore_eos": True}
    expected = [(done.token_ids, done.score) for done in model.batch(sources, **params)]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda ids: model.generate(ids, **params), sources))
    assert [(done.token_ids, done.score) for done in found] == expected
