"""load(beside=): models that share a context's threads."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest
from models import add_byte_tokenizer, byte_shape, save_llama

import fastlm


def test_models_beside_each_other(tmp_path: Path) -> None:
    """Each writes what it writes alone, also at the same time; one may go before the other."""
    folder = add_byte_tokenizer(save_llama(tmp_path, byte_shape()))
    options: Any = {"max_tokens": 40, "ignore_eos": True, "temperature": 0}
    with fastlm.load(threads=2) as first:
        second = fastlm.load(folder, beside=first)
        assert second.engine.context is first.engine.context and second.threads == 2
        with fastlm.load(folder, threads=1) as alone:
            expected = first.generate("Once", **options).text, alone.generate("Once", **options).text
        found: dict[int, list[str]] = {0: [], 1: []}

        def write(which: int, model: fastlm.Model) -> None:
            for _ in range(5):
                found[which].append(model.generate("Once", **options).text)

        threads = [threading.Thread(target=write, args=one) for one in ((0, first), (1, second)) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert set(found[0]) == {expected[0]} and set(found[1]) == {expected[1]}
        first.close()
        assert second.generate("Once", **options).text == expected[1]
        second.close()


def test_wrong_arguments() -> None:
    with fastlm.load(threads=1) as model:
        for wrong in ({"beside": "model"}, {"beside": model, "threads": 2}):
            with pytest.raises(fastlm.ParameterError, match="beside"):
                fastlm.load(**wrong)
    with pytest.raises(fastlm.StateError, match="closed"):
        fastlm.load(beside=model)
