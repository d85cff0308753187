"""Added tokens that the library normalizes when it gets them, all in one call that nothing can stop."""

from __future__ import annotations

from fastlm.errors import ModelFormatError
from fastlm.tokenizer.components import Part, parts_of
from fastlm.tokenizer.description import Description
from fastlm.tokenizer.library import library_normalizer

# Work is counted in steps of a pattern, of about 10 ns.
BASE, OF_TOKEN, OF_CHARACTER = 10_000_000, 1_000, 100  # allowed: for a file, for each token and for its characters
CALL, KEPT = 150, 40  # taken: by a part for a token, and by a character of a normalized token


def check_normalizing(made: Description, where: str) -> None:
    """Normalize the added tokens, part by part, as long as that takes no more work than their number and length allow.

    Raises
    ------
    ModelFormatError
        It takes more.
    """
    texts = [token.content for token in made.tokens if token.normalized]
    left = BASE + sum(OF_TOKEN + OF_CHARACTER * len(text) for text in texts)
    for part in parts_of("normalizer", made.stages["normalizer"] if texts else None):
        normalize = library_normalizer(part)
        for i, text in enumerate(texts):
            left -= CALL + _steps(part, len(text))
            if left < 0:
                break
            texts[i] = normalize(text)
            left -= KEPT * max(0, len(texts[i]) - len(text))
    if left < 0:
        raise ModelFormatError(
            f"{where}: its {len(texts):,} normalized added tokens take too much work: make them shorter, or the "
            "normalizer simpler, or set their normalized to false"
        )


def _steps(part: Part, length: int) -> int:
    """Steps that a part takes for a text."""
    if "Regex" not in part.get("pattern", {}):
        return length
    from fastlm.tokenizer.patterns import judge  # here, as in components.py

    judged = judge(part["pattern"]["Regex"])
    return judged.size * length * (length if judged.has_loop else 1)
