"""Loading .flm files: what a file is, stands in the file, and the file is one."""

from __future__ import annotations

import json
import os
import struct
import zlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from models import TINY, Shape, save_llama
from random_models import build, create, exotic_spec, fill, plain_spec, run
from refusals import refused

import fastlm
from fastlm import _core
from fastlm.arch.spec import Dense, Logits, decode, encode
from fastlm.errors import ModelFileError, ModelFormatError, ParameterError, UnsupportedError
from fastlm.saving import save
from fastlm.weights import container

IDS = np.arange(3, 73, dtype=np.int32)


@pytest.fixture
def saved(tmp_path: Path) -> Callable[..., Path]:
    """Writes a model of some shape as a .flm file."""

    def call(name: str, shape: Shape = TINY, **config: Any) -> Path:
        folder = save_llama(tmp_path / name, shape)
        (folder / "config.json").write_text(json.dumps(shape.config() | config))
        path = tmp_path / f"{name}.flm"
        with fastlm.load(folder, threads=1) as model:
            save(model, path)
        return path

    return call


def changed(content: bytes, kind: int, change: Callable[[bytes], bytes]) -> bytes:
    """The file with a section, of the same size, changed and the checksums right."""
    data = bytearray(content)
    (n,) = struct.unpack_from("<I", data, 12)
    for i in range(n):
        found, _, offset, size = struct.unpack_from("<IIQQ", data, 64 + 24 * i)
        if found == kind:
            data[offset : offset + size] = change(bytes(data[offset : offset + size]))
            struct.pack_into("<I", data, 68 + 24 * i, zlib.crc32(data[offset : offset + size]))
    struct.pack_into("<I", data, 24, zlib.crc32(data[:24] + data[28 : 64 + 24 * n]))
    return bytes(data)


# ---- the spec ------------------------------------------------------------------------------------------------------


def test_the_spec_is_the_files(saved: Callable[..., Path]) -> None:
    """Not what config.json would say today: another epsilon there changes nothing."""
    path = saved("model")
    content = path.read_bytes()
    path.write_bytes(content.replace(b'"rms_norm_eps": 1e-05', b'"rms_norm_eps": 1e-03'))
    path.write_bytes(changed(path.read_bytes(), 5, bytes))
    with fastlm.load(path, threads=1) as model:
        assert model.config["rms_norm_eps"] == 1e-3
        assert model.spec.main.norm is not None and model.spec.main.norm.eps == pytest.approx(1e-5)
        assert encode(model.spec) == model.engine.core.spec()


def test_a_spec_of_version_1_is_refused(saved: Callable[..., Path]) -> None:
    path = saved("model")
    path.write_bytes(changed(path.read_bytes(), 1, lambda spec: spec[:4] + struct.pack("<I", 1) + spec[8:]))
    with refused(UnsupportedError, str(path), "spec: version 1", "reads version 2", "convert again"):
        fastlm.load(path)


def tiny_file(path: Path, config: dict[str, Any], spec: bytes) -> None:
    """A file whose parts but these are zeros."""
    name, text = b"config.json", json.dumps(config).encode()
    parts = [(1, spec), (5, struct.pack("<I", len(name)) + name + text), (3, bytes(64)), (2, bytes(104))]
    at, table, body = 64 + 24 * len(parts), b"", b""
    for kind, data in parts:
        body += bytes(-at % 64)
        at += -at % 64
        table += struct.pack("<IIQQ", kind, 0 if kind == 3 else zlib.crc32(data), at, len(data))
        body, at = body + data, at + len(data)
    head = struct.pack("<8sIIQ", b"\x89FLM\r\n\x1a\n", 1, len(parts), at)
    crc = zlib.crc32(bytes(36) + table, zlib.crc32(head))
    path.write_bytes(head + struct.pack("<I", crc) + bytes(36) + table + body)


MANY = {"vocab_size": 32, "num_hidden_layers": 16384, "n_layer": 16384}
HOSTILE = {
    "slopes": {"model_type": "bloom", **MANY, "hidden_size": 16384, "n_head": 16384},
    "frequencies": {"model_type": "llama", **MANY, "hidden_size": 4096, "num_attention_heads": 1},
    "experts": {"model_type": "mixtral", **MANY, "hidden_size": 64, "num_local_experts": 4096},
}


@pytest.mark.parametrize("name", HOSTILE)
@pytest.mark.parametrize("spec", [b"x" * 64, encode(plain_spec(64))], ids=["no spec", "another spec"])
def test_a_config_costs_nothing(tmp_path: Path, name: str, spec: bytes) -> None:
    """It is not what the model is made of, whatever it asks for."""
    path = tmp_path / "model.flm"
    tiny_file(path, HOSTILE[name], spec)
    with refused(ModelFormatError, str(path)):
        fastlm.load(path)


# ---- one file ------------------------------------------------------------------------------------------------------


