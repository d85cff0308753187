"""Numbers that Python and C both state: they must be the same."""

from __future__ import annotations

import re

import pytest
from support import CSRC

from fastlm import _core, generation, parameters
from fastlm.arch import config, slots
from fastlm.weights import container

SOURCES = {path: path.read_text() for path in sorted(CSRC.rglob("*.[ch]"))}


def of_c(name: str) -> int:
    """The value of a constant (an enumerator or a macro), the same wherever it stands in csrc/."""
    pattern = re.compile(rf"\b{name}(?: =)? (\d+)u?(?: << (\d+))?\b")
    values = {int(a) << int(b or 0) for text in SOURCES.values() for a, b in pattern.findall(text)}
    assert len(values) == 1, f"{name}: {values}"
    return values.pop()


def test_bounds_of_a_spec() -> None:
    bounds = {name: value for name, value in vars(config).items() if name.startswith("MAX_")}
    assert len(bounds) >= 8
    assert bounds == {name: of_c(f"FLM_{name}") for name in bounds}
    assert of_c("MAX_SLOTS") == slots.MAX_SLOTS


def test_bounds_of_sampling() -> None:
    assert of_c("FLM_MAX_LOGPROBS") == generation.MAX_LOGPROBS
    (sampler,) = (text for path, text in SOURCES.items() if path.name == "sampler.c")
    ranges = re.findall(r'check_range\("([\w ]+)", [^,]+, ([^,]+)f, ([^,]+)f,', sampler)
    most = {name: float(high) for name, _, high in ranges if float(high) > 1}
    names = ["temperature", "repetition_penalty", "presence_penalty", "frequency_penalty"]
    others = {"a bias": parameters.BIASES, "length_penalty": 1e3}
    assert most == dict.fromkeys(names, parameters.LARGEST) | others


def test_packed_formats() -> None:
    assert {name: number for name, (number, _) in container.FORMATS.items()} == _core.FORMATS
    assert container.STRIP_ROWS == _core.STRIP == of_c("FLM_STRIP")


@pytest.mark.parametrize("format", sorted(_core.FORMATS))
def test_matrix_bytes(format: str) -> None:
    bits = {"float32": 32, "float16": 16, "bfloat16": 16, "int8": 8, "int4": 4}[format]
    exact = bits * 4096 * 4096 // 8
    assert exact <= _core.matrix_bytes(format, 4096, 4096) <= 1.2 * exact
    assert _core.matrix_bytes(format, 1, 512) == _core.matrix_bytes(format, 16, 512)
