"""A model over a table: rows in, the same rows with what was written out.

    for row in fastlm.batch.generate(rows, model, "Translate: {text}", max_tokens=100):
        ...

A row whose request fails is no end of it: its error stands beside it. docs/server.md.
"""

from fastlm.batch.rows import generate
from fastlm.batch.template import Template

__all__ = ["Template", "generate"]
