"""What C needs to know of a vocabulary, from the tokenizer and the folder's configs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fastlm.errors import ModelFormatError
from fastlm.tokenizer.tokenizer import Tokenizer


def token_ids(value: object) -> list[int]:
    """The ids that a config says: one, a list of them, or none."""
    found = value if isinstance(value, list) else [value]
    return [v for v in found if isinstance(v, int) and not isinstance(v, bool)]


def vocabulary(
    tokenizer: Tokenizer | None, config: Mapping[str, object], generation_config: Mapping[str, object], vocab: int
) -> dict[str, Any]:
    """What C needs to print and to stop: the arguments of `_core.Model.set_vocabulary`."""
    table = tokenizer.table if tokenizer else None
    sources = (generation_config, config)
    eos = {i for source in sources for i in token_ids(source.get("eos_token_id"))} | set(
        tokenizer.eos if tokenizer else []
    )
    if tokenizer is not None and tokenizer.end_of_model > vocab:
        raise ModelFormatError(f"tokenizer: has {tokenizer.end_of_model} tokens, but the model only {vocab}")

    def first(name: str) -> int | None:
        return next((i for source in sources for i in token_ids(source.get(name)) if 0 <= i < vocab), None)

    bos = first("bos_token_id")
    return {
        "pieces": table.pieces[:vocab] if table else [],
        "special": table.special[:vocab] if table else [],
        "strip_first_space": table is not None and table.strip_first_space,
        "bos": bos,
        "decoder_start": bos if (start := first("decoder_start_token_id")) is None else start,
        "eos": sorted(i for i in eos if 0 <= i < vocab),
    }
