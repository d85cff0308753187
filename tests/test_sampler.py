"""The sampler against NumPy definitions of transformers' logits processors and warpers, written with full sorts."""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np
import pytest
from core_structs import ISAS, Error, Logprob, sampler_library, sampling, usable_isas
from numpy.typing import NDArray
from support import BuildC

Floats = NDArray[np.float64]
ARGUMENT, NUMERIC = 10, 70


@pytest.fixture(scope="module")
def library(build_c: BuildC) -> ctypes.CDLL:
    return sampler_library(build_c)


@pytest.fixture(params=ISAS)
def isa(request: pytest.FixtureRequest, library: ctypes.CDLL) -> bytes:
    usable = usable_isas(library)
    if request.param not in usable:
        pytest.skip(f"this processor runs {usable}")
    return str(request.param).encode()


# ---- definitions ----


def softmax(x: Floats) -> Floats:
    e = np.exp(x - x.max())
    return np.asarray(e / e.sum())


def survivors(x: Floats, *, top_k: int = 0, top_p: float = 1.0, min_p: float = 0.0, typical_p: float = 1.0) -> Floats:
    """Probabilities after the filters of a row of scores."""
    x = x.astype(np.float64).copy()
    if 0 < top_k < len(x):
        x[x < np.sort(x)[-top_k]] = -np.inf
    if top_p < 1:
        order = np.argsort(x, kind="stable")  # of equals the higher id goes first: stable on the reversed row
        order = len(x) - 1 - np.argsort(x[::-1], kind="stable")
        below = np.cumsum(softmax(x)[order])
        gone = order[below <= 1 - top_p]
        x[gone[gone != order[-1]]] = -np.inf
    if min_p > 0:
        p = softmax(x)
        x[p < min_p * p.max()] = -np.inf
    if typical_p < 1:
        p = softmax(x)
        with np.errstate(divide="ignore", invalid="ignore"):
            log_p = np.log(p)
            distance = np.abs(-log_p + np.nansum(log_p * p))
        order = np.argsort(distance, kind="stable")
        last = min(int((np.cumsum(p[order]) < typical_p).sum()), len(x) - 1)
        x[distance > distance[order[last]]] = -np.inf
    return softmax(x)


def processed(logits: Floats, tokens: list[int], n_prompt: int, eos: int, o: dict[str, Any]) -> Floats:
    """Scores after everything that changes logits."""
    x = logits.astype(np.float64).copy()
    for token, value in o.get("biases", []):
        x[token] += value
    for token in set(tokens):
        penalty = o.get("repetition_penalty", 1.0)
        x[token] = x[token] * penalty if x[token] < 0 else x[token] / penalty
    for token in set(tokens[n_prompt:]):
        x[token] -= o.get("presence_penalty", 0.0) + o.get("frequency_penalty", 0.0) * tokens[n_prompt:].count(token)
    n = o.get("no_repeat_ngram_size", 0)
    if n and len(tokens) + 1 >= n:
        last = tokens[len(tokens) - n + 1 :]
        for i in range(len(tokens) - n + 1):
            if tokens[i : i + n - 1] == last:
                x[tokens[i + n - 1]] = -np.inf
    if len(tokens) - n_prompt < o.get("min_tokens", 0):
        x[o.get("stop_tokens", [])] = -np.inf
        if not o.get("ignore_eos"):
            x[eos] = -np.inf
    return x


# ---- the library ----


def choose(
    library: ctypes.CDLL, isa: bytes, logits: NDArray[np.float32], tokens: list[int], n_prompt: int, **options: Any
) -> tuple[int, int, NDArray[np.float32], list[tuple[int, float]], str]:
    s, error, token = sampling(library, **options), Error(), ctypes.c_int32()
    scores = np.empty_like(logits)
    row = np.asarray(tokens, np.int32)
    k = max(options.get("logprobs", -1), 0) + 1
    logprobs = (Logprob * k)()
    status = library.unit_choose(
        ctypes.byref(s),
        isa,
        len(logits),
        2,
        row.ctypes.data_as(ctypes.c_void_p),
        ctypes.c_size_t(n_prompt),
        ctypes.c_size_t(len(tokens)),
        logits.ctypes.data_as(ctypes.c_void_p),
        scores.ctypes.data_as(ctypes.c_void_p),
        ctypes.byref(token),
        logprobs,
        ctypes.byref(error),
    )
    return status, token.value, scores, [(p.token, p.logprob) for p in logprobs], error.text.decode()


