"""JSON by a dataclass: `pip install 'fastlm[structured]'`, then `python examples/recipe.py path/to/a/chat/model`."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass

import fastlm


@dataclass
class Step:
    what: str
    minutes: int


@dataclass
class Recipe:
    name: str
    steps: list[Step]


with fastlm.load(sys.argv[1]) as model:
    done = model.chat([{"role": "user", "content": "How do I make tea?"}], json_schema=Recipe, max_tokens=400)
    if done.finish_reason != "stop":
        sys.exit(f"it was cut off: {done.text}")
    recipe = json.loads(done.text)
    print(f"{recipe['name']}: {sum(step['minutes'] for step in recipe['steps'])} minutes")
