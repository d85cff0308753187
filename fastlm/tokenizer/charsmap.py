"""SentencePiece's precompiled character maps: a double-array trie of what is replaced, then the replacements."""

from __future__ import annotations

import base64
import binascii

import numpy as np
from numpy.typing import NDArray

_LEAF = 1 << 31


def longest_replacement(encoded: str) -> int:
    """Characters of the longest replacement in a map, as a tokenizer.json holds it.

    Raises
    ------
    ValueError
        It is not such a map: a walk through the trie, or one of its values, would leave it.
    """
    try:
        data = base64.b64decode(encoded, validate=True)
    except (binascii.Error, ValueError):
        raise ValueError("is not base64") from None
    return longest_of(data)


def longest_of(data: bytes) -> int:
    """The same of a map as it is in a SentencePiece model."""
    size = int.from_bytes(data[:4], "little")
    if len(data) < 4 or not 1024 <= size <= len(data) - 4 or size % 1024:
        raise ValueError("holds no whole trie")
    texts = data[4 + size :]
    try:
        longest = max(map(len, texts.decode("utf-8").split("\0")))
    except UnicodeDecodeError:
        raise ValueError("holds replacements that are not UTF-8") from None
    _check_trie(np.frombuffer(data, "<u4", size // 4, 4), np.frombuffer(texts + b"\0", np.uint8))
    return longest


def _check_trie(units: NDArray[np.uint32], texts: NDArray[np.uint8]) -> None:
    """Each unit: bits 10 to 30 (times 256 if bit 9) lead to a block of 256, bit 8: whose first unit is a value."""
    inner = np.flatnonzero(units < _LEAF)
    found = units[inner].astype(np.int64)
    targets = inner ^ ((found >> 10) << ((found & 512) >> 6))
    if np.any(targets | 255 >= len(units)):
        raise ValueError("has a trie that leads out of itself")
    values = units[targets[(found & 256) != 0]] & (_LEAF - 1)
    if np.any(values >= len(texts)) or np.any(texts[values] & 0xC0 == 0x80):
        raise ValueError("has a value that is no replacement")
