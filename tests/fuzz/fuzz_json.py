"""JSON files: an object with valid text, or ModelFormatError. How to run it: harness.py."""

from __future__ import annotations

import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from harness import main

from fastlm.errors import ModelFormatError
from fastlm.weights.jsonfile import parse_object

INPUTS = [  # the first byte: u if names must be unique
    b' {"model_type": "llama", "hidden_size": 64, "rms_norm_eps": 1e-5, "tie_word_embeddings": true, "x": null}',
    'u{"a": [1, -2.5, [{"b": "é漢😀\\u00e9\\ud83d\\ude00"}]], "rope_scaling": {"rope_type": "llama3"}}'.encode(),
    b'u{"weight_map": {"model.norm.weight": "model-00001-of-00002.safetensors"}, "metadata": {"total_size": 1}}',
]


def one_input(data: bytes) -> None:
    try:
        found = parse_object(data[1:], "config.json", unique=data[:1] == b"u")
    except ModelFormatError as error:
        assert str(error).startswith("config.json: ") and len(str(error)) < 1000
    else:
        json.dumps(found, ensure_ascii=False).encode("utf-8")


if __name__ == "__main__":
    main(one_input, INPUTS)
