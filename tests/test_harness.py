"""Models of fastlm in lm-evaluation-harness, where that is installed (extra eval)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from models import add_byte_tokenizer, byte_shape, save_llama

from fastlm.errors import ParameterError

Instance = pytest.importorskip("lm_eval.api.instance").Instance
FastLM = pytest.importorskip("fastlm.harness").FastLM
get_model = pytest.importorskip("lm_eval.api.registry").get_model

TEXTS = ["Once upon a time", "there was", " a dog", "The sun is hot, and", " so is the sand."]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return add_byte_tokenizer(save_llama(tmp_path_factory.mktemp("model"), byte_shape(end=True)), end=True)


@pytest.fixture(scope="module")
def lm(folder: Path) -> Iterator[Any]:
    found = get_model("fastlm").create_from_arg_string(
        f"pretrained={folder},dtype=float32,threads=2", {"batch_size": 1}
    )
    yield found
    found.model.close()


def asked(kind: str, *args: Any) -> Any:
    return Instance(request_type=kind, doc={}, arguments=args, idx=0)


def test_loglikelihood(lm: Any) -> None:
    pairs = [(a, b) for a in TEXTS for b in TEXTS] + [("", text) for text in TEXTS] + [("ends in a space ", "word")]
    found = lm.loglikelihood([asked("loglikelihood", *pair) for pair in pairs], disable_tqdm=True)
    for (context, continuation), (value, greedy) in zip(pairs, found, strict=True):
        before = lm.tok_encode(context) if context else [lm.prefix_token_id]
        whole = lm.tok_encode(context + continuation) if context else before + lm.tok_encode(continuation, False)
        at = len(lm.tok_encode(context.rstrip())) if context else 1
        assert value == pytest.approx(lm.model.loglikelihood(whole[:at], continuation=whole[at:]), rel=1e-9)
        logits = lm.model.forward(whole[:-1]).logits
        assert greedy == (logits[at - 1 :].argmax(axis=1) == whole[at:]).all()


def test_long_texts_are_scored_in_windows(lm: Any) -> None:
    text = " ".join(TEXTS * 18)
    assert len(lm.tok_encode(text)) > 2 * lm.max_length
    (found,) = lm.loglikelihood_rolling([asked("loglikelihood_rolling", text)], disable_tqdm=True)
    ids, expected, at = [lm.prefix_token_id, *lm.tok_encode(text)], 0.0, 0
    while at < len(ids) - 1:  # each token once, with as much before it as fits
        end = min(at + lm.max_length, len(ids) - 1)
        window = ids[max(0, end - lm.max_length) : end + 1]
        x = lm.model.forward(window[:-1]).logits[at - end :].astype(np.float64)
        chosen = x[np.arange(end - at), window[at - end :]]
        expected += float((chosen - np.log(np.exp(x).sum(axis=1))).sum())
        at = end
    assert found == pytest.approx(expected, rel=1e-7)


def test_texts_end_before_stops(lm: Any) -> None:
    plain = lm.generate_until([asked("generate_until", TEXTS[0], {"max_gen_toks": 20})], disable_tqdm=True)[0]
    assert plain == lm.model.generate(TEXTS[0], max_tokens=20, temperature=0).text
    stop = plain[5:7]
    options = {"until": [stop], "max_gen_toks": 20}
    (cut,) = lm.generate_until([asked("generate_until", TEXTS[0], options)], disable_tqdm=True)
    assert cut == plain.partition(stop)[0]


def test_refusals(folder: Path, lm: Any) -> None:
    assert get_model("fastlm") is FastLM
    with pytest.raises(ParameterError, match="model_args: unknown revision"):
        FastLM(str(folder), revision="main")
    with pytest.raises(ParameterError, match=f"leave nothing of a context of {lm.max_length}"):
        options = {"max_gen_toks": lm.max_length}
        lm.generate_until([asked("generate_until", "a", options)], disable_tqdm=True)
