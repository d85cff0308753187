"""The safetensors reader: agrees with the safetensors library on valid files, and answers damage with typed errors."""

import json
import os
import random
import struct
import threading

import numpy as np
import pytest
from safetensors.numpy import save_file
from safetensors_files import entry, pack, save, save_shards

from fastlm.errors import ModelFileError, ModelFormatError, ParameterError, StateError, UnsupportedError
from fastlm.weights import safetensors as reader
from fastlm.weights.safetensors import Checkpoint

# ---- valid files ---------------------------------------------------------------------------------------------------


def test_agrees_with_the_library(tmp_path):
    rng = np.random.default_rng(0)
    arrays = {
        "a": rng.standard_normal((37, 5)).astype(np.float32),
        "b.weight": rng.standard_normal((3, 4, 5)).astype(np.float16),
        "scalar": np.array(2.5, np.float32),
        "empty": np.zeros((0, 7), np.float32),
        "ids": np.arange(10, dtype=np.int64),
        "flags": np.ones(3, np.bool_),
        "\u00e9\u4e2d": rng.standard_normal(1).astype(np.float32),
    }
    path = tmp_path / "model.safetensors"
    save_file(arrays, path, metadata={"format": "pt"})
    with Checkpoint(path) as checkpoint:
        assert sorted(checkpoint.names()) == sorted(arrays)
        assert checkpoint.info("ids") == ("int64", (10,))
        for name, array in arrays.items():
            assert checkpoint.where(name) == "model.safetensors"
            if name == "flags":
                with pytest.raises(UnsupportedError, match="'flags' is bool"):
                    checkpoint.read(name)
                continue
            values = checkpoint.read(name)
            assert values.dtype == array.dtype and values.shape == array.shape
            assert np.array_equal(values, array)
            assert values.flags.owndata or values.base is not None
            assert values.flags.writeable
        for start, stop in [(0, 0), (0, 1), (36, 37), (3, 20), (37, 37)]:
            assert np.array_equal(checkpoint.read("a", start, stop), arrays["a"][start:stop])
    with Checkpoint(tmp_path / "elsewhere", path.read_bytes()) as in_memory:
        assert all(np.array_equal(in_memory.read(name), arrays[name]) for name in arrays if name != "flags")
    with pytest.raises(ModelFormatError, match=r"elsewhere: .*cut short"):
        Checkpoint(tmp_path / "elsewhere", path.read_bytes()[:-1])


def test_bfloat16_comes_as_its_bits(tmp_path):
    bits = np.array([[0x3F80, 0xBF80, 0x0001]], np.uint16)
    path = save(tmp_path, pack({"w": entry("BF16", [1, 3], 0, 6)}, bits.tobytes()))
    with Checkpoint(path) as checkpoint:
        assert checkpoint.info("w") == ("bfloat16", (1, 3))
        assert np.array_equal(checkpoint.read("w"), bits)
        assert checkpoint.read("w").dtype == np.uint16


def test_large_reads_go_block_by_block(tmp_path, monkeypatch):
    array = np.arange(1000, dtype=np.float32).reshape(100, 10)
    path = save(tmp_path, pack({"w": entry("F32", [100, 10], 0, 4000)}, array.tobytes()))
    monkeypatch.setattr(reader, "BLOCK_BYTES", 24)
    with Checkpoint(path) as checkpoint:
        assert np.array_equal(checkpoint.read("w"), array)
        assert np.array_equal(checkpoint.read("w", 41, 43), array[41:43])


def test_header_may_be_padded_and_tensors_in_any_order(tmp_path):
    header = {"b": entry("F32", [1], 4, 8), "a": entry("F32", [1], 0, 4), "none": entry("F32", [0], 4, 4)}
    path = save(tmp_path, pack(json.dumps(header).encode() + b"   ", struct.pack("<2f", 1, 2)))
    with Checkpoint(path) as checkpoint:
        assert checkpoint.read("b")[0] == 2 and checkpoint.read("a")[0] == 1
        assert checkpoint.read("none").shape == (0,)


def test_threads_may_read_at_once(tmp_path):
    array = np.arange(40_000, dtype=np.float32).reshape(400, 100)
    path = save(tmp_path, pack({"w": entry("F32", [400, 100], 0, array.nbytes)}, array.tobytes()))
    wrong = []
    with Checkpoint(path) as checkpoint:

        def work(seed: int) -> None:
            rng = random.Random(seed)
            for _ in range(200):
                start = rng.randrange(400)
                if not np.array_equal(checkpoint.read("w", start, start + 1), array[start : start + 1]):
                    wrong.append(start)

        threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert not wrong


