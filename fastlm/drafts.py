"""Speculative decoding: what `draft=` takes. What is proposed, and verified, is the engine's business."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from fastlm import _core
from fastlm.arguments import shown, whole
from fastlm.errors import ParameterError, StateError
from fastlm.tokenizer.tokenizer import Tokenizer

MAX_TOKENS = 32  # FLM_MAX_DRAFT, FLM_MAX_LOOKUP
MAX_NGRAM = 8


class Drafting(Protocol):
    """What of an engine counts here: `fastlm.engine.Engine`."""

    @property
    def core(self) -> _core.Model: ...
    @property
    def tokenizer(self) -> Tokenizer | None: ...
    @property
    def vocab(self) -> int: ...
    @property
    def writes(self) -> bool: ...


class Drafter(Protocol):
    """A model: `fastlm.Model`."""

    @property
    def engine(self) -> Drafting: ...


@dataclass(frozen=True, slots=True)
class Draft:
    """Have a smaller model propose tokens, which the one that writes verifies several at a time.

    What is written has the same bits as without, greedy or drawn, whatever the model proposes. It comes sooner, the
    more alike both models are.

    Parameters
    ----------
    model
        A decoder with the same vocabulary, loaded beside the one that writes: `load(path, beside=model)`. A request
        that runs keeps it.
    tokens
        How many to propose for each step, from 1 to 32; "auto": as many as pay, by what was accepted and what steps
        take.

    Raises
    ------
    ParameterError
        An argument is of another type, or out of range. Whether the model can draft is told by the call that it is for.
    """

    model: Drafter
    tokens: int | str = "auto"

    def __post_init__(self) -> None:
        core = getattr(getattr(self.model, "engine", None), "core", None)
        if not isinstance(core, _core.Model):
            raise ParameterError(f"draft: model must be a model that load() gave, not {shown(self.model)}")
        _checked_tokens(self.tokens)

    def __repr__(self) -> str:
        return f"Draft({self.model!r}, tokens={self.tokens!r})"


@dataclass(frozen=True, slots=True)
class Lookup:
    """Propose what followed the last tokens where they stood before in the prompt or the text (prompt lookup decoding).

    It pays where texts repeat: summaries, edits of code, answers that quote. What is written has the same bits.

    Parameters
    ----------
    ngram
        How many of the last tokens to look for at most, from 1 to 8; the longest ending that is found counts, where it
        stood last.
    tokens
        As of `Draft`.

    Raises
    ------
    ParameterError
        A number is out of range.
    """

    ngram: int = 3
    tokens: int | str = "auto"

    def __post_init__(self) -> None:
        whole(self.ngram, "draft: ngram", 1, MAX_NGRAM)
        _checked_tokens(self.tokens)


def _checked_tokens(value: int | str) -> int:
    """As the core takes it: 0 is "auto"."""
    return 0 if value == "auto" else whole(value, 'draft: tokens, unless "auto",', 1, MAX_TOKENS)


def draft_of(value: object) -> Draft | Lookup | None:
    """The value of `draft=`."""
    if value is not None and not isinstance(value, Draft | Lookup):
        raise ParameterError(f"draft must be fastlm.Draft(model) or fastlm.Lookup(), not {shown(value)}")
    return value


def fields_of(draft: Draft | Lookup | None) -> Mapping[str, Any]:
    """The fields of flm_sampling for it."""
    if draft is None:
        return {}
    proposes = {"draft": draft.model.engine.core} if isinstance(draft, Draft) else {"lookup": draft.ngram}
    return {**proposes, "draft_tokens": _checked_tokens(draft.tokens)}


def check(draft: Draft | Lookup | None, target: Drafting) -> None:
    """Refuse a model that is closed, or has other words where the core cannot tell: those that no table prints."""
    if not isinstance(draft, Draft):
        return
    engine = draft.model.engine
    if engine.core.closed:
        raise StateError("draft: its model is closed")
    one, other = engine.tokenizer, target.tokenizer
    if one is None or other is None or not engine.writes or (one.prints_by_table and other.prints_by_table):
        return
    pieces = (i for i in range(min(engine.vocab, target.vocab)) if one.piece_of(i) != other.piece_of(i))
    if (token := next(pieces, None)) is not None:
        raise ParameterError(
            f"draft: token {token} is not the same in both vocabularies: a draft needs that of its target"
        )
