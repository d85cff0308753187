"""Generation parameters: names, defaults, checks. Everything a caller may ask of `generate`."""

from __future__ import annotations

import difflib
import math
import numbers
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from fastlm.arguments import items, shown, token_id, whole
from fastlm.errors import ModelFormatError, ParameterError

# fmt: off
ALIASES = {
    "max_new_tokens": "max_tokens", "min_new_tokens": "min_tokens", "num_return_sequences": "n",
    "repeat_penalty": "repetition_penalty", "stop_strings": "stop",
}
NAMES = (
    "max_tokens", "temperature", "top_k", "top_p", "min_p", "typical_p", "repetition_penalty", "presence_penalty",
    "frequency_penalty", "no_repeat_ngram_size", "n", "seed", "stop", "stop_token_ids", "min_tokens", "ignore_eos",
    "logit_bias", "logprobs", "echo", "attentions", "cancel",
)
WITHOUT_BEAMS = ("num_beams", "length_penalty")  # 1 is what this version does
REFUSED = ("adapter", "draft")  # what this version does not have
ELSEWHERE = {
    "do_sample": "give temperature (0 is greedy, above 0 samples)",
    "stream": "stream() takes the same arguments and gives the text piece by piece; of a conversation: "
    "stream(chat_prompt(messages))",
    "max_length": "give max_tokens, which does not count the prompt",
}
FILTERS = {"top_k": (0, 1), "top_p": (1,), "min_p": (0,), "typical_p": (1,)}  # values that greedy honours, too
# Settings of generation_config.json: what is taken from it, and under which name; ...
RENAMED = {"max_new_tokens": "max_tokens", "min_new_tokens": "min_tokens"}
TAKEN = ("repetition_penalty", "no_repeat_ngram_size", *RENAMED)
IDS = ("bos_token_id", "eos_token_id", "decoder_start_token_id")
SAMPLING = ("do_sample", "temperature", *FILTERS)
# ... beginnings of names that say nothing about which tokens follow; ...
ASIDE = ("_", "bos_", "eos_", "pad_", "decoder_start_", "transformers_", "output_", "return_", "cache_", "use_cache")
# ... and values, beside empty, false and zero ones, that ask for nothing.
NEUTRAL = {
    "max_length": 20, "num_beams": 1, "num_beam_groups": 1, "num_return_sequences": 1, "length_penalty": 1,
    "guidance_scale": 1, "encoder_repetition_penalty": 1, "renormalize_logits": True,
}
# fmt: on
DEFAULT_MAX_TOKENS = 256
MAX_N = 64
MAX_LOGPROBS = 1000
UINT32 = 2**32 - 1
LARGEST = 1e6  # temperature or penalty, and BIASES: the bounds of csrc/text/sampler.c
BIASES = 1e9


class CancelFlag(Protocol):
    """What `cancel` must offer: threading.Event does."""

    def is_set(self) -> bool: ...


class Request:
    """A prompt with parameters of its own, for `Model.batch`."""

    __slots__ = ("params", "prompt")

    def __init__(self, prompt: str | Iterable[int], **params: Any) -> None:
        self.prompt = prompt
        self.params = params


@dataclass(frozen=True, slots=True)
class Parameters:
    """Checked and resolved parameters of one request."""

    sampling: dict[str, Any]  # the fields of flm_sampling but for stops and seed
    stop: tuple[str, ...]
    seed: int
    n: int
    echo: bool
    logprobs: int | None
    attentions: bool
    cancel: CancelFlag | None

    def check_stream(self) -> None:
        """Refuse what a stream cannot give."""
        if self.n != 1:
            raise ParameterError("n: a stream has one text; call stream n times or use generate")
        if self.attentions:
            raise ParameterError("attentions: they are there at the end of a text; use generate instead of stream")


