"""JSON in pieces: the values are those of Python's parser, whatever the layout; what is no JSON is a typed error."""

from __future__ import annotations

import json
import random
from typing import Any

import pytest

from fastlm.errors import ModelFormatError
from fastlm.tokenizer import large_json
from fastlm.tokenizer.large_json import parse_large

STRINGS = ["a", '"', "\\", "\n", '",', "{", "]", "\u00e9", "\U0001f600", '",\n  "', "\\u", "", "x" * 300]


def value(draw: random.Random, depth: int = 0) -> Any:
    kind = draw.randrange(9 if depth < 4 else 5)
    if kind < 2:
        return "".join(draw.choice(STRINGS) for _ in range(draw.randrange(4)))
    if kind < 5:
        return draw.choice([0, 1, -5, 10**20, 0.5, -1e-7, 1e300, True, False, None])
    if kind < 7:
        return [value(draw, depth + 1) for _ in range(draw.choice([0, 1, 3, 60]))]
    return {draw.choice(STRINGS) + str(i): value(draw, depth + 1) for i in range(draw.choice([0, 1, 3, 60]))}


@pytest.mark.parametrize("indent", [None, 0, 1, 2, "\t"])
@pytest.mark.parametrize("ascii_only", [True, False])
def test_as_the_parser(indent: Any, ascii_only: bool) -> None:
    draw = random.Random(1)
    for _ in range(40):
        whole = {"a": value(draw), "b": value(draw)}
        data = json.dumps(whole, indent=indent, ensure_ascii=ascii_only).encode()
        assert parse_large(data, "f") == whole


def large(count: int) -> dict[str, Any]:
    pieces = {f'{STRINGS[i % 9]}{i}"': i for i in range(count)}
    return {
        "vocab": pieces,
        "merges": [[piece, "b"] for piece in pieces],
        "scores": [[p, -i / 7] for p, i in pieces.items()],
    }


@pytest.mark.parametrize("indent", [None, 2])
def test_large_ones_go_in_pieces(monkeypatch: pytest.MonkeyPatch, indent: int | None) -> None:
    """No call of Python's parser sees more than a run, and only few entries go one by one."""
    whole = large(20_000)
    data = json.dumps(whole, indent=indent, ensure_ascii=False).encode()
    sizes: list[int] = []
    parsed = large_json._Reader._parsed

    def counted(self: large_json._Reader, piece: bytes) -> Any:
        sizes.append(len(piece))
        return parsed(self, piece)

    monkeypatch.setattr(large_json._Reader, "_parsed", counted)
    assert parse_large(data, "f") == whole
    assert max(sizes) < 200_000 and sum(sizes) < 1.1 * len(data) and len(sizes) < 500


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "no value"),
        (b"[]", "expected a JSON object"),
        (b'{"a": 1} x', "more follows"),
        (b'{"a": 1,}', "no value"),
        (b'{"a" 1}', "':'"),
        (b'{"a": [1 2]}', "','"),
        (b'{"a": [1,, 2]}', "no value"),
        (b'{"a": NaN}', "no value"),
        (b'{"a": 1e}', "not JSON"),
        (b'{"a": 01}', "not JSON"),
        (b'{"a": "\\x"}', "not JSON"),
        (b'{"a": "b\nc"}', "no value"),
        (b'{"a": "\xff"}', "UTF-8"),
        (b'{"a": "\\ud83d", "b": 0}', "surrogate"),
        (b'{"a": [["\\uDE00", "b"], ["c", "d"]]}', "surrogate"),
        (b'{"a": ' + b"[" * 100 + b"]" * 100 + b"}", "nested too deeply"),
        (b'{"a": [' + b"[[]]," * 60_000 + b"1]}", "too many parts"),
        (b'{"a": [' + b"[\n1]," * 15_000 + b"1]}", "too many parts"),
        (b'\xef\xbb\xbf{"a": 1}', "no value"),
        (b'{"a": ' + b"9" * 6000 + b"}", "not JSON"),
    ],
)
def test_what_is_no_json(data: bytes, words: str) -> None:
    with pytest.raises(ModelFormatError, match=words) as caught:
        parse_large(data, "f")
    assert str(caught.value).startswith("f: ")


def test_the_last_of_a_name_counts() -> None:
    assert parse_large(b'{"a": 1, "b": {"x": 1, "x": 2}, "a": 3}', "f") == {"a": 3, "b": {"x": 2}}
