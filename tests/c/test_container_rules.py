"""Each rule of docs/container-format.md, broken alone: the C reader names it."""

import ctypes
import struct
import zlib
from dataclasses import dataclass, field

import pytest

FORMAT, UNSUPPORTED, IO = 20, 30, 60
SPEC, INDEX, PAYLOAD, VOCABULARY, FILE = range(1, 6)
TENSOR = struct.Struct("<64sIIIIQQI4x")
NAME, ROWS, COLS, TYPE, LAYOUT, OFFSET, BYTES, CRC = range(8)


class Error(ctypes.Structure):
    _fields_ = (("status", ctypes.c_int), ("text", ctypes.c_char * 508))


class Options(ctypes.Structure):
    _fields_ = (
        ("size_bytes", ctypes.c_size_t),
        ("format", ctypes.c_int),
        ("kv_dtype", ctypes.c_int),
        ("context", ctypes.c_uint32),
        ("kv_bytes", ctypes.c_uint64),
        ("verify", ctypes.c_uint32),
        ("prefix_cache", ctypes.c_uint32),
    )


@pytest.fixture(scope="session")
def open_flm(documented):
    """Opens a path: (status, error text)."""
    library = ctypes.CDLL(str(documented / "libfastlm.so"))
    library.flm_model_destroy.argtypes = [ctypes.c_void_p]
    library.flm_context_destroy.argtypes = [ctypes.c_void_p]
    context = ctypes.c_void_p()
    assert library.flm_context_create(None, ctypes.byref(context), None) == 0

    def call(path, *, verify=False):
        model, error = ctypes.c_void_p(), Error()
        options = Options(size_bytes=ctypes.sizeof(Options), verify=verify)
        status = library.flm_model_open(
            context, str(path).encode(), ctypes.byref(options), ctypes.byref(model), ctypes.byref(error)
        )
        assert (model.value is None) == (status != 0) and error.status == status
        library.flm_model_destroy(model)
        return status, error.text.decode()

    yield call
    library.flm_context_destroy(context)


@dataclass
class Flm:
    """A file taken apart; `bytes()` puts it together with right checksums."""

    sections: list[list[int]]  # kind, crc, offset, bytes
    data: bytearray
    version: int = 1
    magic: bytes = b"\x89FLM\r\n\x1a\n"
    file_bytes: int | None = None
    n_sections: int | None = None
    fixed: dict[int, int] = field(default_factory=dict)  # section number -> checksum to keep

    @classmethod
    def parse(cls, content: bytes) -> "Flm":
        n = struct.unpack_from("<I", content, 12)[0]
        return cls([list(struct.unpack_from("<IIQQ", content, 64 + 24 * i)) for i in range(n)], bytearray(content))

    def at(self, kind: int) -> int:
        return next(s[2] for s in self.sections if s[0] == kind)

    def section(self, kind: int) -> list[int]:
        return next(s for s in self.sections if s[0] == kind)

    def tensor(self, i: int, **changes: object) -> list:
        """Entry i of the index, after changing some of its fields."""
        at = self.at(INDEX) + i * TENSOR.size
        values = list(TENSOR.unpack_from(self.data, at))
        for name, value in changes.items():
            values[globals()[name]] = value
        TENSOR.pack_into(self.data, at, *values)
        return values

    def put(self, kind: int, offset: int, layout: str, *values: object) -> None:
        struct.pack_into(layout, self.data, self.at(kind) + offset, *values)

    def bytes(self) -> bytes:
        for i, section in enumerate(self.sections):
            start, end = section[2], section[2] + section[3]
            if section[0] != PAYLOAD and end <= len(self.data) and i not in self.fixed:
                section[1] = zlib.crc32(self.data[start:end])
        table = b"".join(struct.pack("<IIQQ", *section) for section in self.sections)
        n = len(self.sections) if self.n_sections is None else self.n_sections
        size = len(self.data) if self.file_bytes is None else self.file_bytes
        head, zeros = self.magic + struct.pack("<IIQ", self.version, n, size), bytes(36)
        crc = zlib.crc32(zeros + table, zlib.crc32(head))
        self.data[: 64 + len(table)] = head + struct.pack("<I", crc) + zeros + table
        return bytes(self.data)


@pytest.fixture
def flm(small_files) -> Flm:
    return Flm.parse(small_files["llama"].read_bytes())


