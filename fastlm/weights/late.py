"""Late interaction: what a folder says of vectors for each token (ColBERT: Khattab and Zaharia 2020)."""

from __future__ import annotations

import string
from dataclasses import dataclass

from fastlm.arch.config import MAX_CONTEXT, MAX_VOCAB, Config

QUERY, DOCUMENT = "query", "document"
_PUNCTUATION = tuple(string.punctuation)
_QUERY_TOKENS = 32  # of an expanded query, where an old folder does not say
# What folders of PyLate say in one place, and those of sentence-transformers nowhere.
_OLD_KEYS = (
    "query_prefix",
    "document_prefix",
    "query_length",
    "document_length",
    "do_query_expansion",
    "attend_to_expansion_tokens",
    "skiplist_words",
)


@dataclass(frozen=True, slots=True)
class Expansion:
    """Queries are filled up with mask tokens.

    Attributes
    ----------
    length
        Tokens of a query, then.
    fixed
        Whether a longer query is cut off, too.
    attend
        Whether the other tokens look at them.
    token
        Another token than the mask.
    """

    length: int
    fixed: bool = True
    attend: bool = False
    token: str | None = None


@dataclass(frozen=True, slots=True)
class Mask:
    """Which tokens have no vector.

    Attributes
    ----------
    words
        These,
    tasks
        in texts of these kinds.
    kept
        Of documents only these ids have one; (): all.
    """

    words: tuple[str, ...] = ()
    tasks: tuple[str, ...] = (DOCUMENT,)
    kept: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Late:
    """What is special about queries and documents.

    Attributes
    ----------
    mask
        Which tokens have no vector.
    lengths
        Tokens of a query and of a document after which they are cut off; 0: as of all texts.
    expansion
        Of queries, if they are filled up.
    prefixes
        Beginnings of queries and documents that a folder of PyLate names beside its prompts.
    legacy
        Whether it lists neither mask nor norm, but means both.
    """

    mask: Mask
    lengths: tuple[int, int] = (0, 0)
    expansion: Expansion | None = None
    prefixes: tuple[str, str] = ("", "")
    legacy: bool = False

    def longest(self, kind: str) -> int:
        """Tokens of a text of this kind; 0: as of all texts."""
        return self.lengths[0 if kind == QUERY else 1]


def read_mask(config: Config) -> Mask:
    """A MultiVectorMask module."""
    given = config.text_or_none("skiplist_tasks") if config.is_text("skiplist_tasks") else None
    tasks = [given] if given else config.items("skiplist_tasks", str)
    kept = config.items("keep_only_token_ids", int) or []
    if any(not 0 <= token < MAX_VOCAB for token in kept):
        raise config.bad("keep_only_token_ids", "expected token ids")
    words = config.items("skiplist_words", str) or []
    config.finish()
    return Mask(tuple(words), (DOCUMENT,) if tasks is None else tuple(tasks), tuple(kept))


def read_late(settings: Config, limits: Config, mask: Mask | None) -> Late:
    """What the model's settings say, in the dialects of sentence-transformers and of PyLate."""
    legacy = settings.text_or_none("model_type") == "ColBERT"
    words = settings.items("skiplist_words", str)
    if mask is None:
        mask = Mask(_PUNCTUATION if legacy and words is None else tuple(words or ()))
    prefixes = tuple(settings.text_or_none(f"{kind}_prefix") or "" for kind in (QUERY, DOCUMENT))
    old = any(settings.has(key) for key in _OLD_KEYS)
    lengths = [limits.count_or_none(f"{kind}_length", None, MAX_CONTEXT) or 0 for kind in (QUERY, DOCUMENT)]
    if old:
        lengths[1] = lengths[1] or settings.count_or_none("document_length", None, MAX_CONTEXT) or 0
    section = limits.section("query_expansion")
    if section is not None:
        expansion: Expansion | None = _expansion(section)
    else:
        expansion = _old_expansion(settings) if old and not limits.states("query_expansion") else None
    return Late(mask, (lengths[0], lengths[1]), expansion, (prefixes[0], prefixes[1]), legacy)


def _expansion(section: Config) -> Expansion:
    strategy = section.text("strategy", "")
    if strategy not in ("fixed", "min"):
        raise section.unsupported("strategy", strategy, "known: fixed, min")
    length = section.count("length", 0, MAX_CONTEXT)
    return Expansion(length, strategy == "fixed", section.flag("attend", False), section.text_or_none("token"))


def _old_expansion(settings: Config) -> Expansion | None:
    if not settings.flag("do_query_expansion", True):
        return None
    length = settings.count_or_none("query_length", None, MAX_CONTEXT) or _QUERY_TOKENS
    return Expansion(length, attend=settings.flag("attend_to_expansion_tokens", False))
