"""The safetensors reader: agrees with the safetensors library on valid files, and answers damage with typed errors."""

import json
import os
import random
import struct
import threading
import time
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from fastlm.errors import FastlmError, ModelFileError, ModelFormatError, ParameterError, StateError, UnsupportedError
from fastlm.weights import safetensors as reader
from fastlm.weights.safetensors import Checkpoint

safetensors = pytest.importorskip("safetensors")
library = pytest.importorskip("safetensors.numpy")


def pack(header: object, data: bytes = b"") -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def entry(dtype: str, shape: object, begin: object, end: object) -> dict[str, object]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


@pytest.fixture
def save(tmp_path):
    def write(content: bytes, name: str = "model.safetensors") -> Path:
        path = tmp_path / name
        path.write_bytes(content)
        return path

    return write


def read_all(path: Path) -> dict[str, tuple[str, tuple[int, ...]]]:
    with Checkpoint(path) as checkpoint:
        result = {}
        for name in checkpoint.names():
            dtype, shape = checkpoint.info(name)
            if dtype in ("float32", "float16", "bfloat16"):
                values = checkpoint.read(name)
                assert values.shape == shape
            result[name] = (dtype, shape)
        return result


# ---- valid files ---------------------------------------------------------------------------------------------------


def test_agrees_with_the_library(tmp_path):
    rng = np.random.default_rng(0)
    arrays = {
        "a": rng.standard_normal((37, 5)).astype(np.float32),
        "b.weight": rng.standard_normal((3, 4, 5)).astype(np.float16),
        "scalar": np.array(2.5, np.float32),
        "empty": np.zeros((0, 7), np.float32),
        "ids": np.arange(10, dtype=np.int64),
        "\u00e9\u4e2d": rng.standard_normal(1).astype(np.float32),
    }
    path = tmp_path / "model.safetensors"
    library.save_file(arrays, path, metadata={"format": "pt"})
    with Checkpoint(path) as checkpoint:
        assert sorted(checkpoint.names()) == sorted(arrays)
        assert checkpoint.info("ids") == ("int64", (10,))
        for name, array in arrays.items():
            assert checkpoint.where(name) == "model.safetensors"
            if name == "ids":
                with pytest.raises(UnsupportedError, match="'ids' is int64"):
                    checkpoint.read(name)
                continue
            values = checkpoint.read(name)
            assert values.dtype == array.dtype and values.shape == array.shape
            assert np.array_equal(values, array)
            assert values.flags.owndata or values.base is not None
            assert values.flags.writeable
        for start, stop in [(0, 0), (0, 1), (36, 37), (3, 20), (37, 37)]:
            assert np.array_equal(checkpoint.read("a", start, stop), arrays["a"][start:stop])


def test_bfloat16_comes_as_its_bits(save):
    bits = np.array([[0x3F80, 0xBF80, 0x0001]], np.uint16)
    path = save(pack({"w": entry("BF16", [1, 3], 0, 6)}, bits.tobytes()))
    with Checkpoint(path) as checkpoint:
        assert checkpoint.info("w") == ("bfloat16", (1, 3))
        assert np.array_equal(checkpoint.read("w"), bits)
        assert checkpoint.read("w").dtype == np.uint16


def test_large_reads_go_block_by_block(save, monkeypatch):
    array = np.arange(1000, dtype=np.float32).reshape(100, 10)
    path = save(pack({"w": entry("F32", [100, 10], 0, 4000)}, array.tobytes()))
    monkeypatch.setattr(reader, "BLOCK_BYTES", 24)
    with Checkpoint(path) as checkpoint:
        assert np.array_equal(checkpoint.read("w"), array)
        assert np.array_equal(checkpoint.read("w", 41, 43), array[41:43])


def test_header_may_be_padded_and_tensors_in_any_order(save):
    header = {"b": entry("F32", [1], 4, 8), "a": entry("F32", [1], 0, 4), "none": entry("F32", [0], 4, 4)}
    path = save(pack(json.dumps(header).encode() + b"   ", struct.pack("<2f", 1, 2)))
    with Checkpoint(path) as checkpoint:
        assert checkpoint.read("b")[0] == 2 and checkpoint.read("a")[0] == 1
        assert checkpoint.read("none").shape == (0,)


