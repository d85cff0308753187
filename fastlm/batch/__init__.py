"""A model over a table: rows in, the same rows with what was made of them out.

    for row in fastlm.batch.generate(rows, model, "Translate: {text}", max_tokens=100):
        ...

A row whose request fails is no end of it: its error stands beside it. `fastlm.batch.ray` does the same over the
datasets of Ray, on as many machines as there are. docs/server.md.
"""

from fastlm.batch.rows import generate
from fastlm.batch.template import Template
from fastlm.batch.texts import classify, embed

__all__ = ["Template", "classify", "embed", "generate"]
