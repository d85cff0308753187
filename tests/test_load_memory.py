"""Loading a bfloat16 checkpoint as int8 or int4 never holds more than 1.25 times the finished model and one tensor."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from models import Shape, save_llama
from random_models import RMS, build, run
from refusals import BYTES, forget_peak, peak_bytes

from fastlm.arch.spec import (
    Activation,
    Attention,
    FeedForward,
    Layer,
    Logits,
    ModelSpec,
    RelativeBias,
    Source,
    Stack,
    Sublayer,
)

SHAPE = Shape(hidden=512, layers=16, heads=8, kv_heads=4, width=2048, vocab=4000)
LARGEST_TENSOR = 2 * max(int(np.prod(size)) for size in SHAPE.tensors().values())  # bytes in the checkpoint

# What the kernel says of the process: bytes in memory before, the most that there were until after.
PROGRAM = """
import json, sys
from pathlib import Path
from fastlm import load  # the package alone loads nothing

def status(name):
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith(name))

folder, dtype, hoard = sys.argv[1:]
before = status("VmRSS:")
hoarded = Path(folder, "model.safetensors").read_bytes() if hoard == "hoard" else b""
model = load(folder, dtype=dtype, threads=2)
print(json.dumps([status("VmHWM:") - before, model.memory()["weight_bytes"]]))
"""


def test_a_bias_for_every_distance_is_never_spread() -> None:
    """Some kilobytes of weights, with biases up to 65,536 tokens away, took 3 GB when the model was finished."""
    heads = 3072
    tables = [RelativeBias(heads, 4, 65536, bidirectional=both) for both in (True, False)]
    own, cross = (Attention(heads, heads, 1, 1.0, relative_bias=own, source=Source(not own)) for own in (True, False))
    ffn = Sublayer(FeedForward(1, Activation.RELU), RMS)
    encoder = Stack((Layer((Sublayer(replace(own, causal=False), RMS), ffn)),), RMS, tables[0])
    decoder = Stack((Layer((Sublayer(own, RMS), Sublayer(replace(cross, causal=False), RMS), ffn)),), RMS, tables[1])
    spec = ModelSpec(16, 1, 100_000, encoder=encoder, decoder=decoder, head=(Logits(tied=True),))
    forget_peak()
    before = peak_bytes()
    _, model = build(spec, threads=1)
    assert peak_bytes() - before < BYTES
    session = model.session()
    session.encode(np.arange(5, dtype=np.int32))
    assert np.isfinite(run(model, [(session, np.arange(9, dtype=np.int32), 2)], 16)[0]).all()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if not Path("/proc/self/status").exists():
        pytest.skip("this system has no /proc")
    return save_llama(tmp_path_factory.mktemp("memory"), SHAPE, dtype="bfloat16")


def peak_and_bound(folder: Path, dtype: str, hoard: str = "") -> tuple[int, float]:
    command = [sys.executable, "-c", PROGRAM, str(folder), dtype, hoard]
    done = subprocess.run(command, check=True, capture_output=True, text=True, cwd=folder, timeout=120)
    peak, finished = json.loads(done.stdout)
    return peak, 1.25 * finished + LARGEST_TENSOR


@pytest.mark.parametrize("dtype", ["int8", "int4", "bfloat16"])
def test_loading_holds_little_more_than_the_model(folder: Path, dtype: str) -> None:
    peak, bound = peak_and_bound(folder, dtype)
    assert bound / 2 < peak <= bound


@pytest.mark.parametrize("dtype", ["int8", "int4"])
def test_a_loader_that_kept_the_checkpoint_would_be_caught(folder: Path, dtype: str) -> None:
    peak, bound = peak_and_bound(folder, dtype, "hoard")
    assert peak > bound
