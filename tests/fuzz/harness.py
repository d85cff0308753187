"""Runs a Python fuzz target: under atheris where that is installed, else on random mutations of its inputs."""

from __future__ import annotations

import random
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

Target = Callable[[bytes], None]


def mutated(draw: random.Random, inputs: Sequence[bytes]) -> bytes:
    """One of the inputs with some changes: bits, odd pieces, pieces of another input, the end cut off."""
    data = bytearray(draw.choice(inputs))
    for _ in range(draw.randint(1, 4)):
        at = draw.randrange(len(data) + 1)
        kind = draw.randrange(5)
        if kind == 0 and at < len(data):
            data[at] ^= 1 << draw.randrange(8)
        elif kind == 1:
            data[at : at + draw.randrange(4)] = draw.choice(PIECES)
        elif kind == 2:
            other = draw.choice(inputs)
            start = draw.randrange(len(other) + 1)
            data[at:at] = other[start : start + draw.randrange(40)]
        elif kind == 3:
            del data[at : at + draw.randrange(1, 9)]
        elif draw.random() < 0.2:
            del data[at:]
    return bytes(data)


PIECES = [
    *(b"", b"0", b"-1", b"1e999", b"NaN", b"9" * 30, b"null", b'"\\ud800"', b'"x"', b"[", b"]", b"{", b"}", b",", b":"),
    *(
        b"\x00",
        b"\xff" * 8,
        b"\x7f" + bytes(7),
        (1 << 40).to_bytes(8, "little"),
        b"[" * 70,
        b'{"a":' * 70,
        b"\xef\xbb\xbf",
    ),
]


def replay(target: Target, inputs: Sequence[bytes], runs: int, seed: int) -> None:
    """The inputs, then mutations of them."""
    draw = random.Random(seed)
    for data in inputs:
        target(data)
    for _ in range(runs):
        data = mutated(draw, inputs)
        try:
            target(data)
        except BaseException:
            print(f"the input: {data!r}", file=sys.stderr)
            raise


def main(target: Target, inputs: Sequence[bytes]) -> None:
    """usage: TARGET.py [libFuzzer options and folders] with atheris, TARGET.py [RUNS [SEED]] without."""
    try:
        import atheris
    except ImportError:
        runs, seed = (int(a) for a in (*sys.argv[1:3], *("100000", "0")[len(sys.argv[1:3]) :]))
        replay(target, inputs, runs, seed)
        return
    folder = Path("build", "fuzz", Path(sys.argv[0]).stem)
    folder.mkdir(parents=True, exist_ok=True)
    for i, data in enumerate(inputs):
        (folder / f"input-{i}").write_bytes(data)
    atheris.instrument_all()
    atheris.Setup([*sys.argv, str(folder)], target)
    atheris.Fuzz()