def resolve(params: Mapping[str, Any], config: Mapping[str, object], vocab: int) -> Parameters:
    """Explicit parameters first, then generation_config.json, then off.

    Raises
    ------
    ParameterError
        A name is unknown, a value out of range, or something is asked for that this version cannot do.
    """
    given = _canonical(params)
    _refuse(given)
    p = _Reader(given, _defaults(config))
    temperature = p.number("temperature", 0.0, low=0.0)
    logprobs = p.integer("logprobs", None, 0, min(MAX_LOGPROBS, vocab))
    sampling: dict[str, Any] = {
        "max_tokens": p.integer("max_tokens", DEFAULT_MAX_TOKENS, 0, UINT32),
        "min_tokens": p.integer("min_tokens", 0, 0, UINT32),
        "temperature": temperature,
        "top_k": min(p.integer("top_k", 0, 0, UINT32) or 0, vocab),
        "top_p": p.number("top_p", 1.0, low=0.0, high=1.0, above=True),
        "min_p": p.number("min_p", 0.0, low=0.0, high=1.0),
        "typical_p": p.number("typical_p", 1.0, low=0.0, high=1.0, above=True),
        "repetition_penalty": p.number("repetition_penalty", 1.0, low=1 / LARGEST),
        "presence_penalty": p.number("presence_penalty", 0.0),
        "frequency_penalty": p.number("frequency_penalty", 0.0),
        "no_repeat_ngram_size": p.integer("no_repeat_ngram_size", 0, 0, UINT32),
        "ignore_eos": p.flag("ignore_eos"),
        "logprobs": -1 if logprobs is None else logprobs,
        "biases": p.biases(vocab),
        "stop_tokens": p.ids("stop_token_ids", vocab),
    }
    if temperature == 0.0 and "temperature" not in given:
        for name, greedy in FILTERS.items():
            if name in given and sampling[name] not in greedy:
                raise ParameterError(f"{name} acts on sampling, but this model is greedy: give temperature too")
    seed = p.integer("seed", None, 0, 2**64 - 1)
    return Parameters(
        sampling=sampling,
        stop=p.strings("stop"),
        seed=int.from_bytes(os.urandom(4), "little") if seed is None else seed,
        n=p.integer("n", 1, 1, MAX_N) or 1,
        echo=p.flag("echo"),
        logprobs=logprobs,
        attentions=p.flag("attentions"),
        cancel=p.cancel(),
    )


def _canonical(params: Mapping[str, Any]) -> dict[str, Any]:
    """Aliases replaced, None taken as absent, unknown names refused."""
    found: dict[str, Any] = {}
    for name, value in params.items():
        target = ALIASES.get(name, name)
        if name in ELSEWHERE:
            raise ParameterError(f"unknown parameter {name!r}: {ELSEWHERE[name]}")
        if target not in (*NAMES, *WITHOUT_BEAMS, *REFUSED):
            near = difflib.get_close_matches(name, [*NAMES, *ALIASES, *WITHOUT_BEAMS, *REFUSED], 1)
            helps = near and near[0] in (*NAMES, *ALIASES)
            hint = f"; did you mean {near[0]!r}?" if helps else f"; known are {', '.join(NAMES)}"
            raise ParameterError(f"unknown parameter {name!r}{hint}")
        if value is None:
            continue
        if target in found:
            raise ParameterError(f"{target!r} is given twice (its alias too)")
        found[target] = value
    return found


def _refuse(given: Mapping[str, Any]) -> None:
    """Parameters that this version knows but cannot honour."""
    for name in WITHOUT_BEAMS:
        if number(given.get(name, 1), name) != 1:
            raise ParameterError(f"{name}: this version decodes without beams; leave it out or give 1")
    for name in REFUSED:
        if name in given:
            raise ParameterError(f"{name}: this version has no {name}s")


def _defaults(config: Mapping[str, object]) -> dict[str, Any]:
    """What generation_config.json says, in our names. It is greedy unless it says do_sample."""
    found: dict[str, Any] = {RENAMED.get(k, k): config[k] for k in TAKEN if config.get(k) is not None}
    if config.get("do_sample") is True:
        found["temperature"] = 1.0
        found.update({k: config[k] for k in SAMPLING[1:] if config.get(k) is not None})
    return found


