"""Absurd folders of sentence-transformers, and texts that a folder cannot take: typed errors that name the way out."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bert_models import save_bert
from folder_models import BASES, FOLDERS, compose
from safetensors_files import entry, pack

import fastlm
from fastlm.errors import (
    ContextLengthError,
    FastlmError,
    ModelFormatError,
    NumericError,
    ParameterError,
    UnsupportedError,
)

Edit = Callable[[dict[str, Any]], None]


def edited(folder: Path, name: str, **changes: Any) -> Path:
    """A file of a folder with other values; a value of ... takes the key away."""
    values = json.loads((folder / name).read_text()) if (folder / name).exists() else {}
    values |= changes
    (folder / name).write_text(json.dumps({key: value for key, value in values.items() if value is not ...}))
    return folder


def tensors(folder: Path, **arrays: np.ndarray) -> None:
    """A module's weights."""
    header, data = {}, b""
    for name, values in arrays.items():
        stored = values.astype(np.float32).tobytes()
        header[name.replace("__", ".")] = entry("F32", list(values.shape), len(data), len(data) + len(stored))
        data += stored
    (folder / "model.safetensors").write_bytes(pack(header, data))


BAD_POOLINGS = [
    ({"pooling_mode": "sorted"}, UnsupportedError, r"pooling_mode = 'sorted' is not supported \(known: cls, max, mean"),
    ({"pooling_mode": ["cls", "sum"]}, UnsupportedError, "pooling_mode = 'sum' is not supported"),
    ({"pooling_mode": []}, ModelFormatError, "pooling_mode: expected one to 6 names, found 0"),
    ({"pooling_mode": ["mean"] * 1000}, ModelFormatError, "pooling_mode: expected one to 6 names, found 1000"),
    ({"pooling_mode": 7}, ModelFormatError, "pooling_mode: expected a list of str"),
    ({"pooling_mode": [["mean"]]}, ModelFormatError, "pooling_mode: expected a list of str"),
    ({"pooling_mode_median": True}, UnsupportedError, "unknown key 'pooling_mode_median' .* might change the result"),
    (
        {"pooling_mode": ..., "pooling_mode_max_tokens": "yes"},
        ModelFormatError,
        "pooling_mode_max_tokens: expected true",
    ),
    ({"include_prompt": 1}, ModelFormatError, "include_prompt: expected true or false"),
    ({"embedding_dimension": 31}, ModelFormatError, "embedding_dimension: 31 is not the width of the model, 32"),
    ({"embedding_dimension": -1}, ModelFormatError, "embedding_dimension: expected an integer"),
    ({"embedding_dimension": ..., "word_embedding_dimension": 10**30}, ModelFormatError, "word_embedding_dimension"),
]


@pytest.mark.parametrize(("changes", "kind", "words"), BAD_POOLINGS)
def test_poolings(tmp_path: Path, changes: dict[str, Any], kind: type[FastlmError], words: str) -> None:
    folder = edited(compose(tmp_path / "model", "pooled_list"), "1_Pooling/config.json", **changes)
    with pytest.raises(kind, match=rf"1_Pooling/config\.json: {words}"):
        fastlm.load(folder)


BAD_DENSES = [
    ({"in_features": 31}, ModelFormatError, "in_features: 31, but what is before it gives 32 numbers"),
    ({"out_features": 10**9}, ModelFormatError, "out_features: expected an integer"),
    ({"out_features": 25}, ModelFormatError, r"linear\.weight: expected shape \[25, 32\], found \[24, 32\]"),
    ({"activation_function": "os.system"}, UnsupportedError, "activation_function = 'os.system' is not supported"),
    ({"activation_function": "torch.nn.modules.activation.Softmax"}, UnsupportedError, "known: torch.nn's Identity"),
    ({"activation_function": None}, ModelFormatError, "activation_function: expected a string"),
    ({"use_residual": True}, ModelFormatError, "tensor 'residual.weight' is missing"),
    ({"module_output_name": "token_embeddings"}, UnsupportedError, "it reads sentence_embedding"),
    ({"module_input_name": "token_embeddings", "module_output_name": ...}, UnsupportedError, "behind the pooling"),
    ({"bias": "no"}, ModelFormatError, "bias: expected true or false"),
    ({"bias": False}, ModelFormatError, r"tensors that have no place in this Dense: linear\.bias"),
    ({"scale": 2}, UnsupportedError, "unknown key 'scale'"),
]


