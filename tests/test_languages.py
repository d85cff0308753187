"""Languages of translators: source_lang and target_lang, and the commands that translate and summarise."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from translators import GOLDEN, TRANSLATORS, translator

import fastlm
from fastlm.cli import main
from fastlm.errors import ParameterError

PARAMS = {"max_tokens": 5, "ignore_eos": True}


@pytest.fixture(params=TRANSLATORS)
def named(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[str, Path]:
    family, tokenizer, *_ = TRANSLATORS[request.param]
    return request.param, translator(tmp_path / "model", family, tokenizer)


@pytest.mark.parametrize("beams", [1, 3])
def test_tokens_of_languages(named: tuple[str, Path], beams: int) -> None:
    """Of the source, around its text; of the target, what its text begins with."""
    name, folder = named
    *_, source, target = TRANSLATORS[name]
    with fastlm.load(folder, threads=2) as model:
        assert model.tokenizer is not None
        ids, start = model.tokenizer.encode_source("the cat", source), model.tokenizer.target_start(target)
        found = model.generate("the cat", source_lang=source, target_lang=target, num_beams=beams, **PARAMS)
        if name == "mbart":  # its decoder begins with it
            logits = model.forward(ids, decoder_ids=[start, *found.token_ids[:-1]]).logits
            assert logits is not None
            assert beams > 1 or logits.argmax(axis=1).tolist()[:4] == found.token_ids[:4]  # the last is forced
        else:
            assert found.token_ids[0] == start
            again = model.generate(ids, forced_bos_token_id=start, num_beams=beams, **PARAMS)
            assert again.token_ids == found.token_ids
        assert found.token_ids != model.generate("the cat", source_lang=source, num_beams=beams, **PARAMS).token_ids


def test_refusals(tmp_path: Path) -> None:
    calls: list[tuple[Callable[[fastlm.Model], object], str]] = [
        (lambda m: m.generate("a", target_lang="frr"), "target_lang: 'frr' is no language of this model; did you mean"),
        (lambda m: m.generate("a", source_lang="xx"), "source_lang: 'xx' is no language"),
        (lambda m: m.generate([5], source_lang="en"), "source_lang: the prompt is token ids"),
        (lambda m: m.generate("a", target_lang=3), "target_lang must be a string, not 3"),
        (lambda m: m.generate("a", target_lang="fr", forced_bos_token_id=4), "give one of them"),
    ]
    with fastlm.load(translator(tmp_path / "model", "m2m_100", "m2m_100"), threads=1) as model:
        for call, text in calls:
            with pytest.raises(ParameterError, match=text):
                call(model)
    with fastlm.load() as model:
        for name in ("source_lang", "target_lang"):
            with pytest.raises(ParameterError, match=f"{name}: this model is no encoder-decoder"):
                model.generate("a", **{name: "en"})
    with (
        fastlm.load(translator(tmp_path / "t5", "t5", "t5"), threads=1) as model,
        pytest.raises(ParameterError, match="target_lang: this model's tokenizer has no tokens for languages"),
    ):
        model.generate("a", target_lang="fr")


def test_translate(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A line for each line, empty ones too; as JSON, and by the library."""
    folder = translator(tmp_path / "model", "m2m_100", "m2m_100")
    lines = tmp_path / "lines.txt"
    lines.write_text("the cat\n\nthe dog and the cat\n")
    options = ["--model", str(folder), "--to", "fr", "--from", "en", "--max-tokens", "5"]
    assert main(["translate", *options, "--file", str(lines), "--json"]) == 0
    found = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    with fastlm.load(folder) as model:
        wanted = [
            model.generate(text, source_lang="en", target_lang="fr", max_tokens=5).text if text else ""
            for text in ("the cat", "", "the dog and the cat")
        ]
    assert [record["translation"] for record in found] == wanted
    assert main(["translate", *options, "the cat"]) == 0
    assert capsys.readouterr().out == wanted[0] + "\n"
    assert main(["translate", "--model", str(folder), "the cat"]) == 2
    assert "--to: this model writes many languages: af, am" in capsys.readouterr().err
    assert main(["translate", "the cat", "--model", str(GOLDEN / "llama")]) != 0


def test_settings_of_tasks(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What T5's config.json says of translating and summarising."""
    own = {
        "summarization": {
            "prefix": "sum up: ",
            "num_beams": 3,
            "length_penalty": 2.0,
            "max_length": 6,
            "min_length": 4,
        },
        "translation_en_to_de": {"prefix": "to German: ", "max_length": 5},
    }
    folder = translator(tmp_path / "model", "t5", "t5", task_specific_params=own)
    with fastlm.load(folder) as model:
        summary = model.generate("sum up: the cat", num_beams=3, length_penalty=2.0, max_tokens=5, min_tokens=3).text
        translation = model.generate("to German: the cat", max_tokens=4).text
    assert main(["summarize", "--model", str(folder), "the cat"]) == 0
    assert capsys.readouterr().out == summary + "\n"
    assert main(["translate", "--model", str(folder), "--to", "de", "the cat"]) == 0
    assert capsys.readouterr().out == translation + "\n"
    assert main(["translate", "--model", str(folder), "--to", "fr", "the cat"]) == 2
    assert "it knows de" in capsys.readouterr().err
