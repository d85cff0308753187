"""Texts cut at special tokens, and the rest by a model: as those of transformers' classes do that are all Python."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping

from fastlm.tokenizer.library import Token


class Segments:
    """Turns texts into ids.

    Parameters
    ----------
    tokens
        Special tokens by their ids.
    cut
        The ids of a text without any.
    before, after
        What stands around a text.
    once
        Whether a text that ends with what stands behind it gets no more of it.
    """

    def __init__(
        self,
        tokens: Mapping[int, Token],
        cut: Callable[[str], list[int]],
        before: Iterable[int],
        after: Iterable[int],
        once: bool = False,
    ) -> None:
        self._before, self._after = list(before), list(after)
        self._once = once
        self._cut = cut
        self._tokens = {token.content: (i, token) for i, token in tokens.items()}
        names = sorted(self._tokens, key=len, reverse=True)
        self._special = re.compile(f"({'|'.join(map(re.escape, names))})") if names else None

    def ids(self, text: str, special: bool) -> list[int]:
        """The ids of a text; special: with what stands around it."""
        parts = [text] if self._special is None else self._special.split(text)
        for i in range(1, len(parts), 2):
            _, token = self._tokens[parts[i]]
            if token.rstrip:
                parts[i + 1] = parts[i + 1].lstrip()
            if token.lstrip:
                parts[i - 1] = parts[i - 1].rstrip()
        found: list[int] = []
        for i, part in enumerate(parts):
            if i % 2:
                found.append(self._tokens[part][0])
            elif part:
                found += self._cut(part)
        if not special:
            return found
        ended = self._once and found[-len(self._after) :] == self._after
        return [*self._before, *found, *([] if ended else self._after)]