@pytest.mark.parametrize(("changes", "kind", "words"), BAD_DENSES)
def test_denses(tmp_path: Path, changes: dict[str, Any], kind: type[FastlmError], words: str) -> None:
    folder = edited(compose(tmp_path / "model", "dense"), "2_Dense/config.json", **changes)
    with pytest.raises(kind, match=rf"2_Dense/\w+\.\w+: .*{words}"):
        fastlm.load(folder)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("name", ["linear__weight", "linear__bias"])
def test_weights_that_are_not_numbers(tmp_path: Path, name: str, value: float) -> None:
    folder = compose(tmp_path / "model", "dense")
    arrays = {"linear__weight": np.ones((24, 32)), "linear__bias": np.ones(24)}
    arrays[name].flat[7] = value
    tensors(folder / "2_Dense", **arrays)
    with pytest.raises(ModelFormatError, match=rf"2_Dense/model\.safetensors: {name.replace('__', '.')}: holds NaN"):
        fastlm.load(folder)


def test_weights_of_modules_that_are_missing_or_damaged(tmp_path: Path) -> None:
    folder = compose(tmp_path / "model", "dense")
    weights = folder / "2_Dense" / "model.safetensors"
    whole = weights.read_bytes()
    for size in (0, 7, 100, len(whole) - 1):
        weights.write_bytes(whole[:size])
        with pytest.raises(ModelFormatError, match=r"2_Dense/model\.safetensors"):
            fastlm.load(folder)
    weights.rename(folder / "2_Dense" / "pytorch_model.bin")
    with pytest.raises(UnsupportedError, match=r"is missing; modules\.json lists Dense: save the model again"):
        fastlm.load(folder)
    weights.write_bytes(whole)
    (folder / "2_Dense" / "config.json").unlink()
    with pytest.raises(ModelFormatError, match=r"2_Dense/config\.json: is missing; modules\.json lists Dense"):
        fastlm.load(folder)


BAD_MODULES = [
    ({}, ModelFormatError, "expected a list of modules"),
    ([3], ModelFormatError, "expected a list of modules"),
    ([], ModelFormatError, "0 modules; from 1 to 32 are read"),
    ([{"type": "x.Transformer"}] * 33, ModelFormatError, "33 modules; from 1 to 32 are read"),
    ([{"type": "x.Quaternion"}], UnsupportedError, r"'Quaternion' as the first module is not supported \(known: Tra"),
    ([{"type": "x.Transformer"}, {"type": "x.Router"}], UnsupportedError, "the module 'Router' is not supported"),
    (
        [{"type": "x.Transformer"}, {"type": "x.Pooling", "path": "../other"}],
        ModelFormatError,
        r"\[1\]: path: expected",
    ),
    ([{"type": "x.Transformer"}, {"type": "x.Pooling", "path": "/etc"}], ModelFormatError, r"\[1\]: path: expected"),
    ([{"type": "x.Transformer"}, {"type": ["x"]}], ModelFormatError, r"\[1\]: type: expected a string"),
    (
        [{"type": "x.Transformer"}, *[{"type": "x.Pooling", "path": "1_Pooling"}] * 2],
        UnsupportedError,
        "Pooling as the second module that puts tokens together",
    ),
    (
        [{"type": "x.Transformer"}, {"type": "x.Pooling", "path": "1_Pooling"}, {"type": "x.MultiVectorMask"}],
        ModelFormatError,
        r"2_MultiVectorMask/config\.json: is missing",
    ),
]


@pytest.mark.parametrize(("listed", "kind", "words"), BAD_MODULES)
def test_modules(tmp_path: Path, listed: object, kind: type[FastlmError], words: str) -> None:
    folder = compose(tmp_path / "model", "pooled_list")
    (folder / "modules.json").write_text(json.dumps(listed))
    with pytest.raises(kind, match=words):
        fastlm.load(folder)


