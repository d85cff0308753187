"""The .flm writer and Python's reader. What C makes of the files is in tests/c."""

import errno
import mmap
import os
import random
import signal
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import pytest

from fastlm.errors import FastlmError, ModelFileError, ModelFormatError, UnsupportedError
from fastlm.weights import container
from fastlm.weights.container import Vocabulary, read, write

FILES = {"config.json": b'{"a": 1}', "tokenizer.json": b"", "chat_template.jinja": "\u00e9".encode() * 70}
VOCABULARY = Vocabulary(
    pieces=[b"", b" a", b"\xff"],
    special=[True, False, False],
    strip_first_space=True,
    bos=1,
    decoder_start=None,
    eos=[2, 0],
)


def tensors(n: int = 3):
    for i in range(n):
        data = memoryview(bytes([i + 1]) * (64 * 5))
        yield f"t{i}", 3, 5, True, "float32", data
    yield "norm", 1, 7, False, "float32", memoryview(bytes(range(28)))
    yield "half", 17, 3, True, "bfloat16", memoryview(bytes(256))


@pytest.fixture
def path(tmp_path) -> Path:
    return tmp_path / "m.flm"


@pytest.fixture
def content(path) -> bytes:
    write(path, spec=b"the spec", tensors=tensors(), vocabulary=VOCABULARY, extras=FILES)
    return path.read_bytes()


# ---- what is written -----------------------------------------------------------------------------------------------


def test_bytes_are_those_of_the_document(content):
    """Reads the file by docs/container-format.md alone."""
    magic, version, n, size, crc = struct.unpack_from("<8sIIQI", content)
    assert magic == b"\x89FLM\r\n\x1a\n" and version == 1 and size == len(content)
    table = [struct.unpack_from("<IIQQ", content, 64 + 24 * i) for i in range(n)]
    assert crc == zlib.crc32(content[:24] + content[28 : 64 + 24 * n])
    assert [kind for kind, *_ in table] == [1, 4, 5, 5, 5, 3, 2]
    end = 64 + 24 * n
    for kind, crc, offset, length in table:
        assert offset % 64 == 0 and 0 <= offset - end < 64 and not any(content[end:offset])
        end = offset + length
        assert crc == (0 if kind == 3 else zlib.crc32(content[offset:end]))
    assert end == len(content)
    part = {kind: content[offset : offset + length] for kind, _, offset, length in table}
    assert part[1] == b"the spec"
    n_tokens, n_eos, strip, bos, start = struct.unpack_from("<IIIii", part[4])
    assert (n_tokens, n_eos, strip, bos, start) == (3, 2, 1, 1, -1)
    assert part[4][24:] == struct.pack("<4Q2i3B", 0, 0, 2, 3, 2, 0, 1, 0, 0) + b" a\xff"
    assert part[5] == struct.pack("<I", 19) + b"chat_template.jinja" + FILES["chat_template.jinja"]
    index = list(struct.iter_unpack("<64sIIIIQQI4x", part[2]))
    assert [(name.rstrip(b"\0"), *entry[:4]) for name, *entry in index] == [
        (b"t0", 3, 5, 1, 1),
        (b"t1", 3, 5, 1, 1),
        (b"t2", 3, 5, 1, 1),
        (b"norm", 1, 7, 1, 0),
        (b"half", 17, 3, 3, 3),
    ]
    for (_, _, _, _, _, data), (_, _, _, _, _, offset, length, crc) in zip(tensors(), index, strict=True):
        assert offset % 64 == 0 and content[offset : offset + length] == data and crc == zlib.crc32(data)


def test_read(path, content):
    contents = read(path)
    assert dict(contents.files) == FILES


def test_blocks_and_progress(path, content, monkeypatch):
    monkeypatch.setattr(container, "_BLOCK_BYTES", 100)
    seen: list[int] = []
    write(path, spec=b"the spec", tensors=tensors(), vocabulary=VOCABULARY, extras=FILES, progress=seen.append)
    assert path.read_bytes() == content
    assert seen == sorted(seen) and seen[-1] == len(content) and len(seen) > len(content) // 100


def test_no_vocabulary_no_files(path):
    write(path, spec=b"s", tensors=tensors())
    assert read(path).files == {}