def test_threads_may_read_at_once(save):
    array = np.arange(40_000, dtype=np.float32).reshape(400, 100)
    path = save(pack({"w": entry("F32", [400, 100], 0, array.nbytes)}, array.tobytes()))
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
    arrays = {f"t{i}": np.full((4, 3), i, np.float32) for i in range(4)}
    files = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
    library.save_file({n: arrays[n] for n in ("t0", "t1")}, tmp_path / files[0])
    library.save_file({n: arrays[n] for n in ("t2", "t3")}, tmp_path / files[1])
    weight_map = {name: files[int(name[1]) // 2] for name in arrays}
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {"total_size": 192}, "weight_map": weight_map}))
    return index, arrays, weight_map


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


# ---- malformed files: one case per rule ----------------------------------------------------------------------------

ONE = entry("F32", [1], 0, 4)
MALFORMED = {
    "no length": b"",
    "half a length": b"\x02\0\0\0",
    "length only": struct.pack("<Q", 2),
    "length past the end": struct.pack("<Q", 3) + b"{}",
    "length 2^63": struct.pack("<Q", 2**63) + b"{}",
    "length 2^64 - 1": struct.pack("<Q", 2**64 - 1) + b"{}",
    "not JSON": pack(b"{x}"),
    "an array": pack(b"[]"),
    "leading space": pack(b" {}"),
    "text after the object": pack(b"{}x"),
    "not UTF-8": pack(b'{"\xff": 1}'),
    "half a surrogate": pack({"\ud800": ONE}, bytes(4)),
    "deep": pack(b'{"a":' * 100_000),
    "deep arrays": pack(b'{"a":' + b"[" * 1_000_000),
    "duplicate name": pack(b'{"a":%s,"a":%s}' % ((json.dumps(ONE).encode(),) * 2), bytes(4)),
    "duplicate field": pack(b'{"a":{"dtype":"F32","dtype":"F32","shape":[1],"data_offsets":[0,4]}}', bytes(4)),
    "huge integer": pack(b'{"a":{"dtype":"F32","shape":[%s],"data_offsets":[0,4]}}' % (b"1" * 50_000), bytes(4)),
    "entry is a list": pack({"a": []}),
    "no shape": pack({"a": {"dtype": "F32", "data_offsets": [0, 4]}}, bytes(4)),
    "unknown field": pack({"a": {**ONE, "x": 1}}, bytes(4)),
    "unknown dtype": pack({"a": entry("F33", [1], 0, 4)}, bytes(4)),
    "dtype is a number": pack({"a": entry(32, [1], 0, 4)}, bytes(4)),
    "negative size": pack({"a": entry("F32", [-1], 0, 4)}, bytes(4)),
    "two negative sizes": pack({"a": entry("F32", [-1, -1], 0, 4)}, bytes(4)),
    "true as a size": pack({"a": entry("F32", [True], 0, 4)}, bytes(4)),
    "float as a size": pack({"a": entry("F32", [1.0], 0, 4)}, bytes(4)),
    "product wraps to 4 bytes": pack({"a": entry("F32", [2**62 + 1], 0, 4)}, bytes(4)),
    "zero times 2^62": pack({"a": entry("F32", [0, 2**62], 0, 0)}),
    "too many dimensions": pack({"a": entry("F32", [1] * 33, 0, 4)}, bytes(4)),
    "three offsets": pack({"a": {**ONE, "data_offsets": [0, 4, 8]}}, bytes(4)),
    "offsets reversed": pack({"a": entry("F32", [1], 4, 0)}, bytes(4)),
    "negative offset": pack({"a": entry("F32", [1], -4, 0)}, bytes(4)),
    "offset 2^63": pack({"a": entry("F32", [1], 2**63, 2**63 + 4)}, bytes(4)),
    "past the end": pack({"a": entry("F32", [2], 0, 8)}, bytes(4)),
    "trailing bytes": pack({"a": ONE}, bytes(5)),
    "trailing bytes, no tensor": pack({}, bytes(1)),
    "gap": pack({"a": ONE, "b": entry("F32", [1], 8, 12)}, bytes(12)),
    "gap at the start": pack({"a": entry("F32", [1], 4, 8)}, bytes(8)),
    "overlap": pack({"a": entry("F32", [2], 0, 8), "b": entry("F32", [2], 4, 12)}, bytes(12)),
    "same bytes twice": pack({"a": ONE, "b": ONE}, bytes(4)),
    "shape and offsets differ": pack({"a": entry("F32", [2], 0, 4)}, bytes(4)),
    "half a byte": pack({"a": entry("F4", [1], 0, 1)}, bytes(1)),
    "metadata not strings": pack({"__metadata__": {"a": 1}}),
    "metadata a string": pack({"__metadata__": "x"}),
    "NaN": pack(b'{"a":{"dtype":"F32","shape":[NaN],"data_offsets":[0,4]}}', bytes(4)),
    "LFS pointer": b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 12\n",
}


