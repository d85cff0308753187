"""The .flm container: packed weights in a file that the C core maps, with all else that a model folder holds.

docs/container-format.md describes the bytes. This module writes whole files and reads what Python needs;
csrc/model/container.c opens what C needs: spec, weights and vocabulary.
"""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import BinaryIO, NamedTuple

from fastlm.errors import ModelFormatError, UnsupportedError, file_error
from fastlm.weights.jsonfile import MAX_FILE_BYTES, check_lfs, file_bytes
from fastlm.weights.paths import identity_of, replacing

MAGIC = b"\x89FLM\r\n\x1a\n"
VERSION = 1
ALIGN = 64
STRIP_ROWS = 16
FORMATS = {"float32": (1, 1), "float16": (2, 2), "bfloat16": (3, 3), "int8": (4, 7), "int4": (5, 6)}  # number, layout

_BLOCK_BYTES = 16 << 20
_HEADER = struct.Struct("<8sIIQI36x")
_CRC_AT = 24  # of the header's checksum, which covers header and table but for itself
_SECTION = struct.Struct("<IIQQ")
_TENSOR = struct.Struct("<64sIIIIQQI4x")
_VOCABULARY = struct.Struct("<IIIii4x")
_FILE_NAME = struct.Struct("<I")
_MAX_SECTIONS = 64

_SPEC, _INDEX, _PAYLOAD, _VOCABULARY_KIND, _FILE = range(1, 6)


class PackedTensor(NamedTuple):
    """A weight as C holds it; `data` has the bytes that format and shape ask for."""

    name: str
    rows: int
    cols: int
    is_matrix: bool
    format: str
    data: memoryview


class Vocabulary(NamedTuple):
    """What the C core needs to print text and to stop: the arguments of `_core.Model.set_vocabulary`."""

    pieces: Sequence[bytes]
    special: Sequence[bool]
    strip_first_space: bool
    bos: int | None
    decoder_start: int | None
    eos: Sequence[int]


class Contents(NamedTuple):
    """What a .flm file holds for Python. The spec is C's: a model's is asked for at `_core.Model.spec`."""

    files: Mapping[str, bytes]  # config.json, tokenizer.json, ...
    identity: tuple[int, ...]  # of the file that they were read from


