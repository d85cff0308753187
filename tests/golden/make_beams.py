"""Record what transformers' beam search and logits processors make of the tiny models of this folder.

Needs torch and transformers; the test suite does not run it: `python tests/golden/make_beams.py`

For each model some combinations of options, and as many sources or prompts as it takes until float32 and float64 agree
on all texts, whose scores then are those of float32: beams.json. `ends` are end tokens beside the model's own, chosen
among the tokens that the model likes to write.
"""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from exact import exact

HERE = Path(__file__).parent
STEPS = 12
SOURCES = {"t5": 9, "t5_gated": 23, "llama": 60, "gpt2_odd": 20}  # tokens of a source or prompt
TRANSLATORS = {"bart": 11, "marian": 14, "m2m_100": 9, "pegasus": 17, "t5gemma": 12}
LENGTHS = SOURCES | TRANSLATORS
BEAMS = [
    {"num_beams": 4, "num_return_sequences": 4},
    {"num_beams": 1},
    {"num_beams": 2, "length_penalty": 0.0, "early_stopping": True, "num_return_sequences": 2},
    {"num_beams": 3, "length_penalty": 2.0, "early_stopping": "never", "num_return_sequences": 2},
    {"num_beams": 3, "length_penalty": -1.0, "num_return_sequences": 3},
    {"num_beams": 3, "length_penalty": -1.0, "early_stopping": "never", "num_return_sequences": 3},
    {"num_beams": 5, "length_penalty": 0.6, "early_stopping": True, "num_return_sequences": 5},
    {"num_beams": 6, "length_penalty": 2.0, "early_stopping": False, "num_return_sequences": 6},
    {"num_beams": 4, "length_penalty": 0.0, "early_stopping": "never"},
]
PROCESSORS = [
    {"no_repeat_ngram_size": 2, "repetition_penalty": 1.3},
    {"no_repeat_ngram_size": 1, "min_new_tokens": 5},
    {"encoder_no_repeat_ngram_size": 1},
    {"encoder_no_repeat_ngram_size": 2, "repetition_penalty": 0.7},
    {"forced_bos_token_id": 7, "forced_eos_token_id": 1, "min_new_tokens": 4},
    {"forced_eos_token_id": [5, 9], "suppress_tokens": "likely"},
    {"begin_suppress_tokens": "likely", "forced_bos_token_id": 9},
    {"bad_words_ids": "likely", "begin_suppress_tokens": [4, 5]},
]


# What generation_config.json asks for where people translate and summarise, with the lengths of these texts.
PUBLISHED = [
    {"num_beams": 4, "length_penalty": 2.0, "early_stopping": True, "no_repeat_ngram_size": 3, "min_new_tokens": 6}
    | {"forced_bos_token_id": 3, "forced_eos_token_id": 2, "num_return_sequences": 4},  # BART's summaries
    {"num_beams": 6, "bad_words_ids": "likely", "forced_eos_token_id": 0, "num_return_sequences": 6},  # OPUS-MT
    {"num_beams": 5, "forced_bos_token_id": 40, "early_stopping": True, "num_return_sequences": 5},  # M2M-100
    {"num_beams": 8, "length_penalty": 0.8, "forced_eos_token_id": 1, "num_return_sequences": 3},  # Pegasus
    {"num_beams": 3, "length_penalty": 0.0, "early_stopping": "never", "repetition_penalty": 1.2}
    | {"encoder_no_repeat_ngram_size": 3, "suppress_tokens": "likely", "num_return_sequences": 3},
]


def options(name: str) -> list[dict[str, Any]]:
    if name in TRANSLATORS:
        return BEAMS + PUBLISHED
    searches = ({"num_beams": 1}, {"num_beams": 3, "num_return_sequences": 3}, BEAMS[3])
    return BEAMS + [{**search, **edits} for edits in PROCESSORS for search in searches]


def generate(model: Any, ids: list[int], given: dict[str, Any], ends: list[int]) -> tuple[list[list[int]], list[float]]:
    """Written tokens, without what fills rows up, and scores."""
    own, start = model.config.eos_token_id, getattr(model.config, "decoder_start_token_id", None)
    config = transformers.GenerationConfig(
        **{"max_new_tokens": STEPS, **given},
        do_sample=False,
        eos_token_id=[*([] if own is None else [own]), *ends] or None,
        pad_token_id=0,
        decoder_start_token_id=model.config.bos_token_id if start is None else start,
        output_scores=True,
        return_dict_in_generate=True,
        use_cache=False,
    )
    prompt = torch.tensor([ids])
    model.generation_config = transformers.GenerationConfig()
    out = model.generate(input_ids=prompt, attention_mask=torch.ones_like(prompt), generation_config=config)
    begin = 1 if model.config.is_encoder_decoder else len(ids)
    ending = {own, *ends}
    texts = []
    for row in out.sequences[:, begin:].tolist():
        at = next((i for i, token in enumerate(row) if token in ending), len(row))
        texts.append(row[:at])
    scores = getattr(out, "sequences_scores", None)
    return texts, [] if scores is None else [float(x) for x in scores]


def filled(given: dict[str, Any], likely: list[int]) -> dict[str, Any]:
    """The options with tokens that this model would write."""
    found = dict(given)
    for name, value in given.items():
        if value == "likely":
            found[name] = [[likely[0]], likely[1:3], likely[:3]] if name == "bad_words_ids" else likely[:2]
    return found


def cases(name: str) -> list[dict[str, Any]]:
    translates = name.startswith("t5") or name in TRANSLATORS
    model = transformers.AutoModelForSeq2SeqLM if translates else transformers.AutoModelForCausalLM
    loaded = model.from_pretrained(HERE / name, dtype=torch.float32, attn_implementation="eager").eval()
    found: list[dict[str, Any]] = []
    rng = np.random.default_rng(5)
    for given in options(name):
        for _ in range(100):
            ids = rng.integers(3, loaded.config.get_text_config().vocab_size, LENGTHS[name]).tolist()
            plain, _ = generate(loaded, ids, {"num_beams": 4, "num_return_sequences": 4}, [])
            liked = [token for token, _ in Counter(token for text in plain for token in text).most_common()]
            ends = liked[3:5]
            chosen = filled(given, liked[:3])
            texts, scores = generate(loaded, ids, chosen, ends)
            with exact(loaded) as fine:
                again, _ = generate(fine, ids, chosen, ends)
            ended = sum(len(text) < STEPS for text in texts)
            if texts == again and (ended or "min_new_tokens" in given or rng.random() < 0.2):
                break
        else:
            raise RuntimeError(f"{name}: {given}: nothing to be sure of")
        found.append({"model": name, "ids": ids, "ends": ends, "params": chosen, "texts": texts, "scores": scores})
    return found


def main() -> None:
    rows = [json.dumps(case) for name in LENGTHS for case in cases(name)]
    (HERE / "beams.json").write_text("[\n" + ",\n".join(rows) + "\n]\n")


if __name__ == "__main__":
    main()