@pytest.mark.parametrize(
    "tensor",
    [
        ("t", 3, 5, True, "float32", memoryview(b"")),
        ("t", 3, 5, False, "float32", memoryview(bytes(64))),
        ("t", 17, 3, True, "float16", memoryview(bytes(193))),
        ("x" * 64, 3, 5, True, "float32", memoryview(bytes(320))),
    ],
)
def test_what_the_reader_would_refuse_is_not_written(path, tensor):
    with pytest.raises(ModelFormatError, match=tensor[0]):
        write(path, spec=b"s", tensors=[tensor])
    assert list(path.parent.iterdir()) == []


@pytest.mark.parametrize(
    ("extras", "words"),
    [({f"f{i}": b"" for i in range(61)}, "at most 60 .* 61; .*'f60'"), ({"\udcff": b""}, r"'\\udcff' is not UTF-8")],
    ids=["too many", "name"],
)
def test_small_files_that_cannot_be_written(path, extras, words):
    with pytest.raises(ModelFormatError, match=rf"m\.flm: .*{words}"):
        write(path, spec=b"s", tensors=tensors(), extras=extras)
    assert list(path.parent.iterdir()) == []


def test_small_files_are_bounded_before_they_are_read(path, content, monkeypatch):
    """Sections of gigabytes, which a sparse file has for nothing."""
    n_bytes = sum(4 + len(name) + len(data) for name, data in FILES.items())
    monkeypatch.setattr(container, "MAX_FILE_BYTES", n_bytes)
    assert read(path).files == FILES
    monkeypatch.setattr(container, "MAX_FILE_BYTES", n_bytes - 1)
    sizes, read_at = [], container._read_at
    monkeypatch.setattr(container, "_read_at", lambda *args: sizes.append(args[2]) or read_at(*args))
    for call in (lambda: read(path), lambda: write(path, spec=b"s", tensors=tensors(), extras=FILES)):
        with pytest.raises(ModelFormatError, match=rf"m\.flm: .* {n_bytes} bytes .* at most {n_bytes - 1}"):
            call()
    assert len(sizes) == 1 + 2  # the table, and the files that fit
    assert path.read_bytes() == content


# ---- all or nothing ------------------------------------------------------------------------------------------------


def failing(error: BaseException):
    yield from tensors(1)
    raise error


@pytest.mark.parametrize("error", [KeyboardInterrupt(), MemoryError(), ModelFileError("source is gone"), ValueError()])
@pytest.mark.parametrize("before", [None, b"old"])
def test_a_failure_leaves_what_was_there(path, error, before):
    if before:
        path.write_bytes(before)
    with pytest.raises(type(error)) as caught:
        write(path, spec=b"s", tensors=failing(error))
    assert caught.value is error
    assert [(p.name, p.read_bytes()) for p in path.parent.iterdir()] == ([("m.flm", before)] if before else [])


def test_a_full_disk(path, monkeypatch):
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(ModelFileError, match=r"m\.flm: cannot be written: No space left on device"):
        write(path, spec=b"s", tensors=tensors())
    assert list(path.parent.iterdir()) == []


def test_places_that_cannot_be_written(tmp_path):
    (tmp_path / "file").touch()
    os.mkfifo(tmp_path / "pipe")
    null = Path(os.devnull)
    for path in [tmp_path / "none" / "m.flm", tmp_path / "file" / "m.flm", tmp_path, tmp_path / "pipe", null]:
        with pytest.raises(ModelFileError, match="cannot be written"):
            write(path, spec=b"s", tensors=tensors())
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file", "pipe"] and not null.is_file()


def test_over_the_file_that_the_tensors_come_from(path, content):
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as source:
        view = memoryview(source)
        start = content.index(bytes([1]) * 320)
        write(path, spec=b"s", tensors=[("t", 3, 5, True, "float32", view[start : start + 320])])
        view.release()
    assert bytes([1]) * 320 in path.read_bytes() and read(path).files == {}


