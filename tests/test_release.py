"""A release has one version, in the three places that name it, and its tag."""

from __future__ import annotations

import os
import re

import pytest
from support import CSRC, ROOT

import fastlm


def found(pattern: str, text: str) -> str:
    match = re.search(pattern, text, re.MULTILINE)
    assert match, pattern
    return match[1]


@pytest.fixture
def version() -> str:
    return found(r'^version = "(.+)"$', (ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def test_header_and_package(version: str) -> None:
    assert (
        found(r'^#define FLM_VERSION "(.+)"$', (CSRC / "include" / "fastlm.h").read_text(encoding="utf-8")) == version
    )
    assert fastlm.__version__ == version


def test_changelog(version: str) -> None:
    """Its first heading is the version, or what comes after the last one; a tag is of a version that it describes."""
    first = found(r"^## (.+)$", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"))
    released = re.fullmatch(rf"\[{re.escape(version)}\] - \d{{4}}-\d\d-\d\d", first)
    if os.environ.get("GITHUB_REF_TYPE") == "tag":
        assert os.environ["GITHUB_REF_NAME"] == f"v{version}"
        assert released, first
    assert released or first == "[Unreleased]", first
