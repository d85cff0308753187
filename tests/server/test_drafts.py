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


def test_what_cannot_draft_is_told_before_a_request(models: dict[str, fastlm.Model]) -> None:
    with pytest.raises(ParameterError, match="draft must be"):
        app(models, drafts={"box": "lookup"})  # type: ignore[dict-item]
    with fastlm.load() as apart, pytest.raises(ParameterError, match="another context"):
        app(models, drafts={"box": fastlm.Draft(apart)})


def test_one_model_by_two_names(models: dict[str, fastlm.Model]) -> None:
    """The draft is that of the name."""
    both = app({"a": models["box"], "b": models["box"]}, drafts={"b": fastlm.Lookup(tokens=3)})
    with running(both) as server:
        client = openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0)
        for name in "ab":
            client.completions.create(model=name, prompt="Once upon a time", max_tokens=60, temperature=0)
        _, _, text = server.get("/metrics")
        counts = dict(re.findall(r'fastlm_tokens_total{model="(\w)",kind="proposed"} (\d+)', text.decode()))
        assert int(counts.get("a", 0)) == 0 < int(counts["b"])