def test_a_link_keeps_pointing(tmp_path):
    (tmp_path / "real.flm").write_bytes(b"old")
    (tmp_path / "link.flm").symlink_to("real.flm")
    write(tmp_path / "link.flm", spec=b"s", tensors=tensors(), extras={"a": b"new"})
    assert (tmp_path / "link.flm").is_symlink() and read(tmp_path / "real.flm").files == {"a": b"new"}
    assert (tmp_path / "real.flm").stat().st_mode & 0o777 == 0o666 & ~_umask()


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


SCRIPT = """
import sys, time
from fastlm.weights.container import write
def tensors():
    for i in range(10**6):
        yield f"t{i}", 16, 100, True, "float32", memoryview(bytes(6400))
        if i == 20:
            print("writing", flush=True)
write(sys.argv[1], spec=b"new", tensors=tensors())
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_signals(path, content, number):
    environment = {**os.environ, "PYTHONPATH": str(Path(container.__file__).parents[2])}
    command = [sys.executable, "-c", SCRIPT, path]
    child = subprocess.Popen(command, cwd=path.parent, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment)
    assert child.stdout is not None and child.stdout.readline() == b"writing\n"
    child.send_signal(number)
    child.communicate(timeout=20)
    assert child.returncode != 0
    assert path.read_bytes() == content
    left = [p.name for p in path.parent.iterdir() if p != path]
    assert left == [] or number == signal.SIGKILL


# ---- damaged files -------------------------------------------------------------------------------------------------


def test_other_files(tmp_path, path, content):
    with pytest.raises(ModelFileError, match="none"):
        read(tmp_path / "none")
    with pytest.raises(ModelFileError, match="not a regular file"):
        read(tmp_path)
    path.write_bytes(content[:8] + b"\2\0\0\0" + content[12:])
    with pytest.raises(UnsupportedError, match="format version 2"):
        read(path)
    path.write_bytes(content.replace(b"\r\n", b"\n"))
    with pytest.raises(ModelFormatError, match="as if it were text"):
        read(path)
    for n in range(len(content)):
        path.write_bytes(content[:n])
        with pytest.raises(ModelFormatError, match=r"m\.flm"):
            read(path)


def test_a_file_that_is_replaced_before_it_is_opened(path, content, monkeypatch):
    """Its size is that of the file that was opened."""

    def replaced(_: Path) -> int:
        write(path, spec=b"s", tensors=tensors(1), extras={"a": b"new"})
        return len(content)

    monkeypatch.setattr(container, "file_bytes", replaced)
    assert read(path).files == {"a": b"new"}


def repaired(data: bytearray) -> bytes:
    """With right checksums, as far as the table makes sense."""
    data[:12] = b"\x89FLM\r\n\x1a\n\1\0\0\0"
    struct.pack_into("<Q", data, 16, len(data))
    n = min(struct.unpack_from("<I", data, 12)[0], (len(data) - 64) // 24)
    for i in range(n):
        kind, _, offset, length = struct.unpack_from("<IIQQ", data, 64 + 24 * i)
        if kind != 3 and offset + length <= len(data):
            struct.pack_into("<I", data, 68 + 24 * i, zlib.crc32(data[offset : offset + length]))
    struct.pack_into("<I", data, 24, zlib.crc32(data[:24] + data[28 : 64 + 24 * n]))
    return bytes(data)


def test_mutations(path, content):
    rng = random.Random(9)
    numbers = [0, 1, 2, 5, 6, 63, 64, 2**31, 2**32 - 1, 2**63, 2**64 - 1, 2**64 - 64, len(content)]
    counts = {"read": 0, "error": 0}
    for _ in range(4000):
        data = bytearray(content)
        for _ in range(rng.randrange(1, 3)):
            at = rng.choice([rng.randrange(0, 240, 4), rng.randrange(0, 700), rng.randrange(len(data) - 8)])
            data[at : at + 4] = struct.pack("<Q", rng.choice([*numbers, rng.randrange(len(data))]))[
                : rng.choice([4, 4, 4])
            ]
        path.write_bytes(repaired(data))
        try:
            read(path)
            counts["read"] += 1
        except FastlmError as error:
            assert type(error) in (ModelFormatError, UnsupportedError) and str(path) in str(error)
            counts["error"] += 1
    assert min(counts.values()) > 500, counts