@pytest.fixture
def outcome(open_flm, tmp_path):
    def call(content: bytes, **options):
        path = tmp_path / "case.flm"
        path.write_bytes(content)
        return open_flm(path, **options)

    return call


def test_whole_files_open(small_files, open_flm, outcome):
    for path in small_files.values():
        assert open_flm(path, verify=True) == (0, "")
        assert outcome(Flm.parse(path.read_bytes()).bytes(), verify=True) == (0, "")


def test_every_truncation(small_files, outcome):
    content = small_files["moe"].read_bytes()
    for n in [*range(700), *range(700, len(content), 61), len(content) - 1]:
        status, text = outcome(content[:n])
        assert status == FORMAT and ("not a .flm file" if n < 64 else "cut short") in text
    assert outcome(content + b"\0")[0] == FORMAT


def swap_sections(f: Flm) -> None:
    f.sections[0], f.sections[1] = f.sections[1], f.sections[0]


def wrap_around(f: Flm) -> None:
    """offset + bytes of one section passes 2^64 and comes out right."""
    f.sections[0][3] = 2**64 - 64


def lengthen_name(f: Flm) -> None:
    f.tensor(0, NAME=b"x" * 64)


def name_twice(f: Flm) -> None:
    shapes: dict[tuple[int, int], list] = {}
    for i in range(f.section(INDEX)[3] // TENSOR.size):
        values = f.tensor(i)
        first = shapes.setdefault((values[ROWS], values[COLS]), values)
        if first is not values:
            f.tensor(i, NAME=first[NAME])
            return


def grow_last_piece(f: Flm) -> None:
    n = struct.unpack_from("<I", f.data, f.at(VOCABULARY))[0]
    last = struct.unpack_from("<Q", f.data, f.at(VOCABULARY) + 24 + 8 * n)[0]
    f.put(VOCABULARY, 24 + 8 * n, "<Q", last + 100)


def drop_a_tensor(f: Flm) -> None:
    f.sections[-1][3] -= TENSOR.size  # the index is last
    del f.data[-TENSOR.size :]


def add_payload(f: Flm) -> None:
    """64 bytes more at the end of the payload, which no tensor has."""
    index, payload = f.section(INDEX), f.section(PAYLOAD)
    end = payload[2] + payload[3]
    f.data[end:end] = bytes(64)
    payload[3] += 64
    index[2] += 64


CASES = {
    "magic": (lambda f: setattr(f, "magic", b"\x89FLM\n\x1a\n\n"), FORMAT, "is not a .flm file"),
    "version": (lambda f: setattr(f, "version", 2), UNSUPPORTED, "format version 2"),
    "file bytes": (lambda f: setattr(f, "file_bytes", 2**63), FORMAT, "cut short"),
    "no sections": (lambda f: setattr(f, "n_sections", 0), FORMAT, "checksum of its header"),
    "2^32 - 1 sections": (lambda f: setattr(f, "n_sections", 2**32 - 1), FORMAT, "cannot have 4294967295 sections"),
    "65 sections": (lambda f: setattr(f, "n_sections", 65), FORMAT, "cannot have 65 sections"),
    "unknown kind": (lambda f: f.section(FILE).__setitem__(0, 6), FORMAT, "its kind 6"),
    "kind 0": (lambda f: f.section(FILE).__setitem__(0, 0), FORMAT, "its kind 0"),
    "kind twice": (lambda f: f.section(FILE).__setitem__(0, SPEC), FORMAT, "its kind 1 is unknown or there twice"),
    "no spec": (lambda f: f.section(SPEC).__setitem__(0, FILE), FORMAT, "no section of kind 1"),
    "no index": (lambda f: f.section(INDEX).__setitem__(0, FILE), FORMAT, "no section of kind 2"),
    "no payload": (lambda f: f.section(PAYLOAD).__setitem__(0, FILE), FORMAT, "no section of kind 3"),
    "empty section": (lambda f: f.section(SPEC).__setitem__(3, 0), FORMAT, "section 0: is empty"),
    "swapped": (swap_sections, FORMAT, "does not follow"),
    "wraps around": (wrap_around, FORMAT, "ends outside of the file"),
    "past the end": (lambda f: f.sections[-1].__setitem__(3, 2**40), FORMAT, "ends outside of the file"),
    "not aligned": (lambda f: f.sections[1].__setitem__(2, f.sections[1][2] + 1), FORMAT, "does not follow"),
    "bytes left over": (lambda f: f.data.extend(bytes(64)), FORMAT, "belong to no section"),
    "index of odd size": (
        lambda f: f.data.pop() or f.sections[-1].__setitem__(3, f.sections[-1][3] - 1),
        FORMAT,
        "odd",
    ),
    "tensor missing": (drop_a_tensor, FORMAT, "tensors; the spec asks for"),
    "name without end": (lengthen_name, FORMAT, "no slot of its name"),
    "unknown name": (lambda f: f.tensor(3, NAME=b"decoder.9.0.q"), FORMAT, "tensor 3: the spec has no slot"),
    "name twice": (name_twice, FORMAT, "comes twice"),
    "rows": (lambda f: f.tensor(0, ROWS=41), FORMAT, "embed.tokens: is 41 x 32"),
    "cols": (lambda f: f.tensor(0, COLS=0), FORMAT, "embed.tokens: is 40 x 0"),
    "bytes": (lambda f: f.tensor(0, BYTES=2**64 - 64), FORMAT, "embed.tokens: is 40 x 32 in 18446744073709551552"),
    "offset": (lambda f: f.tensor(1, OFFSET=2**64 - 64), FORMAT, "does not follow the tensor before it"),
    "offset of the neighbour": (lambda f: f.tensor(2, OFFSET=f.tensor(1)[OFFSET]), FORMAT, "does not follow"),
    "first format": (lambda f: f.tensor(0, TYPE=9), UNSUPPORTED, "does not know its format 9"),
    "another format": (lambda f: f.tensor(1, TYPE=2), UNSUPPORTED, "has format 2 and layout"),
    "another layout": (lambda f: f.tensor(0, LAYOUT=2), UNSUPPORTED, "embed.tokens: has format 1 and layout 2"),
    "payload left over": (add_payload, FORMAT, "belong to no tensor"),
    "spec": (lambda f: f.put(SPEC, 12, "<I", 0), FORMAT, "vocab is out of range"),
    "too many pieces": (lambda f: f.put(VOCABULARY, 0, "<I", 2**32 - 1), FORMAT, "vocabulary is cut short"),
    "too many ends": (lambda f: f.put(VOCABULARY, 4, "<I", 2**32 - 1), FORMAT, "vocabulary is cut short"),
    "bos": (lambda f: f.put(VOCABULARY, 12, "<i", 40), FORMAT, "bos"),
    "offsets descend": (lambda f: f.put(VOCABULARY, 24 + 8 * 5, "<Q", 0), FORMAT, "descend"),
    "last offset": (grow_last_piece, FORMAT, "last offset"),
    "huge last offset": (lambda f: f.put(VOCABULARY, 24 + 8 * 40, "<Q", 2**63), FORMAT, "last offset"),
}


@pytest.mark.parametrize("case", CASES)
def test_broken_rule(flm, outcome, case):
    change, status, text = CASES[case]
    change(flm)
    got = outcome(flm.bytes())
    assert got[0] == status and text in got[1] and "case.flm: " in got[1], got


@pytest.mark.parametrize("kind", [SPEC, INDEX, VOCABULARY])
def test_damage_is_noticed(flm, outcome, kind):
    content = bytearray(flm.bytes())
    content[flm.at(kind) + 20] ^= 1
    status, text = outcome(bytes(content))
    assert status == FORMAT and "is damaged: the checksum of its" in text
    content = bytearray(flm.bytes())
    content[40] ^= 1
    assert "checksum of its header" in outcome(bytes(content))[1]


def test_damage_of_weights_is_noticed_when_asked_for(flm, outcome):
    name = flm.tensor(5)[NAME].rstrip(b"\0").decode()
    flm.data[flm.tensor(5)[OFFSET]] ^= 1
    content = flm.bytes()
    assert outcome(content)[0] == 0
    assert outcome(content, verify=True) == (FORMAT, outcome(content, verify=True)[1])
    assert f"checksum of tensor {name} is wrong" in outcome(content, verify=True)[1]


def test_things_that_are_no_files(open_flm, tmp_path):
    for path in [tmp_path, tmp_path / "none.flm"]:
        status, text = open_flm(path)
        assert status == IO and str(path) in text
    (tmp_path / "empty.flm").touch()
    assert open_flm(tmp_path / "empty.flm")[0] == FORMAT
