"""Text files -> documents -> rows of token ids, the same for every run of a seed."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from fastlm.errors import ParameterError, file_error
from fastlm.weights.paths import path_of

SEPARATOR = "<|endoftext|>"
HELD_OUT = 0.05  # of a file's documents: its last ones

Ids = np.ndarray[Any, np.dtype[np.int32]]


class Codec(Protocol):
    """Text to token ids, the token that starts a document in front, and one that ends it behind if that is another."""

    def documents(self, texts: Sequence[str]) -> list[Ids]: ...


@dataclass(frozen=True, slots=True)
class TextFile:
    """One file's documents; `held_out` are its last ones, which training never sees."""

    name: str
    digest: str
    weight: float
    train: list[str]
    held_out: list[str]

    @property
    def held_out_bytes(self) -> int:
        return sum(len(text.encode()) for text in self.held_out)

    def whole(self) -> TextFile:
        """The same with nothing held out."""
        return TextFile(self.name, self.digest, self.weight, [*self.train, *self.held_out], [])


def read_texts(paths: Sequence[str | Path], weights: Sequence[float] = ()) -> list[TextFile]:
    """Read files whose documents are separated by lines `<|endoftext|>`.

    The last 5 % of each file's documents, rounded up, are held out; a file that is one document is cut at a line end.
    `weights` say how often an epoch shows each file (1).

    Raises
    ------
    ModelFileError
        A file cannot be read.
    ParameterError
        A file is not UTF-8, there is nothing to learn from, or the weights do not fit the files.
    """
    if not paths:
        raise ParameterError("give at least one text file to train on")
    if weights and len(weights) != len(paths):
        raise ParameterError(f"weights: {len(weights)} given for {len(paths)} files; give one for each file")
    if any(not 0 < weight < 1000 for weight in weights):
        raise ParameterError("weights must be over 0 and below 1000")
    return [_read(path_of(path), weight) for path, weight in zip(paths, weights or [1.0] * len(paths), strict=True)]


def _read(path: Path, weight: float) -> TextFile:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise file_error(path, "read", error) from error
    try:
        text = data.decode("utf-8").replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        raise ParameterError(f"{path}: not UTF-8 text at byte {error.start}") from None
    documents = split_documents(text)
    if not documents:
        raise ParameterError(f"{path}: holds no text: give files with documents separated by lines {SEPARATOR}")
    if len(documents) == 1:
        cut = documents[0].rfind("\n", 0, math.ceil(len(documents[0]) * (1 - HELD_OUT)))
        if cut <= 0:
            raise ParameterError(f"{path}: one line only: too little to hold out a part of it for validation")
        documents = [documents[0][:cut], documents[0][cut + 1 :]]
    held = math.ceil(len(documents) * HELD_OUT)
    return TextFile(path.name, hashlib.sha256(data).hexdigest(), weight, documents[:-held], documents[-held:])


def bits_per_byte(files: Sequence[TextFile], bits: Sequence[float]) -> dict[str, float]:
    """Of each file's held-out documents, and of all of them together under "all", by the bits that each file takes."""
    sizes = [file.held_out_bytes for file in files]
    each = {file.name: b / size for file, b, size in zip(files, bits, sizes, strict=True)}
    return {"all": sum(bits) / sum(sizes), **(each if len(each) > 1 else {})}


def split_documents(text: str) -> list[str]:
    """The documents of a text, without those that are blank."""
    found, lines = [], list[str]()
    for line in [*text.split("\n"), SEPARATOR]:
        if line.strip() == SEPARATOR:
            found.append("\n".join(lines).strip("\n"))
            lines = []
        else:
            lines.append(line)
    return [document for document in found if document.strip()]


class Rows:
    """Training rows of `length` + 1 tokens (each token is once an input and once a target).

    An epoch shows each document as often as its file's weight says (the fraction by lot), in an order drawn anew,
    joined to one stream that is cut into rows at a random offset. All of it follows from the seed and the step.
    """

    def __init__(self, files: Sequence[TextFile], codec: Codec, *, length: int, batch: int, seed: int) -> None:
        self._documents = [ids for file in files for ids in codec.documents(file.train)]
        self._weights = np.concatenate([np.full(len(file.train), file.weight) for file in files])
        self.length, self._batch, self._seed = length, batch, seed
        sizes = np.array([len(ids) for ids in self._documents])
        self.epoch_tokens = round(float(sizes @ self._weights))
        self._rows = self.epoch_tokens // length - 1  # one less: the random offset
        if self._rows < 1:
            raise ParameterError(
                f"the text has {self.epoch_tokens} tokens, too few for rows of {length}: "
                "give more text or a lower --length"
            )
        self._stream: tuple[int, Ids] | None = None

    def steps(self, epochs: float) -> int:
        """How many batches show each document `epochs` times."""
        return max(1, math.ceil(epochs * self.epoch_tokens / (self.length * self._batch)))

    def batch(self, step: int) -> Ids:
        """int32 (batch, length + 1), the rows of a step."""
        first = step * self._batch
        return np.stack([self._row(index) for index in range(first, first + self._batch)])

    def _row(self, index: int) -> Ids:
        epoch, row = divmod(index, self._rows)
        if self._stream is None or self._stream[0] != epoch:
            self._stream = (epoch, self._shuffled(epoch))
        start = row * self.length
        return self._stream[1][start : start + self.length + 1]

    def _shuffled(self, epoch: int) -> Ids:
        generator = np.random.default_rng([self._seed, epoch])
        copies = np.floor(self._weights + generator.random(len(self._weights))).astype(np.int64)
        order = generator.permutation(np.repeat(np.arange(len(copies)), copies))
        offset = int(generator.integers(self.length))
        stream = np.concatenate([self._documents[i] for i in order] or self._documents)[offset:]
        return np.resize(stream, (self._rows + 1) * self.length)  # repeats its start where lots fell short


@dataclass(frozen=True, slots=True)
class Window:
    """A piece of a held-out document: its tokens, and how many at its end are scored."""

    ids: Ids
    scored: int


def windows(ids: Ids, length: int) -> Iterator[Window]:
    """Windows of at most `length` inputs; each but the first scores its second half, so all have a context.

    The token that starts the document is never scored.
    """
    end = min(len(ids), length + 1)
    yield Window(ids[:end], end - 1)
    while end < len(ids):
        following = min(len(ids), end + max(1, length // 2))
        yield Window(ids[max(0, following - length - 1) : following], following - end)
        end = following
