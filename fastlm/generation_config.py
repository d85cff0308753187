"""What generation_config.json says: which of its settings are honoured, and under which names."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fastlm.arguments import shown
from fastlm.errors import ModelFormatError

# fmt: off
RENAMED = {"max_new_tokens": "max_tokens", "min_new_tokens": "min_tokens"}
NUMBERS = ("repetition_penalty", "no_repeat_ngram_size", "encoder_no_repeat_ngram_size", "num_beams", "length_penalty",
           *RENAMED)
LENGTHS = ("min_length", "max_length")  # of a whole sequence: taken where that is the decoder's, after a source
IDS = ("bos_token_id", "eos_token_id", "decoder_start_token_id")
FORCED = ("forced_bos_token_id", "forced_eos_token_id", "suppress_tokens", "begin_suppress_tokens")
TAKEN = (*NUMBERS, *FORCED, "bad_words_ids", "early_stopping")
SAMPLING = ("do_sample", "temperature", "top_k", "top_p", "min_p", "typical_p")
# Beginnings of names that say nothing about which tokens follow; ...
ASIDE = ("_", "bos_", "eos_", "pad_", "decoder_start_", "transformers_", "output_", "return_", "cache_", "use_cache")
# ... and values, beside empty, false and zero ones, that ask for nothing.
NEUTRAL = {
    "max_length": 20, "num_beam_groups": 1, "num_return_sequences": 1, "guidance_scale": 1,
    "encoder_repetition_penalty": 1, "renormalize_logits": True,
}
# fmt: on


def legacy_settings(config: Mapping[str, object]) -> dict[str, object]:
    """Those that an old config.json has, where there is no generation_config.json."""
    names = (*TAKEN, *LENGTHS, *SAMPLING)
    return {name: value for name in names if (value := config.get(name)) is not None}


def defaults_of(config: Mapping[str, object], kind: str) -> dict[str, Any]:
    """What it says to a model of this kind, in our names. It is greedy unless it says do_sample."""
    found: dict[str, Any] = {RENAMED.get(k, k): config[k] for k in TAKEN if config.get(k) is not None}
    if config.get("do_sample") is True:
        found["temperature"] = 1.0
        found.update({k: config[k] for k in SAMPLING[1:] if config.get(k) is not None})
    for name in LENGTHS if kind == "encoder-decoder" else ():
        if config.get(name) not in (None, NEUTRAL.get(name)):
            found[name] = config[name]
    return found


def check_settings(config: Mapping[str, object], where: str) -> None:
    """Refuse settings of config.json or generation_config.json that are of another type than transformers writes.

    Which values are in range is for `resolve` to say, since a caller may give others.

    Raises
    ------
    ModelFormatError
        A setting would count for nothing, and the text would never end or be greedy without a word.
    """
    for name in (*IDS, *FORCED):
        if not _is_ids(config.get(name)):
            raise ModelFormatError(f"{where}: {name} must be a token id or a list of them, not {shown(config[name])}")
    words = config.get("bad_words_ids")
    if words is not None and not (isinstance(words, list) and all(isinstance(w, list) and _is_ids(w) for w in words)):
        raise ModelFormatError(f"{where}: bad_words_ids must be a list of lists of token ids, not {shown(words)}")
    if not isinstance(config.get("do_sample"), bool | None):
        raise ModelFormatError(f"{where}: do_sample must be true or false, not {shown(config['do_sample'])}")
    if (early := config.get("early_stopping")) != "never" and not isinstance(early, bool | None):
        raise ModelFormatError(f'{where}: early_stopping must be true, false or "never", not {shown(early)}')
    for name in (*NUMBERS, *LENGTHS, *SAMPLING[1:]):
        if isinstance(value := config.get(name), bool) or not isinstance(value, int | float | None):
            raise ModelFormatError(f"{where}: {name} must be a number, not {shown(value)}")


def _is_ids(value: object) -> bool:
    return all(type(item) is int for item in (value if isinstance(value, list) else [value]) if item is not None)


def not_honoured(config: Mapping[str, object], kind: str = "decoder") -> dict[str, object]:
    """Settings that ask for something that `defaults_of` does not take."""
    taken = (*TAKEN, *SAMPLING, *(LENGTHS if kind == "encoder-decoder" else ()))
    return {
        name: value
        for name, value in config.items()
        if name not in taken and not name.startswith(ASIDE) and value and NEUTRAL.get(name) != value
    }
