"""What is measured: one token after another, a prompt, or eight sequences at once; and what each costs at least."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

LENGTHS = (16, 29, 7, 48, 33, 21, 40, 11)  # of the prompts of a batch
KINDS = ("decode", "prompt", "batch")
TRIAL_SIZE = 512


@dataclass(frozen=True, slots=True)
class Work:
    """kind, and its number: decode at that depth, a prompt of that many tokens, a batch of that many sequences.

    tokens: that each sequence writes in a run (none for a prompt).
    """

    kind: str
    size: int
    tokens: int = 0

    @property
    def name(self) -> str:
        return {
            "decode": f"decode at {self.size}",
            "prompt": f"prompt of {self.size}",
            "batch": f"{self.size} sequences",
        }[self.kind]

    @property
    def context(self) -> int:
        """Positions that a sequence needs."""
        longest = max(LENGTHS) if self.kind == "batch" else self.size
        return max(longest + self.tokens + 1, 512)

    @property
    def depth(self) -> float:
        """Mean length of a sequence while it is written on."""
        start = sum(self.lengths) / self.size if self.kind == "batch" else self.size
        return start + self.tokens / 2

    @property
    def lengths(self) -> list[int]:
        return [LENGTHS[i % len(LENGTHS)] for i in range(self.size)]

    @property
    def trial(self) -> Work:
        """What settings are tried with: no more than 512 tokens of past."""
        return replace(self, size=min(self.size, TRIAL_SIZE))

    def request(self) -> dict[str, Any]:
        """As the workers understand it."""
        if self.kind == "decode":
            return {"do": "decode", "depth": self.size, "tokens": self.tokens}
        if self.kind == "prompt":
            return {"do": "prompt", "tokens": self.size}
        return {"do": "batch", "lengths": self.lengths, "tokens": self.tokens}

    def lead(self) -> dict[str, Any] | None:
        """What brings an engine to where this begins: a token after the past."""
        return {**self.request(), "tokens": 1} if self.kind == "decode" else None

    def gaps(self) -> dict[str, Any]:
        """Of decode: the same, for the times between its tokens."""
        return {**self.request(), "do": "gaps"}


def parse(text: str, tokens: int) -> Work:
    """A work by its name on the command line: decode:64, prompt:512, batch:8."""
    kind, _, size = text.partition(":")
    if kind not in KINDS or not size.isdigit() or int(size) < 2:
        raise ValueError(f"{text}: a work is decode:DEPTH, prompt:TOKENS or batch:SEQUENCES")
    return Work(kind, int(size), 0 if kind == "prompt" else tokens)


@dataclass(frozen=True, slots=True)
class Cost:
    """What a model costs a token: operations of its matrices (a multiply-add is 2), and what it is, in words."""

    layers: int
    head: int
    words: str

    def operations(self, work: Work) -> float:
        """Per token of this work; a prompt needs the head for its last token only."""
        return self.layers + self.head / (work.size if work.kind == "prompt" else 1)


def cost(folder: Path) -> Cost:
    """From config.json of a Llama folder."""
    c = json.loads((folder / "config.json").read_text())
    hidden, heads, layers = c["hidden_size"], c["num_attention_heads"], c["num_hidden_layers"]
    kv_heads = c.get("num_key_value_heads", heads)
    layer = 2 * hidden * hidden + 2 * hidden * (hidden // heads * kv_heads) + 3 * hidden * c["intermediate_size"]
    words = (
        f"{layers} layers, {hidden} wide, {heads}/{kv_heads} heads, {c['intermediate_size']} feed-forward, "
        f"{c['vocab_size']} words{', tied' if c.get('tie_word_embeddings') else ''}"
    )
    return Cost(2 * layer * layers, 2 * hidden * c["vocab_size"], words)