BAD_SETTINGS = [
    ("dense", "sentence_bert_config.json", {"processing_kwargs": {"text": {"max_length": 3}}}, "max_length.* not supp"),
    (
        "dense",
        "sentence_bert_config.json",
        {"modality_config": {"text": {"method_output_name": "pooler_output"}}},
        "pooler_output' is not supported",
    ),
    ("dense", "config_sentence_transformers.json", {"truncate_dim": 0}, "truncate_dim: expected an integer from 1"),
    ("dense", "config_sentence_transformers.json", {"prompts": {"query": 3}}, "prompts: query: expected a string"),
    ("dense", "config_sentence_transformers.json", {"prompts": [1]}, "prompts: expected an object"),
    (
        "dense",
        "config_sentence_transformers.json",
        {"default_prompt_name": 3},
        "default_prompt_name: expected a string",
    ),
    ("dense", "sentence_bert_config.json", {"max_seq_length": -5}, "max_seq_length: expected an integer"),
    (
        "splade",
        "1_SpladePooling/config.json",
        {"pooling_strategy": "mean"},
        "pooling_strategy = 'mean' is not supported",
    ),
    ("splade", "1_SpladePooling/config.json", {"activation_function": "gelu"}, "known: relu, log1p_relu"),
    ("causal", "1_LogitScore/config.json", {"true_token_id": 256}, "true_token_id: expected an integer from 0 to 255"),
    ("causal", "1_LogitScore/config.json", {"true_token_id": ...}, "true_token_id: is missing"),
    ("cross", "config_sentence_transformers.json", {"activation_fn": "x.Evil"}, "activation_fn = 'x.Evil' is not"),
    ("late_apart", "sentence_bert_config.json", {"query_expansion": {"strategy": "max"}}, "strategy = 'max' is not"),
    ("late_apart", "sentence_bert_config.json", {"query_expansion": {"strategy": "fixed"}}, "length: expected an"),
    ("late_apart", "2_MultiVectorMask/config.json", {"skiplist_words": "abc"}, "skiplist_words: expected a list"),
    ("late_apart", "2_MultiVectorMask/config.json", {"keep_only_token_ids": [-1]}, "keep_only_token_ids: expected"),
]


@pytest.mark.parametrize(("name", "file", "changes", "words"), BAD_SETTINGS)
def test_settings(tmp_path: Path, name: str, file: str, changes: dict[str, Any], words: str) -> None:
    folder = edited(compose(tmp_path / "model", name), file, **changes)
    with pytest.raises((ModelFormatError, UnsupportedError), match=rf"{file}: .*{words}"):
        fastlm.load(folder)


def test_tables(tmp_path: Path) -> None:
    folder = compose(tmp_path / "model", "static")
    weights = folder / "model.safetensors"
    cases: list[tuple[dict[str, np.ndarray], str]] = [
        ({"table": np.ones((89, 4))}, r"holds neither embedding\.weight nor embeddings"),
        ({"embedding__weight": np.ones(89)}, "expected a matrix"),
        (
            {"embedding__weight": np.ones((89, 4)), "mapping": np.ones(89)},
            "have no place in a table of tokens: mapping",
        ),
        ({"embeddings": np.ones((89, 4)), "weights": np.ones(88)}, "weights: expected a number for each of 89 tokens"),
        ({"embeddings": np.ones((89, 4)), "weights": np.full(89, np.nan)}, "weights: expected a number"),
        ({"embeddings": np.ones((9, 4)), "mapping": np.ones(89)}, "mapping: expected a row of embeddings"),
        ({"embedding__weight": np.full((89, 4), np.nan)}, "NaN"),
    ]
    for arrays, words in cases:
        tensors(folder, **arrays)
        with pytest.raises(ModelFormatError, match=words):
            fastlm.load(folder)
    ids = np.full(3, 9, np.int64)
    table = np.ones((9, 4), np.float32)
    header = {"embeddings": entry("F32", [9, 4], 0, 144), "mapping": entry("I64", [3], 144, 168)}
    weights.write_bytes(pack(header, table.tobytes() + ids.tobytes()))
    with pytest.raises(ModelFormatError, match="mapping: expected a row of embeddings for each token"):
        fastlm.load(folder)
    weights.unlink()
    with pytest.raises(ModelFormatError, match=r"lacks config\.json and model\.safetensors"):
        fastlm.load(folder)


