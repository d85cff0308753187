"""Prints a hash of what every golden model gives, in every format: two builds with the same bits print the same text.

    python tests/golden/bits.py > before.txt    # in the environment of one build, then of the other

Lines are `golden dtype kv_dtype threads output hash`; the hashes depend on the instruction set (FASTLM_ISA).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np

import fastlm

FOLDER = Path(__file__).parent
DTYPES = ("float32", "float16", "bfloat16", "int8", "int4")


def outputs(model: fastlm.Model, expected: dict[str, np.ndarray]) -> Iterator[tuple[str, bytes]]:
    ids = [int(i) for i in expected["ids"].reshape(-1)]
    extra = {}
    if "decoder_ids" in expected:
        extra["decoder_ids"] = [int(i) for i in expected["decoder_ids"].reshape(-1)]
    if "token_types" in expected:
        extra["token_type_ids"] = [int(i) for i in expected["token_types"].reshape(-1)]
    out = model.forward(ids, attentions=True, hidden_states=True, **extra)
    for name in ("logits", "hidden", "attentions", "hidden_states", "encoder_attentions", "cross_attentions"):
        value = getattr(out, name, None)
        if value is not None:
            arrays = value if isinstance(value, (list, tuple)) else [value]
            yield name, b"".join(np.ascontiguousarray(array).tobytes() for array in arrays)
    if "greedy" in expected and model.kind == "decoder":
        many = (ids * (400 // len(ids) + 1))[: min(400, model.context)]  # chunks, slices and the end of the context
        yield "long", model.forward(many, logits="last").logits.tobytes()
        yield "text", repr(model.generate(ids[:4], max_tokens=24, ignore_eos=True).token_ids).encode()


def main() -> None:
    for folder in sorted(file.parent for file in FOLDER.glob("*/config.json")):
        with np.load(folder / "expected.npz") as file:
            expected = dict(file)
        for dtype in DTYPES:
            for kv_dtype in ("auto", "int8"):
                for threads in (1, 2):
                    with fastlm.load(folder, dtype=dtype, kv_dtype=kv_dtype, threads=threads) as model:
                        for name, data in outputs(model, expected):
                            digest = hashlib.sha256(data).hexdigest()[:16]
                            print(folder.name, dtype, kv_dtype, threads, name, digest)


if __name__ == "__main__":
    main()
