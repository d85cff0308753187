"""How a text is chosen: OpenAI's fields, and those of `Model.generate` beside them."""

from __future__ import annotations

from typing import Any

from fastlm.arguments import shown
from fastlm.engine import Engine
from fastlm.generation import FILTERS
from fastlm.server.fields import Fields
from fastlm.server.limits import Limits
from fastlm.server.refusals import wrong

STANDARD = ("temperature", "top_p", "n", "stop", "seed", "presence_penalty", "frequency_penalty", "logit_bias")
BEAMS = ("num_beams", "length_penalty", "early_stopping")
OWN = (
    "top_k",
    "min_p",
    "typical_p",
    "repetition_penalty",
    "no_repeat_ngram_size",
    "stop_token_ids",
    "min_tokens",
    "ignore_eos",
    "source_lang",
    "target_lang",
    *BEAMS,
    "json_schema",
    "regex",
    "grammar",
)
NAMES = (*STANDARD, *OWN)
MAX_STOPS = 64


def sampling(fields: Fields, engine: Engine, limits: Limits) -> dict[str, Any]:
    """Parameters of `generate` but for their number of tokens; `generate` checks their values."""
    found = fields.given(NAMES)
    fields.count("n", 1, 1, limits.choices)
    if isinstance(found.get("seed"), int):
        found["seed"] %= 2**64
    if found.get("num_beams", 1) != 1 and fields.values.get("n", 1) != 1:
        raise wrong("n", "n: a beam search gives one text of each prompt here: leave out n, or num_beams")
    if isinstance(found.get("stop"), list) and len(found["stop"]) > MAX_STOPS:
        raise wrong("stop", f"stop has {len(found['stop'])} strings; this server takes {MAX_STOPS} at most")
    if "logit_bias" in found:
        found["logit_bias"] = _biases(fields)
    if "temperature" not in found and engine.defaults.get("do_sample") is not True and _filters(found):
        found["temperature"] = 1.0  # what these fields mean where they are defined
    return found


def tokens(fields: Fields, names: tuple[str, ...], default: int, limits: Limits) -> int:
    """How many tokens an answer may have, by one of these fields."""
    given = [name for name in names if name in fields]
    if len(given) > 1:
        raise wrong(given[1], f"{given[1]} and {given[0]} mean the same: give one of them")
    most = 2**31 - 1 if limits.max_tokens is None else limits.max_tokens
    return fields.count(given[0], 0, 0, most) if given else min(default, most)


def check_logprobs(engine: Engine, limits: Limits, params: dict[str, Any], texts: int, prompts: bool = False) -> None:
    """Refuse to tell more than memory should be taken for.

    texts: how many are written; prompts: whether those of their prompts are told, too.
    """
    if (top := params.get("logprobs")) is None:
        return
    length = engine.longest if prompts else min(params["max_tokens"], engine.longest)
    if texts * length * (top + 1) > limits.logprobs:
        raise wrong("logprobs", f"logprobs: {texts} texts of {length} tokens with {top} more of each are too many")


def _filters(found: dict[str, Any]) -> bool:
    return any(name in found and found[name] not in greedy for name, greedy in FILTERS.items())


def _biases(fields: Fields) -> dict[Any, Any]:
    """Token ids, which JSON writes as strings."""
    found = {}
    for key, value in fields.table("logit_bias").items():
        if not (key.isascii() and key.isdigit() and len(key) < 12):
            raise wrong("logit_bias", f"logit_bias: {shown(key)} is not a token id")
        found[int(key)] = value
    return found