def test_vectors_that_overflow(tmp_path: Path) -> None:
    folder = compose(tmp_path / "model", "dense")
    tensors(folder / "2_Dense", linear__weight=np.full((24, 32), 3e38), linear__bias=np.ones(24))
    with fastlm.load(folder) as model, pytest.raises(NumericError, match=r"the modules .* NaN or infinite"):
        model.embed(["paris"])


def test_a_score_needs_words(tmp_path: Path) -> None:
    folder = BASES["bert"](tmp_path / "model")
    shutil.copytree(FOLDERS / "causal" / "1_LogitScore", folder / "1_LogitScore")
    shutil.copy(FOLDERS / "causal" / "modules.json", folder)
    with pytest.raises(UnsupportedError, match=r"modules\.json: LogitScore behind a model that writes no words"):
        fastlm.load(folder)


# ---- calls ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def model(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[fastlm.Model]:
    with fastlm.load(compose(tmp_path / "model", request.param), threads=1) as loaded:
        yield loaded


CALLS: list[tuple[str, Callable[[Any], Any], type[FastlmError], str]] = [
    ("static", lambda m: m.embed(["paris", ""]), ParameterError, r"texts\[1\]: the text is empty"),
    ("static", lambda m: m.generate("paris"), UnsupportedError, "an encoder writes no text; this one can embed"),
    ("static", lambda m: m.classify(["paris"]), UnsupportedError, "no head for it; it can: embed"),
    ("static", lambda m: m.embed_sparse(["paris"]), UnsupportedError, "lists no SpladePooling .*; it can: embed"),
    (
        "static",
        lambda m: m.embed_tokens(["paris"]),
        UnsupportedError,
        "no modules for vectors of tokens; it can: embed",
    ),
    ("pooled_first", lambda m: m.embed(["a " * 40]), ContextLengthError, "42 tokens are more than the 32 that this"),
    ("pooled_old", lambda m: m.embed(["paris"], pooling=["mean", "sum"]), ParameterError, "or a list of them, not"),
    ("pooled_old", lambda m: m.embed(["paris"], pooling=np.array(["mean", "max"])), ParameterError, "pooling must be"),
    ("pooled_old", lambda m: m.embed(["paris"], normalize=np.array([True, False])), ParameterError, "normalize must"),
    ("pooled_old", lambda m: m.embed(["paris"], prompt_name=["a"]), ParameterError, "prompt_name: this model has no"),
    ("pooled_old", lambda m: m.embed(["paris"], truncate="no"), ParameterError, "truncate must be True or False"),
    ("labelled", lambda m: m.classify(["paris"], labels=5, top_k=1), ParameterError, "labels must be a list"),
    ("pooled_old", lambda m: m.embed(["paris"], pooling=[]), ParameterError, "pooling must be one of"),
    ("pooled_old", lambda m: m.embed(["paris"], dimensions=65), ParameterError, "dimensions must be from 1 to 64"),
    ("dense", lambda m: m.embed(["paris"], pooling=["mean", "max"]), ParameterError, "modules read 1 pooled vectors"),
    ("dense", lambda m: m.embed(["paris"], dimensions=21), ParameterError, "dimensions must be from 1 to 20"),
    ("pooled_list", lambda m: m.embed(["it"], prompt_name="ask"), ParameterError, "known: document, none, query"),
    ("splade", lambda m: m.embed(["paris"]), UnsupportedError, "made for embed_sparse; for one vector"),
    ("splade", lambda m: m.embed_sparse("paris"), ParameterError, "put one text into a list"),
    ("splade", lambda m: m.embed_sparse(["paris", 3]), ParameterError, r"texts\[1\] must be a string"),
    ("splade", lambda m: m.embed_sparse(["paris"], top_k=0), ParameterError, "top_k must be from 1"),
    ("splade", lambda m: m.embed_sparse(["a " * 70]), ContextLengthError, r"texts\[0\]: 72 tokens"),
    ("splade", lambda m: m.fill_mask("paris"), ParameterError, r"there is no \[MASK\] in it"),
    ("late_attended", lambda m: m.embed(["paris"]), UnsupportedError, "made for embed_tokens; for one vector"),
    ("late_attended", lambda m: m.embed_tokens("paris"), ParameterError, "put one text into a list"),
    ("late_attended", lambda m: m.embed_tokens(["it"], prompt_name="who"), ParameterError, "known: query, document"),
    ("late_attended", lambda m: m.embed_tokens(["a " * 30]), ContextLengthError, "33 tokens are more than the 20"),
    ("cross", lambda m: m.rerank(3, ["paris"]), ParameterError, "query must be a string"),
    ("cross", lambda m: m.rerank("it", "paris"), ParameterError, "docs must be a list of texts"),
    ("cross", lambda m: m.rerank("it", ["paris", 3]), ParameterError, r"docs\[1\] must be"),
    ("cross", lambda m: m.rerank("it", ["a " * 80]), ContextLengthError, r"docs\[0\]: "),
    ("causal", lambda m: m.rerank("it", ["paris", None]), ParameterError, r"docs\[1\] must be"),
    ("causal_asked", lambda m: m.rerank("it", ["paris", None]), ParameterError, r"docs\[1\]: a document must be"),
    ("causal_asked", lambda m: m.rerank("it", ["a" * 600]), ContextLengthError, r"docs\[0\]: "),
    ("labelled", lambda m: m.rerank("it", ["paris"]), UnsupportedError, "tells 3 labels apart; it needs one, or two"),
    ("labelled", lambda m: m.classify([("a", "b", "c")]), ParameterError, r"texts\[0\] must be a string or a pair"),
    (
        "labelled",
        lambda m: m.tag("paris"),
        UnsupportedError,
        "tag: this checkpoint has no head for it; it can: classify",
    ),
]


