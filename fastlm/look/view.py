"""The attention of a text, with the words to its rows and columns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from fastlm.arch.spec import Source
from fastlm.arguments import whole
from fastlm.errors import ModelMemoryError, ParameterError, UnsupportedError
from fastlm.tasks.forward import heads
from fastlm.tasks.texts import read_one

if TYPE_CHECKING:
    from fastlm.engine import Engine
    from fastlm.model import Model

Array = NDArray[np.float32]
MOST_BYTES = 1 << 30  # of a text's attention, which is all in memory
TARGET_TOKENS = 64  # that an encoder-decoder writes where it is not told what to read


@dataclass(frozen=True, slots=True)
class Token:
    """What is shown of a token, and whether it is a special one, which stands for no word."""

    text: str
    special: bool


@dataclass(frozen=True, slots=True)
class View:
    """How much each token of a row looks at each token of a column.

    Attributes
    ----------
    text
        That it is of.
    part
        "self"; of an encoder-decoder "encoder", "decoder", or "cross": the decoder over the encoder.
    queries, keys
        The tokens that look, and those that are looked at.
    layers
        Per layer float32 (heads, queries, keys). Rows add up to 1.
    """

    text: str
    part: str
    queries: list[Token]
    keys: list[Token]
    layers: list[Array]

    def matrix(self, layer: int | None = None, head: int | None = None) -> Array:
        """(queries, keys) of a head, or the mean over all heads (None), of a layer or of all of them (None).

        Raises
        ------
        ParameterError
            There is no such layer, or head.
        """
        layer, head = self.place(layer, head)
        layers = self.layers if layer is None else [self.layers[layer]]
        if head is not None:
            layers = [heads[head : head + 1] for heads in layers]
        found: Array = np.concatenate(layers).mean(axis=0, dtype=np.float64).astype(np.float32)
        return found

    def place(self, layer: int | None, head: int | None) -> tuple[int | None, int | None]:
        """The same layer and head, counted from the start. Raises as `matrix`."""
        layer = None if layer is None else _at(layer, "layer", len(self.layers))
        heads = [len(found) for found in self.layers]
        return layer, None if head is None else _at(head, "head", max(heads) if layer is None else heads[layer])

    def query(self, token: str) -> int:
        """The row of a token, which is given by its number or by how it is written.

        Raises
        ------
        ParameterError
            There is none, or there are several.
        """
        found = [i for i, query in enumerate(self.queries) if query.text.strip().lower() == token.strip().lower()]
        if len(found) > 1:
            raise ParameterError(f"token: {token!r} is there more than once: give its number: {_list(found)}")
        if found:
            return found[0]
        if token.lstrip("-").isdecimal():
            return _at(int(token), "token", len(self.queries))
        known = " ".join(f"{i}:{query.text.strip()}" for i, query in enumerate(self.queries))
        raise ParameterError(f"token: {token!r} is none of this text's tokens, which are {known:.500}")


def strongest(view: View, matrix: Array) -> float:
    """The most that a token which is no special one is looked at; these take most in many heads, and would hide it."""
    plain = np.array([not token.special for token in view.keys])
    return max(float(matrix[:, plain].max()) if plain.any() else float(matrix.max()), 1e-9)


def _at(number: int, name: str, count: int) -> int:
    """A place of so many, which may be counted from the end."""
    return whole(number, name, -count, count - 1) % count


def _list(numbers: Sequence[int]) -> str:
    return ", ".join(map(str, numbers))


def look(model: Model, text: str, target: str | None = None) -> list[View]:
    """The attention of a text: of the model's one stack, or of an encoder-decoder's three kinds.

    Parameters
    ----------
    target
        What an encoder-decoder's decoder reads; None: what it writes itself.

    Raises
    ------
    UnsupportedError, ParameterError, ContextLengthError, ModelMemoryError
        The model has no tokenizer; a target that no decoder reads; as `Model.forward`; more than a gigabyte of shares.
    """
    engine = model.engine
    engine.prompts.needed_tokenizer()
    if engine.kind == "encoder-decoder":
        return _look_over_source(model, text, target)
    if target is not None:
        raise ParameterError(f"target: only an encoder-decoder reads one; this model's kind is {engine.kind}")
    ids, tokens, types = _read(engine, text)
    _check_room(sum(heads(engine.spec.main)) * len(ids) ** 2)
    found = model.forward(ids, token_type_ids=types, logits="last", attentions=True)
    if not found.attentions:
        raise UnsupportedError("this model has no attention that could be looked at")
    return [View(text, "self", tokens, tokens, found.attentions)]


def _look_over_source(model: Model, text: str, target: str | None) -> list[View]:
    engine = model.engine
    ids, source, _ = _read(engine, text)
    if target is None:
        written = model.generate(ids, max_tokens=TARGET_TOKENS).token_ids
    else:
        written = engine.prompts.of_text(target, "target")
    start = engine.info["decoder_start"]
    decoder_ids = [*([] if start is None else [int(start)]), *written]
    tokens = [_token(engine, token) for token in decoder_ids]
    n, spec = len(decoder_ids), engine.spec
    own, cross = (sum(heads(spec.main, source)) for source in Source)
    _check_room(sum(heads(spec.encoder)) * len(ids) ** 2 + own * n**2 + cross * n * len(ids))
    found = model.forward(ids, decoder_ids=decoder_ids, logits="last", attentions=True)
    parts = [
        ("cross", tokens, source, found.cross_attentions),
        ("encoder", source, source, found.encoder_attentions),
        ("decoder", tokens, tokens, found.attentions),
    ]
    return [View(text, part, queries, keys, layers) for part, queries, keys, layers in parts if layers]


def _check_room(shares: int) -> None:
    if 4 * shares > MOST_BYTES:
        raise ModelMemoryError(f"attention of this text takes {4 * shares / 1e9:.1f} GB: take a shorter one, or a part")


def _read(engine: Engine, text: str) -> tuple[list[int], list[Token], list[int] | None]:
    """Ids of a text, what is shown of them, and their types where the model has any."""
    if engine.kind != "encoder":
        ids = engine.prompts.of_text(text, "text")
        return ids, [_token(engine, token) for token in ids], None
    reading = read_one(engine, text, spans=True)
    tokens = [
        _token(engine, token) if part is None else Token(text[start:end], False)
        for token, part, (start, end) in zip(reading.ids, reading.parts, reading.spans, strict=True)
    ]
    return reading.ids, tokens, reading.types if engine.spec.main.embed.types > 1 else None


def _token(engine: Engine, token: int) -> Token:
    """By its number alone: what it prints, or a special one's name."""
    tokenizer = engine.prompts.needed_tokenizer()
    special = tokenizer.piece_of(token) is None
    return Token(tokenizer.decode([token], skip_special=False) if special else tokenizer.piece(token), special)
