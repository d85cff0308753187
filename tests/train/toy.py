"""A toy corpus whose structure a small model can learn, and the settings with which it does in seconds."""

from __future__ import annotations

import math
import random
from pathlib import Path
from typing import Any

from fastlm.train.recipe import Recipe, Shape

NAMES = ("Tom", "Lily", "Ben", "Mia", "Sam", "Anna")
THINGS = ("ball", "kite", "boat", "drum", "cake", "book")
PLACES = ("park", "garden", "house", "forest")
SHAPE = Shape(width=32, layers=2, heads=2, context=64)
STEPS = 300
VOCAB = 300


def story(draw: random.Random, verb: str = "found") -> str:
    """A story in which a name, a thing and a place are drawn once and said twice."""
    name, thing, place = draw.choice(NAMES), draw.choice(THINGS), draw.choice(PLACES)
    return f"One day {name} {verb} a {thing} in the {place}.\n{name} took the {thing} home from the {place}."


def write_corpus(path: Path, *, stories: int = 400, seed: int = 0, verb: str = "found") -> Path:
    """A file of stories."""
    draw = random.Random(seed)
    path.write_text("".join(f"{story(draw, verb)}\n<|endoftext|>\n" for _ in range(stories)), encoding="utf-8")
    return path


def forgetful_bits_per_byte(texts: list[str]) -> float:
    """What the corpus costs one who knows its grammar and remembers only a few words: both sayings are guesses."""
    choices = math.log2(len(NAMES)) + math.log2(len(THINGS)) + math.log2(len(PLACES))
    return 2 * choices * len(texts) / sum(len(text.encode()) for text in texts)


def recipe(**changes: Any) -> Recipe:
    """Seconds of training, in float32 so that any processor learns alike."""
    base: dict[str, Any] = {
        "steps": STEPS,
        "batch": 8,
        "length": 64,
        "lr": 1e-2,
        "warmup": 5,
        "precision": "float32",
        "device": "cpu",
        "threads": 1,
        "eval_every": 100,
    }
    return Recipe(**{**base, **changes})