@pytest.mark.parametrize(("model", "call", "kind", "words"), CALLS, indirect=["model"])
def test_calls(model: fastlm.Model, call: Callable[[Any], Any], kind: type[FastlmError], words: str) -> None:
    with pytest.raises(kind, match=words):
        call(model)


def test_a_prompt_that_leaves_nothing(tmp_path: Path) -> None:
    folder = compose(tmp_path / "model", "pooled_list")
    edited(folder, "sentence_bert_config.json", max_seq_length=4)
    with fastlm.load(folder) as model:
        with pytest.raises(ParameterError, match=r"texts\[0\]: nothing is left of it behind the prompt"):
            model.embed(["paris is it"], truncate=True)
        assert model.embed(["paris is it"], truncate=True, prompt_name="none").shape == (1, 96)


def test_pairs_for_a_model_without_pairs(tmp_path: Path) -> None:
    folder = BASES["labels"](tmp_path / "model")
    edited(folder, "tokenizer.json", post_processor=None)
    edited(folder, "tokenizer_config.json", tokenizer_class="PreTrainedTokenizerFast")
    with fastlm.load(folder) as model:
        assert len(model.classify(["paris", "it"])) == 2
        for call in (model.classify, model.embed):
            with pytest.raises(
                ParameterError, match=r"texts\[1\]: a pair, and the tokenizer has no form for pairs: put"
            ):
                call(["paris", ("paris", "it")])
        with pytest.raises(ParameterError, match="the text is empty, and the tokenizer adds nothing"):
            model.classify([""])
    with fastlm.load(compose(tmp_path / "static", "static")) as model, pytest.raises(ParameterError, match="a pair"):
        model.embed([("paris", "it")])


@pytest.mark.parametrize(
    ("query", "docs", "words"),
    [
        (np.ones(3), [], "query: expected an array of shape"),
        (np.ones((0, 3)), [], "query: expected an array of shape"),
        ("paris", [], "query: expected numbers"),
        (np.ones((2, 3)), [np.ones((2, 4))], r"docs\[0\]: vectors of 4 numbers; those of the query have 3"),
        (np.ones((2, 3)), [np.ones((2, 3)), np.ones(3)], r"docs\[1\]: expected an array of shape"),
        (np.ones((2, 3)), "paris", "docs: expected a list of arrays"),
    ],
)
def test_max_sim(query: Any, docs: Any, words: str) -> None:
    with pytest.raises(ParameterError, match=words):
        fastlm.max_sim(query, docs)


def test_no_mask_token(tmp_path: Path) -> None:
    folder = save_bert(tmp_path / "model", "BertForMaskedLM")
    edited(folder, "tokenizer_config.json", mask_token=..., tokenizer_class="PreTrainedTokenizerFast")
    with fastlm.load(folder) as model, pytest.raises(UnsupportedError, match="names no mask token"):
        model.fill_mask("paris is it")