# ---- shards --------------------------------------------------------------------------------------------------------


@pytest.fixture
def sharded(tmp_path):
    return save_shards(tmp_path)


def test_shards(sharded):
    index, arrays, weight_map = sharded
    with Checkpoint(index) as checkpoint:
        assert checkpoint.names() == list(arrays)
        for name, array in arrays.items():
            assert checkpoint.where(name) == weight_map[name]
            assert np.array_equal(checkpoint.read(name), array)


def test_shards_may_be_symlinks(sharded, tmp_path):
    index, arrays, weight_map = sharded
    blobs = tmp_path / "blobs"
    blobs.mkdir()
    for file in set(weight_map.values()):
        (tmp_path / file).rename(blobs / f"{file}.blob")
        (tmp_path / file).symlink_to(blobs / f"{file}.blob")
    with Checkpoint(index) as checkpoint:
        assert np.array_equal(checkpoint.read("t3"), arrays["t3"])


@pytest.mark.parametrize(
    "file",
    [
        "../model.safetensors",
        "/etc/x.safetensors",
        "a/b.safetensors",
        "a\\b.safetensors",
        "c:x.safetensors",
        "..",
        "",
        ".hidden.safetensors",
        "x\0.safetensors",
        "config.json",
        None,
        3,
        ["x.safetensors"],
    ],
)
def test_shard_names_cannot_leave_the_folder(sharded, file):
    index, _, weight_map = sharded
    index.write_text(json.dumps({"weight_map": {**weight_map, "t1": file}}))
    with pytest.raises(ModelFormatError, match=r"index\.json: weight_map: 't1'.*plain file name"):
        Checkpoint(index)


def test_index_that_contradicts_its_shards(sharded):
    index, _, weight_map = sharded
    index.write_text(json.dumps({"weight_map": {**weight_map, "t9": weight_map["t0"]}}))
    with pytest.raises(ModelFormatError, match="'t9' is not in model-00001"):
        Checkpoint(index)
    index.write_text(json.dumps({"weight_map": {**weight_map, "t0": "model-00003-of-00003.safetensors"}}))
    with pytest.raises(ModelFileError, match=r"model-00003-of-00003.*index\.json lists it"):
        Checkpoint(index)
    for content in ["{}", "[]", '{"weight_map": []}', '{"weight_map": {}}', "", "{", '{"weight_map": 1}']:
        index.write_text(content)
        with pytest.raises(ModelFormatError, match=r"index\.json"):
            Checkpoint(index)


# ---- files that cannot be read ---


def test_things_that_are_no_files(tmp_path):
    with pytest.raises(ModelFileError, match="nowhere"):
        Checkpoint(tmp_path / "nowhere.safetensors")
    with pytest.raises(ModelFileError, match="not a regular file"):
        Checkpoint(tmp_path)
    os.mkfifo(tmp_path / "pipe.safetensors")
    with pytest.raises(ModelFileError, match="not a regular file"):
        Checkpoint(tmp_path / "pipe.safetensors")


def test_file_cut_short_after_opening(tmp_path):
    path = save(tmp_path, pack({"a": entry("F32", [1000], 0, 4000)}, bytes(4000)))
    with Checkpoint(path) as checkpoint:
        os.truncate(path, 2000)
        with pytest.raises(ModelFormatError, match=r"model\.safetensors: was cut short"):
            checkpoint.read("a")


def test_arguments(tmp_path):
    path = save(tmp_path, pack({"a": entry("F32", [4], 0, 16), "s": entry("F32", [], 16, 20)}, bytes(20)))
    checkpoint = Checkpoint(path)
    for start, stop in [(-1, 2), (0, 5), (3, 2), (5, None)]:
        with pytest.raises(ParameterError, match="rows"):
            checkpoint.read("a", start, stop)
    with pytest.raises(ParameterError, match="rows"):
        checkpoint.read("s", 0, 0)
    for call in (checkpoint.read, checkpoint.info, checkpoint.where):
        with pytest.raises(ParameterError, match="no tensor 'b'"):
            call("b")
    checkpoint.close()
    checkpoint.close()
    with pytest.raises(StateError, match="closed"):
        checkpoint.read("a")
