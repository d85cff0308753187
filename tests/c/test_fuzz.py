"""The fuzz targets of tests/fuzz, replayed: inputs made here, and some thousands of mutations of each kind."""

import importlib
import subprocess
import sys
from pathlib import Path

import pytest
from support import CSRC, ROOT

FUZZ = ROOT / "tests" / "fuzz"
RUNS = {"spec": 20_000, "container": 2_000, "text": 20_000}


def spec_inputs(small_blobs, small_files):
    """A byte that picks format and weights, and the spec."""
    return [bytes([16 * format]) + spec for spec in small_blobs for format in range(5)]


def container_inputs(small_blobs, small_files):
    return [path.read_bytes() for path in small_files.values()]


def parts(texts: list[bytes]) -> bytes:
    return b"".join(bytes([len(text)]) + text for text in texts)


def text_inputs(small_blobs, small_files):
    """Flags (a leading space goes; stop strings), pieces, stop strings, a prompt, tokens: see fuzz_text.c."""
    pieces = [
        b" a",
        b"b",
        "\u00e9".encode(),
        "\u6f22".encode()[:2],
        "\u6f22".encode()[2:],
        b"\xff",
        b" ",
        b"</s>",
        b"ab",
    ]
    words = bytes([len(pieces) - 1]) + parts(pieces)
    tokens = bytes([1, 1, *range(10), 4, 5, 4, 6, 1, 2, 9, 3, 3, 4])
    stops = [[], [b"b"], [b"ab a", "\u00e9\u00e9".encode()], [b" ", b"a b", b"abab"]]
    return [bytes([2 * len(s) + f]) + words + parts(s) + tokens for s in stops for f in (0, 1)]


@pytest.mark.parametrize("target", RUNS)
def test_replay(build_c, pytestconfig, small_blobs, small_files, target):
    if target == "container" and not sys.platform.startswith("linux"):
        pytest.skip("files in memory are Linux's")
    folder = Path(pytestconfig.cache.mkdir("fuzz")) / target
    folder.mkdir(exist_ok=True)
    inputs = {"spec": spec_inputs, "container": container_inputs, "text": text_inputs}[target](small_blobs, small_files)
    for i, data in enumerate(inputs):
        (folder / f"input-{i}").write_bytes(data)
    sources = [FUZZ / f"fuzz_{target}.c", FUZZ / "replay.c", *sorted(CSRC.rglob("*.c"))]
    program = build_c(f"fuzz_{target}", sources, sanitizer="address")
    command = [program, str(RUNS[target]), "1", *sorted(folder.glob("input-*"))]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=250, check=False)
    assert (ended.returncode, ended.stderr[-8000:]) == (0, "")


@pytest.mark.parametrize(("name", "runs"), [("fuzz_json", 20_000), ("fuzz_safetensors", 3_000)])
def test_python_targets(monkeypatch, name, runs):
    monkeypatch.syspath_prepend(str(FUZZ))
    target = importlib.import_module(name)
    importlib.import_module("harness").replay(target.one_input, target.INPUTS, runs, seed=1)
