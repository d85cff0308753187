"""Text as tokens arrive: against Python's own decoder, and a search in the whole text for stop strings."""

from __future__ import annotations

import ctypes

import numpy as np
import pytest
from core_structs import Bytes, Error, Vocabulary, sampler_library
from hypothesis import given, settings
from hypothesis import strategies as st
from support import BuildC

LIBRARY: list[ctypes.CDLL] = []


@pytest.fixture(scope="module", autouse=True)
def library(build_c: BuildC) -> ctypes.CDLL:
    LIBRARY[:] = [sampler_library(build_c)]
    return LIBRARY[0]


def stream(
    pieces: list[bytes],
    tokens: list[int],
    *,
    special: tuple[int, ...] = (),
    stops: tuple[bytes, ...] = (),
    n_prompt: int = 0,
    strip: bool = False,
) -> tuple[bytes, list[int], int]:
    """The text, its length as shown after each token and at the end, and the number of tokens taken."""
    offsets = np.cumsum([0, *map(len, pieces)]).astype(np.uint64)
    data = np.frombuffer(b"".join(pieces) + b"\0", np.uint8)
    flags = np.isin(np.arange(len(pieces)), special).astype(np.uint8)
    vocabulary = Vocabulary(
        ctypes.sizeof(Vocabulary), len(pieces), offsets.ctypes.data, data.ctypes.data, flags.ctypes.data, strip, -1, -1
    )
    row = np.asarray(tokens, np.int32)
    n = len(tokens) - n_prompt
    out = ctypes.create_string_buffer(3 * sum(map(len, pieces)) * (n + 1) + 16)
    shown = (ctypes.c_size_t * (n + 2))()
    error = Error()
    taken = LIBRARY[0].unit_text(
        ctypes.byref(vocabulary),
        (Bytes * max(len(stops), 1))(*(Bytes(s, len(s)) for s in stops)),
        ctypes.c_size_t(len(stops)),
        row.ctypes.data_as(ctypes.c_void_p),
        ctypes.c_size_t(n_prompt),
        ctypes.c_size_t(len(tokens)),
        out,
        ctypes.c_size_t(len(out)),
        shown,
        ctypes.byref(error),
    )
    if taken < 0:
        raise ValueError(error.text.decode())
    lengths = list(shown)[: taken + 1]
    return out.raw[: lengths[-1]], lengths, taken


def first_stop(text: str, stops: tuple[bytes, ...]) -> str | None:
    """The text before the stop string that ends first (of those that end together, before the longest)."""
    ends = [(text.index(s) + len(s), -len(s), s) for s in (b.decode() for b in stops) if s in text]
    if not ends:
        return None
    end, _, stop = min(ends)
    return text[: end - len(stop)]


BYTES = [bytes([b]) for b in range(256)]
WORDS = st.lists(
    st.sampled_from(
        [b"a", b"b", b"ab", b"aab", b"\xc3", b"\xa9", b"\xf0\x9f", b"\x98\x80", b"\xe2\x82\xac", b"\xff", b" "]
    )
)


@settings(max_examples=400, deadline=None)
@given(st.binary(max_size=40) | st.text(max_size=20).map(str.encode))
def test_any_bytes(data: bytes) -> None:
    text, lengths, _ = stream(BYTES, list(data))
    assert text == data.decode("utf-8", "replace").encode()
    for length in lengths:
        text[:length].decode()  # never half a code point


@settings(max_examples=400, deadline=None)
@given(WORDS, st.lists(st.sampled_from(["a", "ab", "ba", "aaba", "é", "😀b", "€", "b b", "\ufffd"]), max_size=3))
def test_stop_strings(words: list[bytes], stops: list[str]) -> None:
    patterns = tuple(s.encode() for s in stops)
    text, lengths, taken = stream(words or [b""], list(range(len(words))), stops=patterns)
    whole = b"".join(words).decode("utf-8", "replace")
    expected = first_stop(whole, patterns)
    assert text.decode() == (whole if expected is None else expected)
    assert lengths == sorted(lengths)
    if expected is None:
        assert taken == len(words)
    for n, length in enumerate(lengths[:-1]):  # nothing that could be held back less
        decoded = b"".join(words[: n + 1]).decode("utf-8", "replace")
        if expected is None and decoded == b"".join(words[: n + 1]).decode("utf-8", "ignore"):
            held = max((k for p in stops for k in range(len(p)) if decoded.endswith(p[:k])), default=0)
            assert length == len(decoded[: len(decoded) - held].encode())


def test_tokens_up_to_the_stop_are_taken() -> None:
    pieces = [b"one st", b"op! two", b" more"]
    assert stream(pieces, [0, 1, 2], stops=(b"stop!",)) == (b"one ", [4, 4, 4], 2)
    assert stream(pieces, [0, 1, 2], stops=(b"stop?",)) == (b"one stop! two more", [4, 13, 18, 18], 3)


def test_first_space() -> None:
    pieces = [b"<s>", b" a", b" b", b""]
    assert stream(pieces, [1, 2], strip=True)[0] == b"a b"
    assert stream(pieces, [1, 2], strip=False)[0] == b" a b"
    assert stream(pieces, [0, 3, 1, 2], special=(0,), strip=True)[0] == b"a b"
    assert stream(pieces, [0, 1, 2], special=(0,), strip=True, n_prompt=1)[0] == b"a b"
    assert stream(pieces, [0, 2, 1, 2], special=(0,), strip=True, n_prompt=2)[0] == b" a b"


def test_special_tokens_print_nothing_and_split_nothing() -> None:
    pieces = [b"<s>", b"\xf0\x9f", b"\x98\x80"]
    assert stream(pieces, [1, 0, 2], special=(0,))[0] == "😀".encode()


def test_unfinished_end_is_shown_at_the_end() -> None:
    assert stream(BYTES, list(b"a\xf0\x9f\x98")) == ("a\ufffd".encode(), [1, 1, 1, 1, 4], 4)
    assert stream([b"abc ST"], [0], stops=(b"STOP",)) == (b"abc ST", [4, 6], 1)


@pytest.mark.parametrize("stop", [b"", b"\xff", b"\xf0\x9f", b"\xed\xa0\x80"])
def test_bad_stops(stop: bytes) -> None:
    with pytest.raises(ValueError, match="stop string 1"):
        stream(BYTES, [65], stops=(b"ok", stop))


def test_bad_vocabulary() -> None:
    with pytest.raises(ValueError, match="need a vocabulary"):
        stream([], [], stops=(b"x",))