def check_settings(config: Mapping[str, object], where: str) -> None:
    """Refuse settings of config.json or generation_config.json that are of another type than transformers writes.

    Which values are in range is for `resolve` to say, since a caller may give others.

    Raises
    ------
    ModelFormatError
        A setting would count for nothing, and the text would never end or be greedy without a word.
    """
    for name in IDS:
        value = config.get(name)
        if not all(type(item) is int for item in (value if isinstance(value, list) else [value]) if item is not None):
            raise ModelFormatError(f"{where}: {name} must be a token id or a list of them, not {shown(value)}")
    if not isinstance(config.get("do_sample"), bool | None):
        raise ModelFormatError(f"{where}: do_sample must be true or false, not {shown(config['do_sample'])}")
    for name in (*TAKEN, *SAMPLING[1:]):
        if isinstance(value := config.get(name), bool) or not isinstance(value, int | float | None):
            raise ModelFormatError(f"{where}: {name} must be a number, not {shown(value)}")


def not_honoured(config: Mapping[str, object]) -> dict[str, object]:
    """Settings of generation_config.json that ask for something that `resolve` does not take from it."""
    return {
        name: value
        for name, value in config.items()
        if name not in TAKEN
        and name not in SAMPLING
        and not name.startswith(ASIDE)
        and value
        and NEUTRAL.get(name) != value
    }


class _Reader:
    """Typed, range-checked access; errors name the parameter, and the file where it is not the caller's."""

    def __init__(self, given: Mapping[str, Any], defaults: Mapping[str, Any]) -> None:
        self.values = {**defaults, **given}
        self.defaults = {name for name in defaults if name not in given}

    def label(self, name: str) -> str:
        return f"generation_config.json: {name}" if name in self.defaults else name

    def integer(self, name: str, default: int | None, low: int, high: int) -> int | None:
        value = self.values.get(name, default)
        return None if value is None else whole(value, self.label(name), low, high)

    def number(
        self, name: str, default: float, low: float = -LARGEST, high: float = LARGEST, above: bool = False
    ) -> float:
        return number(self.values.get(name, default), self.label(name), low, high, above)

    def flag(self, name: str) -> bool:
        value = self.values.get(name, False)
        if not isinstance(value, bool):
            raise ParameterError(f"{self.label(name)} must be True or False, not {shown(value)}")
        return value

    def strings(self, name: str) -> tuple[str, ...]:
        value = self.values.get(name, ())
        found = (value,) if isinstance(value, str) else value
        if not isinstance(found, (list, tuple)) or not all(isinstance(s, str) and s for s in found):
            raise ParameterError(f"{name} must be a string or a list of strings, none of them empty")
        if any(0xD800 <= ord(c) < 0xE000 for text in found for c in text):
            raise ParameterError(f"{name} holds a lone surrogate, which UTF-8 cannot say")
        return tuple(found)

    def ids(self, name: str, vocab: int) -> list[int]:
        value = self.values.get(name, ())
        found = (value,) if isinstance(value, int) else value
        return [token_id(item, vocab, name) for item in items(found, name, "a list of token ids")]

    def biases(self, vocab: int) -> dict[int, float]:
        value = self.values.get("logit_bias", {})
        if not isinstance(value, Mapping):
            raise ParameterError(f"logit_bias must map token ids to numbers, not {shown(value)}")
        return {
            token_id(key, vocab, "logit_bias"): number(bias, "logit_bias", -BIASES, BIASES)
            for key, bias in value.items()
        }

    def cancel(self) -> CancelFlag | None:
        value: CancelFlag | None = self.values.get("cancel")
        if value is not None and not callable(getattr(value, "is_set", None)):
            raise ParameterError("cancel must have a method is_set(), as threading.Event does")
        return value


def number(value: object, name: str, low: float = -LARGEST, high: float = LARGEST, above: bool = False) -> float:
    """A number from `low` (or above it) to `high`."""
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise ParameterError(f"{name} must be a number, not {shown(value)}")
    try:
        x = float(value)
    except OverflowError:
        x = math.inf
    if not low <= x <= high or (above and x == low):
        edge = "above" if above else "at least"
        raise ParameterError(f"{name} must be {edge} {low:g} and up to {high:g}, not {shown(value)}")
    return x
