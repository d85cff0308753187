"""Damaged safetensors files: every outcome is a typed error or a read that the safetensors library agrees with."""

import json
import random
import struct
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from refusals import little_work
from safetensors import deserialize
from safetensors.numpy import save_file
from safetensors_files import entry, pack, read_all, save, save_shards

from fastlm.errors import FastlmError, ModelFileError, ModelFormatError, UnsupportedError
from fastlm.weights import safetensors as reader
from fastlm.weights.safetensors import Checkpoint

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
def test_malformed(tmp_path, content):
    path = save(tmp_path, content)
    tracemalloc.start()
    try:
        with little_work(), pytest.raises(ModelFormatError, match=r"model\.safetensors"):
            Checkpoint(path)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 64 << 20


def test_errors_name_the_tensor_and_the_remedy(tmp_path):
    with pytest.raises(ModelFormatError, match=r"tensor 'second'.*gap"):
        Checkpoint(save(tmp_path, pack({"first": ONE, "second": entry("F32", [1], 8, 12)}, bytes(12))))
    with pytest.raises(ModelFormatError, match="git lfs pull"):
        Checkpoint(save(tmp_path, MALFORMED["LFS pointer"]))


def test_header_cap(tmp_path, monkeypatch):
    content = pack(json.dumps({"a": ONE}).encode().ljust(1000), bytes(4))
    monkeypatch.setattr(reader, "MAX_HEADER_BYTES", 1000)
    assert read_all(save(tmp_path, content)) == {"a": ("float32", (1,))}
    monkeypatch.setattr(reader, "MAX_HEADER_BYTES", 999)
    with pytest.raises(ModelFormatError, match="not a safetensors file"):
        Checkpoint(save(tmp_path, content))


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
    save_file({**arrays, "ids": np.arange(3)}, tmp_path / "base", metadata={"format": "pt"})
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
            deserialize(content)  # raises if the library finds something wrong that we let pass
    assert counts["ModelFormatError"] > 5_000 and counts["read"] > 500, counts


def test_mutations_of_shards(tmp_path):
    index, _, weight_map = save_shards(tmp_path)
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
