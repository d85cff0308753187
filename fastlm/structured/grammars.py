"""The grammars of a model, kept for its next texts. A model that writes by none never imports what makes them."""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from typing import TYPE_CHECKING, Any
from weakref import WeakSet

from fastlm import _core

if TYPE_CHECKING:
    from fastlm.structured.grammar import Grammar
    from fastlm.structured.library import Matcher
    from fastlm.tokenizer.tokenizer import Tokenizer

KEPT = 32  # grammars of a model that need not be made again
_known: WeakSet[Grammars] = WeakSet()


class Grammars:
    """The grammars that texts of one model are written by. For several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._tokens: Any = None
        self._matchers: OrderedDict[Grammar, Matcher] = OrderedDict()
        _known.add(self)

    def forget(self) -> None:
        """In a child process, where nobody gives the lock back."""
        self._lock = threading.Lock()

    def matcher(self, model: _core.Model, tokenizer: Tokenizer | None, vocab: int, grammar: Grammar) -> Matcher:
        """A new text's.

        Raises
        ------
        UnsupportedError
            llguidance is not installed, or does not have something that the grammar asks for; or the texts of this
            model's tokenizer cannot be told token by token.
        ParameterError
            The grammar is malformed; the text names the place.
        StateError
            As many grammars as may are compiled already, and none of them ends.
        """
        from fastlm.structured.library import imported, matcher_of, tokens_of

        library = imported(grammar.name)
        with self._lock:
            if self._tokens is None:
                self._tokens = tokens_of(library, model, tokenizer, vocab, grammar.name)
            tokens, known = self._tokens, self._matchers.get(grammar)
            if known is not None:
                self._matchers.move_to_end(grammar)
        if known is None:
            known = matcher_of(library, tokens, grammar)
            with self._lock:
                self._matchers[grammar] = known
                while len(self._matchers) > KEPT:
                    self._matchers.popitem(last=False)
        return known.copy()


def _forget() -> None:
    """In a child process."""
    for grammars in tuple(_known):
        grammars.forget()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)
