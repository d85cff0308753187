"""Decoders that make vectors: by the last token, which the tokenizer adds, with or without a head for words."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from models import TINY, random_weights, save_checkpoint

import fastlm
from fastlm.errors import ModelFormatError, ModelMemoryError, UnsupportedError

TEXTS = ["the animal did not cross the street", "it was too tired", "", "who is it? " * 9]
QUERY = "Given a web search query: "
END = 98  # the last token of every text


def save(folder: Path, *, kind: str, head: bool, sentences: bool) -> Path:
    """A Llama under the name of class `kind`; sentences: as sentence-transformers saves it."""
    made = random_weights(TINY)
    if not head:
        made = {name.removeprefix("model."): values for name, values in made.items() if name != "lm_head.weight"}
    save_checkpoint(folder, {**TINY.config(), "architectures": [kind]}, made)
    add_tokenizer(folder)
    if sentences:
        (folder / "1_Pooling").mkdir()
        (folder / "1_Pooling" / "config.json").write_text(json.dumps({"pooling_mode_lasttoken": True}))
        names = {"": "Transformer", "1_Pooling": "Pooling", "2_Normalize": "Normalize"}
        modules = [{"path": path, "type": f"sentence_transformers.models.{kind}"} for path, kind in names.items()]
        (folder / "modules.json").write_text(json.dumps(modules))
        (folder / "config_sentence_transformers.json").write_text(json.dumps({"prompts": {"query": QUERY}}))
    return folder


def add_tokenizer(folder: Path) -> None:
    """A token for each byte of ASCII from the space on."""
    from tokenizers import AddedToken, Tokenizer, decoders, pre_tokenizers, processors
    from tokenizers.models import BPE

    letters = ["\u0120", *(chr(code) for code in range(33, 127))]
    library = Tokenizer(BPE({letter: i for i, letter in enumerate(letters)} | {"[a]": 95, "[b]": 96, "[c]": 97}, []))
    library.add_special_tokens([AddedToken("<|end|>", special=True)])
    library.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    library.decoder = decoders.ByteLevel()
    end = processors.TemplateProcessing(
        single="$A <|end|>", pair="$A $B <|end|>", special_tokens=[("<|end|>", library.token_to_id("<|end|>"))]
    )
    library.post_processor = processors.Sequence([processors.ByteLevel(trim_offsets=False), end])
    library.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps({"eos_token": "<|end|>", "padding_side": "left"}))


def ids(text: str) -> list[int]:
    return [*(ord(letter) - 32 for letter in text), END]


@pytest.mark.parametrize(
    ("kind", "head", "tasks"),
    [
        ("LlamaForCausalLM", True, ("generate", "embed")),
        ("LlamaForCausalLM", False, ("embed",)),
        ("LlamaModel", False, ("embed",)),
    ],
)
def test_vectors_are_the_last_tokens(tmp_path: Path, kind: str, head: bool, tasks: tuple[str, ...]) -> None:
    """Also where the class has a head that the folder lacks."""
    with fastlm.load(save(tmp_path, kind=kind, head=head, sentences=True), threads=2) as model:
        assert model.tasks == tasks
        for prompt_name, prompt in ((None, ""), ("query", QUERY)):
            found = model.embed(TEXTS, prompt_name=prompt_name)
            for text, vector in zip(TEXTS, found, strict=True):
                hidden = model.forward(ids(prompt + text)).hidden[-1]
                assert np.abs(vector - hidden / np.linalg.norm(hidden)).max() < 1e-6
        if not head:
            with pytest.raises(UnsupportedError, match="a decoder without a head for words writes no text"):
                model.generate("it")


def test_a_class_without_a_head_needs_none(tmp_path: Path) -> None:
    with fastlm.load(save(tmp_path, kind="LlamaModel", head=False, sentences=False)) as model:
        assert model.tasks == ("embed",)
        assert model.forward(ids("it")).logits is None


def test_a_head_that_is_missing(tmp_path: Path) -> None:
    save(tmp_path, kind="LlamaForCausalLM", head=False, sentences=False)
    with pytest.raises(ModelFormatError, match=r"missing: lm_head\.weight"):
        fastlm.load(tmp_path)


def test_texts_wait_where_memory_is_short(tmp_path: Path) -> None:
    """Two pages of keys and values hold one of the longer texts, which wait for each other."""
    folder = save(tmp_path, kind="LlamaForCausalLM", head=True, sentences=True)
    texts = ["it", "a" * 70, "was", "too " * 20]
    with fastlm.load(folder) as model:
        found = model.embed(texts)
        pages = 2 * 64 * model.memory()["kv_bytes_per_token"]
    with fastlm.load(folder, kv_bytes=pages) as model:
        assert np.array_equal(model.embed(texts), found)
        with pytest.raises(ModelMemoryError):
            model.embed(["it", "a" * 200])
