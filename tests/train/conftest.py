"""Models trained once for the tests of this folder."""

from __future__ import annotations

from pathlib import Path

import pytest
from train.toy import SHAPE, VOCAB, recipe, write_corpus


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """400 stories."""
    return write_corpus(tmp_path_factory.mktemp("corpus") / "stories.txt")


@pytest.fixture(scope="session")
def trained(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that has learned them."""
    pytest.importorskip("torch")
    pytest.importorskip("transformers")
    from fastlm.train.scratch import train

    return train([corpus], tmp_path_factory.mktemp("trained") / "model", vocab=VOCAB, shape=SHAPE, recipe=recipe())


@pytest.fixture(scope="session")
def crude(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that has seen a few steps."""
    pytest.importorskip("torch")
    pytest.importorskip("transformers")
    from fastlm.train.scratch import train

    out = tmp_path_factory.mktemp("crude") / "model"
    return train([corpus], out, vocab=VOCAB, shape=SHAPE, recipe=recipe(steps=30))
