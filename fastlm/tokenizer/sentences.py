"""What a folder of sentence-transformers changes in a tokenizer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from fastlm.tokenizer.components import Part, parts_of
from fastlm.tokenizer.description import Description
from fastlm.tokenizer.library import Token
from fastlm.weights.source import ModelSource

LIMITS, SETTINGS = "sentence_bert_config.json", "config_sentence_transformers.json"
_PREFIXES = ("query_prefix", "document_prefix")


def adapted(model: ModelSource, made: Description) -> Description:
    """The tokenizer with lower case, and with marks of queries and documents as tokens, where the folder wants them.

    The marks are those of old folders of late interaction ("[Q] "), which no vocabulary would find in lower case.
    """
    if (model.read_json(LIMITS) or {}).get("do_lower_case") is True:
        made = _lowered(made)
    settings = model.read_json(SETTINGS) or {}
    for prefix in (settings.get(name) for name in _PREFIXES):
        if isinstance(prefix, str) and prefix.split():
            made = _marked(made, prefix)
    return made


def _lowered(made: Description) -> Description:
    stages: Mapping[str, Part | None] = made.stages
    parts = parts_of("normalizer", stages.get("normalizer"))
    if any(part["type"] == "Lowercase" or part.get("lowercase") is True for part in parts):
        return made
    lowered: Part = {"type": "Sequence", "normalizers": [{"type": "Lowercase"}, *parts]}
    return replace(made, stages={**stages, "normalizer": lowered})


def _marked(made: Description, prefix: str) -> Description:
    there = {token.content for token in made.tokens} | set(made.subwords.ids)
    mark = next((text for text in (prefix, prefix.split(None, 1)[0]) if text in there), None)
    if mark is None:
        return made
    others = tuple(replace(t, normalized=False, special=True) if t.content == mark else t for t in made.tokens)
    new = () if any(token.content == mark for token in made.tokens) else (Token(mark),)
    return replace(made, tokens=(*others, *new))