def _whole(tensor: PackedTensor) -> bool:
    """Whether the data can be all of the tensor: the numbers of a vector, equal strips of a matrix."""
    if not tensor.is_matrix:
        return tensor.data.nbytes == 4 * tensor.rows * tensor.cols
    strips = -(-tensor.rows // STRIP_ROWS)
    return tensor.data.nbytes > 0 and tensor.data.nbytes % strips == 0


def _encode_vocabulary(v: Vocabulary) -> bytes:
    if len(v.special) != len(v.pieces):
        raise ModelFormatError(f"vocabulary: {len(v.pieces)} pieces, but {len(v.special)} special flags")
    offsets = [0]
    for piece in v.pieces:
        offsets.append(offsets[-1] + len(piece))
    ids = [-1 if token is None else token for token in (v.bos, v.decoder_start)]
    head = _VOCABULARY.pack(len(v.pieces), len(v.eos), v.strip_first_space, *ids)
    numbers = struct.pack(f"<{len(offsets)}Q{len(v.eos)}i", *offsets, *v.eos)
    return head + numbers + bytes(map(bool, v.special)) + b"".join(v.pieces)


def _encode_files(path: object, files: Mapping[str, bytes]) -> list[bytes]:
    """The section of each embedded file."""
    most = _MAX_SECTIONS - 4  # the others are spec, vocabulary, index and payload
    if len(files) > most:
        raise ModelFormatError(
            f"{path}: a .flm file holds at most {most} of a model's small files, and here are {len(files)}; "
            f"the last is {list(files)[-1]!a}: leave some out of the model's folder"
        )
    sections = []
    for name, content in files.items():
        try:
            encoded = name.encode("utf-8")
        except UnicodeEncodeError:
            raise ModelFormatError(f"{path}: the name of the model's file {name!a} is not UTF-8: rename it") from None
        sections.append(_FILE_NAME.pack(len(encoded)) + encoded + content)
    _check_total(sum(map(len, sections)), path)
    return sections


def _check_total(n_bytes: int, where: object) -> None:
    """Bound the embedded files, which are in memory together."""
    if n_bytes > MAX_FILE_BYTES:
        raise ModelFormatError(
            f"{where}: the model's small files have {n_bytes:,} bytes together; at most {MAX_FILE_BYTES:,} are kept"
        )


class _Writer:
    """Appends sections; the header and the table, whose place is kept free, are written last."""

    def __init__(self, file: BinaryIO, n_sections: int, progress: Callable[[int], None] | None) -> None:
        self._file = file
        self._progress = progress
        self._at = 0
        self._table: list[bytes] = []
        self._n_sections = n_sections
        self._put(bytes(_HEADER.size + n_sections * _SECTION.size))

    def _put(self, data: bytes | memoryview) -> int:
        """Write; returns the checksum."""
        crc = 0
        view = memoryview(data).cast("B")
        for start in range(0, len(view), _BLOCK_BYTES):
            block = view[start : start + _BLOCK_BYTES]
            crc = zlib.crc32(block, crc)
            self._file.write(block)
            self._at += len(block)
            if self._progress is not None:
                self._progress(self._at)
        return crc

    def _align(self) -> int:
        self._put(bytes(-self._at % ALIGN))
        return self._at

    def section(self, kind: int, data: bytes) -> None:
        offset = self._align()
        self._table.append(_SECTION.pack(kind, self._put(data), offset, len(data)))

    def payload(self, tensors: Iterable[tuple[str, int, int, bool, str, memoryview]]) -> bytes:
        """Write the tensors; returns their index."""
        first = self._align()
        index = bytearray()
        for tensor in map(PackedTensor._make, tensors):
            name, rows, cols, is_matrix, format, data = tensor
            encoded = name.encode("ascii")
            if len(encoded) > 63 or not _whole(tensor):
                raise ModelFormatError(f"tensor {name}: {rows} x {cols} in {format} cannot have {data.nbytes} bytes")
            offset = self._align()
            crc = self._put(data)
            number, layout = FORMATS[format]
            index += _TENSOR.pack(encoded, rows, cols, number, layout if is_matrix else 0, offset, data.nbytes, crc)
        self._table.append(_SECTION.pack(_PAYLOAD, 0, first, self._at - first))
        return bytes(index)

    def finish(self) -> None:
        table = b"".join(self._table)
        start = _HEADER.pack(MAGIC, VERSION, self._n_sections, self._at, 0)
        crc = zlib.crc32(start[_CRC_AT + 4 :] + table, zlib.crc32(start[:_CRC_AT]))
        self._file.seek(0)
        self._file.write(_HEADER.pack(MAGIC, VERSION, self._n_sections, self._at, crc) + table)


def write(
    path: str | os.PathLike[str],
    *,
    spec: bytes,
    tensors: Iterable[tuple[str, int, int, bool, str, memoryview]],
    vocabulary: Vocabulary | None = None,
    extras: Mapping[str, bytes] | None = None,
    progress: Callable[[int], None] | None = None,
) -> None:
    """Write a .flm file: all of it or nothing, even over the very file that the tensors are mapped from.

    Parameters
    ----------
    path
        The file; a symbolic link is followed.
    spec
        The blob of `fastlm.arch.spec.encode`.
    tensors
        `PackedTensor`s, one for each slot of the spec; may be a generator.
    vocabulary
        None: a model without a tokenizer.
    extras
        Files of the model folder to keep, by name.
    progress
        Called with the bytes written so far.

    Raises
    ------
    ModelFormatError
        There are too many extras, the name of one is not UTF-8, or a tensor's data does not fit its shape.
    ModelFileError, ModelMemoryError, ParameterError
        As `fastlm.weights.paths.replacing`.
    """
    files = _encode_files(path, extras or {})
    with replacing(path) as file:
        writer = _Writer(file, 3 + (vocabulary is not None) + len(files), progress)
        writer.section(_SPEC, spec)
        if vocabulary is not None:
            writer.section(_VOCABULARY_KIND, _encode_vocabulary(vocabulary))
        for content in files:
            writer.section(_FILE, content)
        writer.section(_INDEX, writer.payload(tensors))
        writer.finish()


def _read_at(file: BinaryIO, offset: int, n_bytes: int, where: str) -> bytes:
    file.seek(offset)
    data = file.read(n_bytes)
    if len(data) != n_bytes:
        raise ModelFormatError(f"{where}: was cut short while it was read")
    return data


def _read_table(file: BinaryIO, size: int, where: str) -> list[tuple[int, int, int, int]]:
    """Kind, checksum, offset and bytes of each section, within the file and without overlap."""
    start = file.read(_HEADER.size)
    check_lfs(start, where)
    if len(start) < _HEADER.size or not start.startswith(MAGIC):
        raise ModelFormatError(f"{where}: is not a .flm file (or was altered as if it were text)")
    _, version, n_sections, n_bytes, crc = _HEADER.unpack(start)
    if version != VERSION:
        raise UnsupportedError(f"{where}: has format version {version}; this fastlm reads {VERSION}: convert again")
    if n_bytes != size:
        raise ModelFormatError(f"{where}: has {size} bytes instead of {n_bytes}: it was cut short or added to")
    if n_sections > min(_MAX_SECTIONS, (size - _HEADER.size) // _SECTION.size):
        raise ModelFormatError(f"{where}: cannot have {n_sections} sections")
    table = _read_at(file, _HEADER.size, n_sections * _SECTION.size, where)
    if crc != zlib.crc32(start[_CRC_AT + 4 :] + table, zlib.crc32(start[:_CRC_AT])):
        raise ModelFormatError(f"{where}: is damaged: the checksum of its header is wrong")
    sections = list(_SECTION.iter_unpack(table))
    end = _HEADER.size + len(table)
    for _, _, offset, length in sections:
        if offset != end + -end % ALIGN or length == 0 or offset + length > size:
            raise ModelFormatError(f"{where}: a section is empty, out of place or ends outside of the file")
        end = offset + length
    if end != size:
        raise ModelFormatError(f"{where}: has bytes that belong to no section")
    return sections


def _decode_file(data: bytes, where: str) -> tuple[str, bytes]:
    n_name = _FILE_NAME.unpack_from(data)[0] if len(data) >= _FILE_NAME.size else len(data)
    content = _FILE_NAME.size + n_name
    if content > len(data):
        raise ModelFormatError(f"{where}: the name of an embedded file is longer than its section")
    try:
        return data[_FILE_NAME.size : content].decode("utf-8"), data[content:]
    except UnicodeDecodeError:
        raise ModelFormatError(f"{where}: the name of an embedded file is not UTF-8") from None


def read(path: str | os.PathLike[str]) -> Contents:
    """Read the embedded files, and check their checksums.

    Raises
    ------
    ModelFormatError
        It is not a .flm file, is damaged, or was cut short.
    UnsupportedError
        It was written by another version.
    ModelFileError, ModelMemoryError
        It cannot be read.
    """
    where = str(path)
    files: dict[str, bytes] = {}
    total = 0
    file_bytes(Path(path))  # a pipe would not open
    try:
        with Path(path).open("rb") as file:
            found = os.fstat(file.fileno())
            for kind, crc, offset, n_bytes in _read_table(file, found.st_size, where):
                if kind != _FILE:
                    continue
                total += n_bytes
                _check_total(total, where)
                data = _read_at(file, offset, n_bytes, where)
                if zlib.crc32(data) != crc:
                    raise ModelFormatError(f"{where}: is damaged: the checksum of a section of kind {kind} is wrong")
                name, content = _decode_file(data, where)
                files[name] = content
    except OSError as error:
        raise file_error(where, "read", error) from error
    return Contents(files=files, identity=identity_of(found))
