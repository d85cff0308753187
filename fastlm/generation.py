"""Generation parameters: names, defaults, checks. Everything a caller may ask of `generate`."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from fastlm.arguments import shown
from fastlm.drafts import Draft, Lookup, draft_of, fields_of
from fastlm.errors import ParameterError
from fastlm.generation_config import defaults_of
from fastlm.parameters import LARGEST, CancelFlag, Reader
from fastlm.structured.grammar import Grammar, grammar_of

# fmt: off
ALIASES = {
    "max_new_tokens": "max_tokens", "min_new_tokens": "min_tokens", "num_return_sequences": "n",
    "repeat_penalty": "repetition_penalty", "stop_strings": "stop",
}
NAMES = (
    "max_tokens", "temperature", "top_k", "top_p", "min_p", "typical_p", "repetition_penalty", "presence_penalty",
    "frequency_penalty", "no_repeat_ngram_size", "encoder_no_repeat_ngram_size", "num_beams", "length_penalty",
    "early_stopping", "n", "seed", "stop", "stop_token_ids", "min_tokens", "ignore_eos", "forced_bos_token_id",
    "forced_eos_token_id", "suppress_tokens", "begin_suppress_tokens", "bad_words_ids", "logit_bias", "logprobs",
    "echo", "attentions", "adapter", "draft", "source_lang", "target_lang", "json_schema", "regex", "grammar", "cancel",
)
REFUSED = {  # what this version does not have
    "num_beam_groups": "this version has no groups of beams; num_beams and n give several texts",
    "diversity_penalty": "this version has no groups of beams; num_beams and n give several texts",
}
ELSEWHERE = {
    "do_sample": "give temperature (0 is greedy, above 0 samples)",
    "stream": "stream() takes the same arguments and gives the text piece by piece; of a conversation: "
    "stream(chat_prompt(messages))",
    "max_length": "give max_tokens, which does not count the prompt",
    "min_length": "give min_tokens, which does not count the prompt",
}
# Values that a greedy choice honours, too; and those that count for nothing without beams.
FILTERS = {"top_k": (0, 1), "top_p": (1,), "min_p": (0,), "typical_p": (1,)}
LANGUAGES = ("source_lang", "target_lang")
OF_BEAMS = {"length_penalty": 1, "early_stopping": False}
# fmt: on
DEFAULT_MAX_TOKENS = 256
MAX_N = 64
MAX_LOGPROBS = 1000
UINT32 = 2**32 - 1


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
    adapter: str | None = None
    draft: Draft | Lookup | None = None
    source_lang: str | None = None
    target_lang: str | None = None
    grammar: Grammar | None = None  # what the text must be
    lengths: tuple[int | None, int | None] = (None, None)  # least and most of the sequence that the text ends

    @property
    def num_beams(self) -> int:
        return int(self.sampling["num_beams"])

    def after(self, n: int) -> Parameters:
        """Of a text that follows n tokens of its sequence: min_length and max_length count those, too."""
        least, most = self.lengths
        bounds = {} if most is None else {"max_tokens": max(most - n, 0)}
        bounds |= {} if least is None else {"min_tokens": max(least - n, 0)}
        return replace(self, sampling={**self.sampling, **bounds}, lengths=(None, None))

    def beginning_with(self, token: int) -> Parameters:
        """Of a text whose first token is this one."""
        return replace(self, sampling={**self.sampling, "forced_bos": token})

    def drafting(self, draft: Draft | Lookup | None) -> Parameters:
        """Of a text for which tokens are proposed."""
        return replace(self, draft=draft, sampling={**self.sampling, **fields_of(draft)})

    def check_stream(self) -> None:
        """Refuse what a stream cannot give."""
        if self.num_beams > 1:
            raise ParameterError(
                f"num_beams is {self.num_beams}: which text is best is known at the end; give num_beams=1, or use "
                "generate instead of stream"
            )
        if self.n != 1:
            raise ParameterError("n: a stream has one text; call stream n times or use generate")
        if self.attentions:
            raise ParameterError("attentions: they are there at the end of a text; use generate instead of stream")


def resolve(params: Mapping[str, Any], config: Mapping[str, object], vocab: int, kind: str = "decoder") -> Parameters:
    """Explicit parameters first, then generation_config.json, then off.

    Raises
    ------
    ParameterError
        A name is unknown, a value out of range, or something is asked for that this version cannot do.
    """
    given = _canonical(params)
    p = Reader(given, defaults_of(config, kind))
    logprobs = p.integer("logprobs", None, 0, min(MAX_LOGPROBS, vocab))
    seed = p.integer("seed", None, 0, 2**64 - 1)
    most, least = "max_tokens" in p.values, "min_tokens" in p.values
    found = Parameters(
        sampling=_sampling(p, vocab, logprobs),
        stop=p.strings("stop"),
        seed=int.from_bytes(os.urandom(4), "little") if seed is None else seed,
        n=p.integer("n", 1, 1, MAX_N) or 1,
        echo=p.flag("echo"),
        logprobs=logprobs,
        attentions=p.flag("attentions"),
        cancel=p.cancel(),
        adapter=adapter_name(given.get("adapter")),
        source_lang=p.text("source_lang"),
        target_lang=p.text("target_lang"),
        grammar=grammar_of(given),
        lengths=(
            None if least else p.integer("min_length", None, 0, UINT32),
            None if most else p.integer("max_length", None, 0, UINT32),
        ),
    ).drafting(draft_of(given.get("draft")))
    if kind != "encoder-decoder" and (name := next((n for n in LANGUAGES if given.get(n) is not None), None)):
        raise ParameterError(f"{name}: this model is no encoder-decoder: say in the prompt what it is to write")
    if found.target_lang is not None and "forced_bos_token_id" in given:
        raise ParameterError("target_lang and forced_bos_token_id both say how the text begins: give one of them")
    _check_greedy(given, found.sampling)
    _check_beams(found)
    return found if found.grammar is None else _by_grammar(found, found.grammar, given)


def _by_grammar(p: Parameters, grammar: Grammar, given: Mapping[str, Any]) -> Parameters:
    """What a text by a grammar cannot honour; an end that the model's own file forces gives way to the grammar's."""
    reasons = {
        f"num_beams is {p.num_beams}: give num_beams=1": p.num_beams > 1,
        "draft: a grammar says which token may come next, not which proposals": p.draft is not None,
        "ignore_eos: the text ends where the grammar does": p.sampling["ignore_eos"],
        "forced_bos_token_id: the text begins with a token that stands in no grammar": p.sampling["forced_bos"] >= 0,
        "forced_eos_token_id: the text ends where the grammar does": "forced_eos_token_id" in given,
    }
    for reason, holds in reasons.items():
        if holds:
            raise ParameterError(f"{grammar.name} does not go with {reason}")
    return replace(p, sampling={**p.sampling, "forced_ends": []})


def adapter_name(value: object) -> str | None:
    """What a caller calls an adapter; None: there is none."""
    if value is not None and not isinstance(value, str):
        raise ParameterError(f"adapter must be the name of one that load_adapter has loaded, not {shown(value)}")
    return value


def _sampling(p: Reader, vocab: int, logprobs: int | None) -> dict[str, Any]:
    """The fields of flm_sampling by name."""
    forced = p.ids("forced_bos_token_id", vocab)
    if len(forced) > 1:
        raise ParameterError(f"{p.label('forced_bos_token_id')} must be one token id, not {len(forced)}")
    return {
        "max_tokens": p.integer("max_tokens", DEFAULT_MAX_TOKENS, 0, UINT32),
        "min_tokens": p.integer("min_tokens", 0, 0, UINT32),
        "temperature": p.number("temperature", 0.0, low=0.0),
        "top_k": min(p.integer("top_k", 0, 0, UINT32) or 0, vocab),
        "top_p": p.number("top_p", 1.0, low=0.0, high=1.0, above=True),
        "min_p": p.number("min_p", 0.0, low=0.0, high=1.0),
        "typical_p": p.number("typical_p", 1.0, low=0.0, high=1.0, above=True),
        "repetition_penalty": p.number("repetition_penalty", 1.0, low=1 / LARGEST),
        "presence_penalty": p.number("presence_penalty", 0.0),
        "frequency_penalty": p.number("frequency_penalty", 0.0),
        "no_repeat_ngram_size": p.integer("no_repeat_ngram_size", 0, 0, UINT32),
        "encoder_no_repeat_ngram_size": p.integer("encoder_no_repeat_ngram_size", 0, 0, UINT32),
        "ignore_eos": p.flag("ignore_eos"),
        "logprobs": -1 if logprobs is None else logprobs,
        "biases": p.biases(vocab),
        "stop_tokens": p.ids("stop_token_ids", vocab),
        "forced_bos": forced[0] if forced else -1,
        "forced_ends": p.ids("forced_eos_token_id", vocab),
        "suppressed": p.ids("suppress_tokens", vocab),
        "begin_suppressed": p.ids("begin_suppress_tokens", vocab),
        "bad_words": p.words("bad_words_ids", vocab),
        "num_beams": p.integer("num_beams", 1, 1, UINT32),
        "length_penalty": p.number("length_penalty", 1.0, low=-1e3, high=1e3),
        "early_stopping": p.early_stopping(),
    }


def _check_greedy(given: Mapping[str, Any], sampling: Mapping[str, Any]) -> None:
    """Parameters that count for nothing where nothing is drawn, or where there are no beams."""
    if sampling["temperature"] == 0.0 and "temperature" not in given:
        for name, greedy in FILTERS.items():
            if name in given and sampling[name] not in greedy:
                raise ParameterError(f"{name} acts on sampling, but this model is greedy: give temperature too")
    for name, neutral in OF_BEAMS.items():
        if name in given and sampling[name] != neutral and sampling["num_beams"] == 1:
            raise ParameterError(f"{name} acts on beams, and there are none: give num_beams too")


def _check_beams(p: Parameters) -> None:
    """What a beam search cannot honour."""
    if p.num_beams == 1:
        return
    reasons = {
        f"n is {p.n}: there are at most num_beams texts": p.n > p.num_beams,
        "temperature is above 0, and beams are not drawn: give num_beams=1, or temperature=0": (
            p.sampling["temperature"] > 0.0
        ),
        "stop: a beam search ends texts at tokens; give stop_token_ids": bool(p.stop),
        "logprobs: a beam search gives a score for each text; loglikelihood() tells of tokens": p.logprobs is not None,
        "attentions: give the tokens that were found to forward(attentions=True)": p.attentions,
        "draft: a step has all texts of a search already": p.draft is not None,
    }
    for reason, holds in reasons.items():
        if holds:
            raise ParameterError(f"num_beams is {p.num_beams}, but {reason}")


def _canonical(params: Mapping[str, Any]) -> dict[str, Any]:
    """Aliases replaced, None taken as absent, unknown names refused."""
    found: dict[str, Any] = {}
    for name, value in params.items():
        target = ALIASES.get(name, name)
        if name in ELSEWHERE:
            raise ParameterError(f"unknown parameter {name!r}: {ELSEWHERE[name]}")
        if target not in (*NAMES, *REFUSED):
            from difflib import get_close_matches  # here, because importing it takes a millisecond

            near = get_close_matches(name, [*NAMES, *ALIASES, *REFUSED], 1)
            helps = near and near[0] not in REFUSED
            hint = f"; did you mean {near[0]!r}?" if helps else f"; known are {', '.join(NAMES)}"
            raise ParameterError(f"unknown parameter {name!r}{hint}")
        if value is None:
            continue
        if target in REFUSED:
            raise ParameterError(f"{target}: {REFUSED[target]}")
        if target in found:
            raise ParameterError(f"{target!r} is given twice (its alias too)")
        found[target] = value
    return found