def measure(
    library: ctypes.CDLL, isa: bytes, scores: NDArray[np.float32], n: int, **options: Any
) -> NDArray[np.uint32]:
    s, error = sampling(library, temperature=1.0, **options), Error()
    counts = np.zeros(len(scores), np.uint32)
    data = scores.ctypes.data_as(ctypes.c_void_p)
    status = library.unit_measure(
        ctypes.byref(s), isa, len(scores), data, n, counts.ctypes.data_as(ctypes.c_void_p), ctypes.byref(error)
    )
    assert status == 0, error.text
    return counts


# ---- tests ----


@pytest.mark.parametrize("seed", range(40))
def test_processed_scores(library: ctypes.CDLL, isa: bytes, seed: int) -> None:
    rng = np.random.default_rng(seed)
    vocab = int(rng.integers(5, 70))
    tokens = rng.integers(0, min(vocab, 9), int(rng.integers(1, 60))).tolist()
    n_prompt = int(rng.integers(0, len(tokens) + 1))
    logits = rng.normal(0, 3, vocab).astype(np.float32)
    o: dict[str, Any] = {
        "biases": [(int(t), float(rng.normal())) for t in rng.integers(0, vocab, 3)] + [(vocab - 1, -np.inf)],
        "repetition_penalty": float(rng.choice([1.0, 0.7, 1.3])),
        "presence_penalty": float(rng.choice([0.0, 0.6])),
        "frequency_penalty": float(rng.choice([0.0, 0.3])),
        "no_repeat_ngram_size": int(rng.integers(0, 5)),
        "min_tokens": int(rng.choice([0, 1000])),
        "stop_tokens": [1, 3],
        "ignore_eos": int(rng.integers(0, 2)),
    }
    expected = processed(logits.astype(np.float64), tokens, n_prompt, 2, o)
    status, token, scores, _, text = choose(library, isa, logits, tokens, n_prompt, **o)
    if np.isneginf(expected).all():
        assert status == NUMERIC and "no token" in text
        return
    assert status == 0
    assert np.array_equal(np.isneginf(scores), np.isneginf(expected))
    finite = np.isfinite(expected)
    np.testing.assert_allclose(scores[finite], expected[finite], rtol=1e-6, atol=1e-6)
    assert token == int(np.argmax(scores))


FILTERS: list[dict[str, Any]] = [
    {},
    {"top_k": 5},
    {"top_p": 0.8},
    {"top_p": 0.0},
    {"top_p": 0.999},
    {"min_p": 0.1},
    {"min_p": 1.0},
    {"typical_p": 0.7},
    {"typical_p": 0.0},
    {"top_k": 20, "top_p": 0.9},
    {"top_k": 3, "min_p": 0.2},
    {"top_p": 0.95, "min_p": 0.05, "typical_p": 0.9, "top_k": 40},
    {"top_k": 1},
    {"top_k": 10**6},
]


@pytest.mark.parametrize("options", FILTERS, ids=str)
@pytest.mark.parametrize("vocab", [1, 2, 37, 512, 1601])
@pytest.mark.parametrize("spread", [0.3, 3.0, 30.0])
def test_distribution(library: ctypes.CDLL, isa: bytes, options: dict[str, Any], vocab: int, spread: float) -> None:
    rng = np.random.default_rng(vocab)
    scores = rng.normal(0, spread, vocab).astype(np.float32)
    if vocab > 100:
        scores[rng.random(vocab) < 0.3] = -np.inf
        scores[512:1024] = -np.inf  # a whole block ruled out
    n = 5_000
    p = survivors(scores.astype(np.float64), **options)
    counts = measure(library, isa, scores, n, **options)
    # every token owns one interval of [0, 1): it catches its share of evenly spread numbers but for its two ends
    assert np.abs(counts - p * n).max() <= 1.5
    assert not counts[p == 0].any()