@pytest.mark.parametrize("content", MALFORMED.values(), ids=MALFORMED.keys())
def test_malformed(save, content):
    path = save(content)
    start = time.perf_counter()
    tracemalloc.start()
    try:
        with pytest.raises(ModelFormatError, match=r"model\.safetensors"):
            Checkpoint(path)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 64 << 20
    assert time.perf_counter() - start < 5


def test_errors_name_the_tensor_and_the_remedy(save):
    with pytest.raises(ModelFormatError, match=r"tensor 'second'.*gap"):
        Checkpoint(save(pack({"first": ONE, "second": entry("F32", [1], 8, 12)}, bytes(12))))
    with pytest.raises(ModelFormatError, match="git lfs pull"):
        Checkpoint(save(MALFORMED["LFS pointer"]))


def test_header_cap(save, monkeypatch):
    content = pack(json.dumps({"a": ONE}).encode().ljust(1000), bytes(4))
    monkeypatch.setattr(reader, "MAX_HEADER_BYTES", 1000)
    assert read_all(save(content)) == {"a": ("float32", (1,))}
    monkeypatch.setattr(reader, "MAX_HEADER_BYTES", 999)
    with pytest.raises(ModelFormatError, match="not a safetensors file"):
        Checkpoint(save(content))


def test_things_that_are_no_files(tmp_path):
    with pytest.raises(ModelFileError, match="nowhere"):
        Checkpoint(tmp_path / "nowhere.safetensors")
    with pytest.raises(ModelFileError, match="not a regular file"):
        Checkpoint(tmp_path)
    os.mkfifo(tmp_path / "pipe.safetensors")
    with pytest.raises(ModelFileError, match="not a regular file"):
        Checkpoint(tmp_path / "pipe.safetensors")


def test_file_cut_short_after_opening(save):
    path = save(pack({"a": entry("F32", [1000], 0, 4000)}, bytes(4000)))
    with Checkpoint(path) as checkpoint:
        os.truncate(path, 2000)
        with pytest.raises(ModelFormatError, match=r"model\.safetensors: was cut short"):
            checkpoint.read("a")


def test_arguments(save):
    path = save(pack({"a": entry("F32", [4], 0, 16), "s": entry("F32", [], 16, 20)}, bytes(20)))
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


# ---- mutations -----------------------------------------------------------------------------------------------------

SIZES = [
    0,
    1,
    -1,
    2,
    4,
    8,
    2**31 - 1,
    2**31,
    2**32,
    2**63 - 1,
    2**63,
    2**64 - 1,
    2**64,
    10**30,
    1.5,
    True,
    None,
    "4",
    [],
]


