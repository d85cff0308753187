"""Ask a server by OpenAI's client: `pip install openai`, start `fastlm serve`, then `python examples/client.py`."""

from __future__ import annotations

import sys

import openai

URL = sys.argv[1] if len(sys.argv) > 1 else "http://127.0.0.1:8000/v1"

client = openai.OpenAI(base_url=URL, api_key="none")
model = next(iter(client.models.list())).id
for chunk in client.completions.create(model=model, prompt="Once upon a time", max_tokens=60, stream=True):
    print(chunk.choices[0].text if chunk.choices else "", end="", flush=True)
print()