def test_a_file_that_is_replaced_while_it_is_read(saved: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """Two models that differ in nothing but the number of heads, one in the place of the other."""
    few = saved("few", replace(TINY, hidden=48, heads=4, kv_heads=4))
    many = saved("many", replace(TINY, hidden=48, heads=12, kv_heads=12))
    read = container.read

    def read_and_replace(path: Any) -> container.Contents:
        contents = read(path)
        many.replace(path)
        return contents

    monkeypatch.setattr(container, "read", read_and_replace)
    with pytest.raises(ModelFileError, match=r"few\.flm: was replaced while it was read: load it again"):
        fastlm.load(few, threads=1)
    monkeypatch.undo()
    with fastlm.load(few, threads=1) as model:
        assert [a.shape for a in model.forward([1, 2, 3], attentions=True).attentions or ()] == [(12, 3, 3)] * 2


def test_a_file_that_is_away_while_it_is_read(saved: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """Another one has its name in between, and C may have read that."""
    path = saved("model", TINY)
    read = container.read

    def read_and_move(path: Any) -> container.Contents:
        contents = read(path)
        path.replace(path.with_suffix(".away"))
        path.with_suffix(".away").replace(path)
        return contents

    monkeypatch.setattr(container, "read", read_and_move)
    with pytest.raises(ModelFileError, match=r"model\.flm: was replaced while it was read"):
        fastlm.load(path)


@pytest.mark.parametrize("heads", [1, 4, 7, 9])
def test_attentions_have_as_many_heads_as_are_written(heads: int) -> None:
    _, model = build(plain_spec(256), threads=1)
    assert model.info()["heads"] == 8
    item = _core.Item(model.session(), IDS[:5], attentions=np.zeros((heads, 5, 5), np.float32))
    with pytest.raises(ParameterError, match="attentions must have the shape"):
        _core.forward(model, [item])


# ---- a format for each matrix --------------------------------------------------------------------------------------

MIXED = {  # by what a name begins or ends with; float32 else
    "embed.tokens": "float16",
    "embed.positions": "int8",
    "decoder.0.0.o": "int4",
    "decoder.0.1.gate": "bfloat16",
    "decoder.0.1.up": "bfloat16",
    "decoder.0.1.down": "int8",
    "decoder.1.0": "int8",
    "router": "float16",
    "decoder.2.1.experts": "int4",
}


def mixed_format(name: str) -> str:
    if name.endswith("router"):
        return MIXED["router"]
    return next((format for part, format in MIXED.items() if part in name), "float32")


@pytest.mark.parametrize("threads", [1, 2])
def test_every_matrix_has_a_format_of_its_own(tmp_path: Path, threads: int) -> None:
    spec, context = exotic_spec(), _core.Context(threads)
    model = create(context, spec, "float32")
    for i, t in enumerate(model.tensors()):
        if t.is_matrix:
            model.set_format(i, mixed_format(t.name))
    fill(model)
    model.finish()
    formats = {t.name: t.format for t in model.tensors() if t.is_matrix}
    assert formats == {name: mixed_format(name) for name in formats} and len(set(formats.values())) == 5
    path = tmp_path / "mixed.flm"
    tensors = ((*t[:5], model.tensor_data(i)) for i, t in enumerate(model.tensors()))
    container.write(path, spec=model.spec(), tensors=tensors)
    opened = _core.Model.open(context, os.fsencode(path), kv_dtype="float32", verify=True)
    assert opened.tensors() == model.tensors() and decode(opened.spec()) == spec
    _, exact = build(spec, threads=1)
    (wide,) = run(exact, [(exact.session(), IDS, 2)], spec.vocab)
    (kept,) = run(model, [(model.session(), IDS, 2)], spec.vocab)
    (read,) = run(opened, [(opened.session(), IDS, 2)], spec.vocab)
    assert np.array_equal(kept, read)
    assert 0 < np.std(kept - wide) < 0.2 * wide.std()


@pytest.mark.parametrize(
    ("name", "format", "why"),
    [
        ("decoder.0.0.k", "bfloat16", "decoder.0.0.q has 1: they share their inputs"),
        ("decoder.0.1.up", "int8", "decoder.0.1.gate has 1"),
        ("decoder.1.1.experts.3.down", "float16", "decoder.1.1.experts.2.down has 1"),
        ("decoder.1.1.router", "int8", "float32 or float16"),
    ],
)
def test_formats_that_kernels_cannot_run_together(name: str, format: str, why: str) -> None:
    spec = exotic_spec()
    model = create(_core.Context(1), spec, "float32")
    model.set_format([t.name for t in model.tensors()].index(name), format)
    fill(model)
    with pytest.raises(UnsupportedError, match=f"{name} has format"):
        model.finish()
    with pytest.raises(UnsupportedError, match=why):
        model.finish()


def test_formats_are_chosen_before_rows_are_loaded() -> None:
    model = create(_core.Context(1), plain_spec(64), "float32")
    vector = next(i for i, t in enumerate(model.tensors()) if not t.is_matrix)
    with pytest.raises(ParameterError, match="not a matrix"):
        model.set_format(vector, "int8")
    with pytest.raises(ParameterError, match="no tensor"):
        model.set_format(10_000, "int8")
    fill(model)
    with pytest.raises(fastlm.StateError, match="before any rows are loaded"):
        model.set_format(0, "int8")


# ---- heads ---------------------------------------------------------------------------------------------------------


def test_a_dense_step_with_a_bias() -> None:
    spec = replace(plain_spec(64), head=(Dense(48, bias=True), Logits(tied=False)))
    model = create(_core.Context(1), spec, "float32")
    fill_ones(model)
    model.finish()
    (logits,) = run(model, [(model.session(), IDS, 2)], spec.vocab)
    assert np.isfinite(logits).all() and (logits > 0).all()


def fill_ones(model: _core.Model) -> None:
    for i, t in enumerate(model.tensors()):
        model.load_rows(i, 0, np.full((t.rows, t.cols), 0.25, np.float32))