def mutate_header(rng: random.Random, header: dict[str, object]) -> object:
    header = json.loads(json.dumps(header))
    name = rng.choice(list(header))
    target = header[name]
    action = rng.randrange(8)
    if action == 0:
        header[name] = rng.choice(SIZES)
    elif action == 1:
        del header[name]
    elif action == 2:
        header[rng.choice(["", "x", "__metadata__", "\ud83d", "t0"])] = target
    elif action == 3:
        other = rng.choice(list(header))
        header[name], header[other] = header[other], header[name]
    elif isinstance(target, dict) and "shape" in target:
        if action == 4:
            target["dtype"] = rng.choice(["F32", "F16", "BF16", "I8", "F64", "F4", "bogus", "", 7])
        elif action == 5:
            target["shape"] = [rng.choice(SIZES) for _ in range(rng.randrange(5))]
        elif action == 6 and target["shape"]:
            target["shape"][rng.randrange(len(target["shape"]))] = rng.choice(SIZES)
        else:
            target["data_offsets"][rng.randrange(2)] = rng.choice(SIZES)
    return header


def mutate_bytes(rng: random.Random, content: bytes) -> bytes:
    data = bytearray(content)
    action = rng.randrange(6)
    if action == 0:
        del data[rng.randrange(len(data)) :]
    elif action == 1:
        data += rng.randbytes(rng.randrange(1, 9))
    elif action == 2:
        struct.pack_into("<Q", data, 0, rng.choice([0, 1, 2**31, 2**63, 2**64 - 1, len(data) - 8, rng.randrange(2000)]))
    elif action == 3:
        at = rng.randrange(8, len(data))
        del data[at : at + rng.randrange(1, 9)]
    elif action == 4:
        at = rng.randrange(8, len(data))
        data[at:at] = rng.choice([b"[", b"{", b'"', b"\\", b"\0", b"9" * 30, b"\\ud800", b"\xff", b",", b"-"])
    else:
        for _ in range(rng.randrange(1, 4)):
            data[rng.randrange(len(data))] = rng.randrange(256)
    return bytes(data)


def base_file(tmp_path: Path) -> bytes:
    arrays = {f"t{i}": np.full((i + 1, 3), i, (np.float32, np.float16)[i % 2]) for i in range(4)}
    library.save_file({**arrays, "ids": np.arange(3)}, tmp_path / "base", metadata={"format": "pt"})
    return (tmp_path / "base").read_bytes()


def outcome(path: Path) -> str:
    """ "read" or the name of the error; anything but a typed error or a consistent read fails the test."""
    try:
        tensors = read_all(path)
    except (ModelFormatError, UnsupportedError) as error:
        assert "safetensors" in str(error)
        return type(error).__name__
    else:
        assert all(type(size) is int for _, shape in tensors.values() for size in shape)
        return "read"


def test_mutations_of_one_file(tmp_path):
    rng = random.Random(20)
    base = base_file(tmp_path)
    length = struct.unpack_from("<Q", base)[0]
    header, data = json.loads(base[8 : 8 + length]), base[8 + length :]
    path = tmp_path / "model.safetensors"
    counts: dict[str, int] = {}
    for i in range(10_000):
        content = mutate_bytes(rng, base) if i % 2 else pack(mutate_header(rng, header), data)
        path.write_bytes(content)
        result = outcome(path)
        counts[result] = counts.get(result, 0) + 1
        if result == "read":
            safetensors.deserialize(content)  # raises if the library finds something wrong that we let pass
    assert counts["ModelFormatError"] > 5_000 and counts["read"] > 500, counts


def test_mutations_of_shards(sharded):
    index, _, weight_map = sharded
    rng = random.Random(21)
    originals = {
        path: path.read_bytes() for path in [index, *(index.parent / f for f in sorted(set(weight_map.values())))]
    }
    counts: dict[str, int] = {}
    for _ in range(3_000):
        path = rng.choice(list(originals))
        path.write_bytes(mutate_bytes(rng, originals[path]))
        try:
            result = outcome(index)
        except ModelFileError as error:  # a shard name that is plain, but of no file
            assert path == index and "lists it" in str(error)
            result = type(error).__name__
        except FastlmError as error:
            pytest.fail(f"{type(error)}: {error}")
        counts[result] = counts.get(result, 0) + 1
        path.write_bytes(originals[path])
    assert counts["ModelFormatError"] > 1_000 and counts["read"] > 50, counts


def test_every_truncation(tmp_path):
    base = base_file(tmp_path)
    path = tmp_path / "model.safetensors"
    for n in range(len(base)):
        path.write_bytes(base[:n])
        assert outcome(path) == "ModelFormatError"