def test_ties(library: ctypes.CDLL, isa: bytes) -> None:
    flat = np.zeros(10, np.float32)
    assert (measure(library, isa, flat, 1000, top_k=3) == 100).all()  # all tie with the third
    assert np.flatnonzero(measure(library, isa, flat, 1000, top_p=0.35)).tolist() == [0, 1, 2, 3]
    assert (measure(library, isa, flat, 1000, typical_p=0.2) == 100).all()
    assert (measure(library, isa, flat, 1000, min_p=1.0) == 100).all()
    assert (measure(library, isa, flat, 1000) == 100).all()
    status, token, _, logprobs, _ = choose(library, isa, flat, [0], 1, logprobs=4)
    assert (status, token, [t for t, _ in logprobs]) == (0, 0, [0, 0, 1, 2, 3])


def test_logprobs_ignore_penalties(library: ctypes.CDLL, isa: bytes) -> None:
    rng = np.random.default_rng(5)
    logits = rng.normal(0, 3, 1000).astype(np.float32)
    log_p = np.log(softmax(logits.astype(np.float64)))
    for k in (0, 1, 7, 1000):
        _, token, _, logprobs, _ = choose(library, isa, logits, [1, 2], 1, logprobs=k, biases=[(77, 50.0)])
        assert token == 77
        assert [t for t, _ in logprobs] == [77, *np.argsort(-log_p)[:k].tolist()]
        np.testing.assert_allclose([p for _, p in logprobs], log_p[[t for t, _ in logprobs]], rtol=1e-5, atol=1e-5)


def test_seeds(library: ctypes.CDLL, isa: bytes) -> None:
    logits = np.zeros(1000, np.float32)

    def draw(seed: int, written: int) -> int:
        return choose(library, isa, logits, [1] * (3 + written), 3, temperature=1.0, seed=seed)[1]

    assert draw(1, 0) == draw(1, 0)
    draws = np.array([draw(seed, written) for seed in range(40) for written in range(40)])
    assert len(set(draws)) > 700  # of 1600 draws from 1000: 798 expected
    assert abs(draws.mean() - 499.5) < 40 and abs(draws.std() - 288.7) < 20


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_not_finite(library: ctypes.CDLL, isa: bytes, value: float) -> None:
    for position in range(67):
        logits = np.zeros(67, np.float32)
        logits[position] = value
        for temperature in (0.0, 1.0):
            assert choose(library, isa, logits, [0], 1, temperature=temperature)[0] == NUMERIC
    for vocab in (1, 40):
        banned = [(t, -np.inf) for t in range(vocab)]
        assert choose(library, isa, np.zeros(vocab, np.float32), [0], 1, biases=banned, temperature=1.0)[0] == NUMERIC


def test_extreme_scores(library: ctypes.CDLL, isa: bytes) -> None:
    logits = np.array([3e38, -3e38, 1.0, 2.9e38], np.float32)
    for temperature in (0.0, 1e-20, 1e-3, 1.0, 1e6):
        status, token, *_ = choose(library, isa, logits, [0], 1, temperature=temperature)
        assert (status, token) == (0, 0)
    lone = [(t, -np.inf) for t in range(4) if t != 2]
    assert choose(library, isa, np.zeros(4, np.float32), [0], 1, biases=lone, temperature=1.0)[1] == 2


@pytest.mark.parametrize(
    ("options", "culprit"),
    [
        ({"temperature": -1.0}, "temperature"),
        ({"temperature": np.nan}, "temperature"),
        ({"top_p": 1.5}, "top_p"),
        ({"min_p": -0.1}, "min_p"),
        ({"typical_p": np.inf}, "typical_p"),
        ({"repetition_penalty": 0.0}, "repetition_penalty"),
        ({"presence_penalty": np.inf}, "presence_penalty"),
        ({"frequency_penalty": np.nan}, "frequency_penalty"),
        ({"logprobs": -2}, "logprobs"),
        ({"logprobs": 9}, "logprobs"),
        ({"biases": [(0, 1.0), (8, 1.0)]}, "biases[1]"),
        ({"biases": [(-1, 1.0)]}, "biases[0]"),
        ({"biases": [(1, np.inf)]}, "bias"),
        ({"biases": [(1, np.nan)]}, "bias"),
        ({"stop_tokens": [7, 2**31 - 1]}, "stop_tokens[1]"),
    ],
    ids=str,
)
def test_bad_options(library: ctypes.CDLL, options: dict[str, Any], culprit: str) -> None:
    status, *_, text = choose(library, b"scalar", np.zeros(8, np.float32), [0], 1, **options)
    assert status == ARGUMENT and culprit in text
