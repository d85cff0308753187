"""A server whose texts are drafted: the same answers."""

from __future__ import annotations

import re
from typing import Any

import openai
import pytest
from served import running

import fastlm
from fastlm.errors import ParameterError
from fastlm.server import app


def answers(client: Any) -> list[str]:
    """Whole, several at once, and as a stream."""
    options = {"model": "box", "prompt": "Once upon a time", "max_tokens": 40}
    whole = client.completions.create(**options, temperature=0)
    drawn = client.completions.create(**options, temperature=0.8, seed=3, n=3)
    stream = client.completions.create(**options, temperature=0.8, seed=3, stream=True)
    return [whole.choices[0].text, *(c.text for c in drawn.choices), "".join(c.choices[0].text for c in stream)]


def test_answers_are_the_same(models: dict[str, fastlm.Model], client: Any) -> None:
    expected = answers(client)
    with fastlm.load(beside=models["box"]) as other:
        for draft in (fastlm.Lookup(tokens=3), fastlm.Draft(other, 4)):
            with running(app(models, drafts={"box": draft})) as server:
                drafted = openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0)
                assert answers(drafted) == expected
                _, _, text = server.get("/metrics")
                counts = dict(re.findall(r'fastlm_tokens_total{model="box",kind="(\w+)"} (\d+)', text.decode()))
                assert 0 < int(counts["accepted"]) <= int(counts["proposed"])


def test_a_model_that_is_not_there(models: dict[str, fastlm.Model]) -> None:
    with pytest.raises(ParameterError, match="no model called 'other'"):
        app(models, drafts={"other": fastlm.Lookup()})
