"""Which format a matrix is packed in: the choice of who makes a model. A .flm file says what was chosen."""

from __future__ import annotations

QUANTIZED = ("int8", "int4")
LOOKUPS = (".embed.positions", ".embed.types")


def matrix_format(slot: str, dtype: str) -> str:
    """The format of a matrix in a model of `dtype`: what is small and sensitive stays wide."""
    if slot.endswith(".router"):
        return "float32"
    return "bfloat16" if dtype in QUANTIZED and slot.endswith(LOOKUPS) else dtype
