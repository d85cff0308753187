"""Quantised models: how many bits they store, what they lose, and that a .flm file of them is the same model."""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from models import byte_shape, save_llama
from random_models import create, exotic_spec, llama_spec
from support import ROOT

import fastlm
from fastlm import _core
from fastlm.errors import FastlmError
from fastlm.saving import save

CORPUS = ROOT.parent / "shared" / "corpus" / "tinystories.txt"


@dataclass(frozen=True, slots=True)
class Budget:
    """What a format may cost."""

    bits: float  # stored per weight, over all matrices
    loss: float  # of perplexity, relative to float32


BUDGETS = {"int8": Budget(8.6, 0.001), "int4": Budget(5.0, 0.09)}
SHAPES = {
    "2048 wide": llama_spec(2048, 22, 32, 4, 5632, 32000, tied=False),
    "576 wide": llama_spec(576, 30, 9, 3, 1536, 49152, tied=True),
    "288 wide": llama_spec(288, 6, 6, 6, 768, 32000, tied=True),
}


def stored_bits(model: _core.Model) -> float:
    matrices = [t for t in model.tensors() if t.is_matrix]
    return sum(8 * t.bytes for t in matrices) / sum(t.rows * t.cols for t in matrices)


@pytest.mark.parametrize("dtype", BUDGETS)
@pytest.mark.parametrize("shape", SHAPES)
def test_stored_bits(shape: str, dtype: str) -> None:
    model = create(_core.Context(1), SHAPES[shape], dtype)
    bits = stored_bits(model)
    assert int(dtype[3:]) < bits <= BUDGETS[dtype].bits


def held_out() -> list[str]:
    """The last 5 % of the corpus' documents."""
    if not CORPUS.is_file():
        pytest.skip("../shared/corpus is not here")
    documents = [text.strip() for text in CORPUS.read_text(encoding="utf-8").split("<|endoftext|>")]
    documents = [text for text in documents if text]
    return documents[-(len(documents) // 20) :]


def perplexity(folder: Path, dtype: str, texts: list[str]) -> float:
    """Of all tokens of the texts, each read by itself."""
    with fastlm.load(folder, dtype=dtype, threads=1) as model:
        assert model.tokenizer is not None
        if dtype in BUDGETS:
            assert stored_bits(model.engine.core) <= BUDGETS[dtype].bits
        total = scored = 0.0
        for text in texts:
            ids = model.tokenizer.encode(text)
            total += (len(ids) - 1) * math.log(model.perplexity(ids))
            scored += len(ids) - 1
    return math.exp(total / scored)


def test_perplexity(stories260k: Path) -> None:
    texts = held_out()
    assert len(texts) > 50
    exact = perplexity(stories260k, "float32", texts)
    assert 3 < exact < 6
    for dtype, budget in BUDGETS.items():
        loss = perplexity(stories260k, dtype, texts) / exact - 1
        assert abs(loss) <= budget.loss, f"{dtype}: {100 * loss:.2f} % of a perplexity of {exact:.3f}"


# ---- .flm files ----


IDS = list(range(40, 140))


@pytest.fixture(params=BUDGETS)
def converted(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Path, Path, str]:
    """A folder, the same model as a .flm file of quantised matrices, and the matrices' type."""
    folder = save_llama(tmp_path / "folder", byte_shape())
    with fastlm.load(folder, dtype=request.param, threads=1) as model:
        save(model, tmp_path / "model.flm")
    return folder, tmp_path / "model.flm", request.param


def test_a_converted_model_is_the_same(converted: tuple[Path, Path, str]) -> None:
    folder, path, dtype = converted
    for kv_dtype in ("auto", "float32", "bfloat16"):
        with (
            fastlm.load(folder, dtype=dtype, kv_dtype=kv_dtype, threads=1) as loaded,
            fastlm.load(path, kv_dtype=kv_dtype, threads=2) as mapped,
        ):
            assert [tuple(t) for t in mapped.engine.core.tensors()] == [tuple(t) for t in loaded.engine.core.tensors()]
            assert {t.format for t in mapped.engine.core.tensors() if t.is_matrix} == {dtype}
            assert np.array_equal(mapped.forward(IDS).logits, loaded.forward(IDS).logits)
            assert mapped.generate(IDS, max_tokens=30).token_ids == loaded.generate(IDS, max_tokens=30).token_ids


def test_damaged_weights_are_safe(converted: tuple[Path, Path, str]) -> None:
    """Any bytes are some weights: a damaged payload gives wrong numbers, or an error that says so."""
    _, path, _ = converted
    content = path.read_bytes()
    (n_sections,) = struct.unpack_from("<I", content, 12)
    sections = [struct.unpack_from("<IIQQ", content, 64 + 24 * i) for i in range(n_sections)]
    offset, size = next((offset, size) for kind, _, offset, size in sections if kind == 3)
    rng = np.random.default_rng(8)
    outcomes = set()
    for share in (1e-3, 1e-2, 1.0):
        for _ in range(4):
            payload = np.frombuffer(content, np.uint8)[offset : offset + size].copy()
            hit = rng.random(size) < share
            payload[hit] = rng.integers(0, 256, int(hit.sum()))
            damaged = path.with_name("damaged.flm")
            damaged.write_bytes(content[:offset] + payload.tobytes() + content[offset + size :])
            try:
                with fastlm.load(damaged, threads=2) as model:
                    outcomes.add(bool(np.isfinite(model.forward(IDS).logits).all()))
            except FastlmError as error:
                outcomes.add(type(error).__name__)
            with pytest.raises(FastlmError, match="checksum"):
                _core.Model.open(_core.Context(1), str(damaged).encode(), verify=True)
    assert outcomes <= {True, "NumericError"} and outcomes


@pytest.mark.parametrize("dtype", BUDGETS)
def test_weights_that_are_not_finite_are_refused(dtype: str) -> None:
    model = create(_core.Context(2), exotic_spec(), dtype)
    for i, t in enumerate(model.tensors()):
        values = np.ones((t.rows, t.cols), np.float32)
        values[-1, -1] = np.inf
        with pytest.raises(FastlmError, match=t.name.replace(".", r"\.")):
            model.load_rows(i, 0, values)


@pytest.mark.parametrize("dtype", BUDGETS)
def test_small_and_sensitive_matrices_stay_wide(dtype: str) -> None:
    model = create(_core.Context(1), exotic_spec(), dtype)
    formats = {t.name: t.format for t in model.tensors() if t.is_matrix}
    assert {name for name in formats if formats[name] != dtype} == {
        "decoder.embed.positions", "decoder.1.1.router", "decoder.2.1.router",
    }  # fmt: skip
    assert formats["decoder.embed.positions"] == "bfloat16" and formats["decoder.1.1.router"] == "float32"
