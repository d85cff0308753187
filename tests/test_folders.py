"""Folders of sentence-transformers as they are: vectors, words, tokens and scores as that library makes them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from folder_models import DOCUMENTS, FOLDERS, MASKED, QUERY, TAGGED, TEXTS, compose

import fastlm

CLOSE = 1e-4  # of the standard deviation
NAMES = sorted(path.parent.name for path in FOLDERS.glob("*/case.json"))


def expected(name: str) -> dict[str, Any]:
    found: dict[str, Any] = {}
    if (FOLDERS / name / "expected.npz").exists():
        with np.load(FOLDERS / name / "expected.npz") as arrays:
            found |= dict(arrays)
    if (FOLDERS / name / "expected.json").exists():
        found |= json.loads((FOLDERS / name / "expected.json").read_text())
    return found


def named(kind: str) -> list[str]:
    return [name for name in NAMES if kind in expected(name)]


@pytest.fixture
def model(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[fastlm.Model]:
    with fastlm.load(compose(tmp_path / "model", request.param), threads=2) as loaded:
        yield loaded


@pytest.fixture
def wanted(request: pytest.FixtureRequest) -> dict[str, Any]:
    return expected(request.node.callspec.params["model"])


def edit(folder: Path, file: str, **changes: Any) -> None:
    path = folder / file
    values = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps({**values, **changes}))


def near(found: np.ndarray, exact: np.ndarray) -> bool:
    return found.shape == exact.shape and bool(np.abs(found - exact).max() < CLOSE * exact.std())


def test_every_golden_is_tested() -> None:
    kinds = ("vectors", "sparse", "query0", "ranks", "labels", "tags", "filled")
    assert sorted(name for kind in kinds for name in named(kind)) == NAMES


@pytest.mark.parametrize("model", named("vectors"), indirect=True)
def test_vectors(model: fastlm.Model, wanted: dict[str, Any]) -> None:
    assert model.kind == "encoder" and "embed" in model.tasks
    assert near(model.embed(TEXTS, truncate=True), wanted["vectors"])
    for name in wanted.keys() - {"vectors"}:
        assert near(model.embed(TEXTS, truncate=True, prompt_name=name), wanted[name])


@pytest.mark.parametrize("model", named("vectors"), indirect=True)
def test_vectors_are_the_same_in_any_company(model: fastlm.Model) -> None:
    together = model.embed(TEXTS * 40, truncate=True)
    for i, text in enumerate(TEXTS):
        alone = model.embed(text, truncate=True)
        assert all(np.array_equal(alone, together[j]) for j in range(i, len(together), len(TEXTS)))


def test_prompts_of_pairs_and_vectors_of_other_models(tmp_path: Path) -> None:
    folder = compose(tmp_path / "dense", "pooled_list")
    edit(folder, "1_Pooling/config.json", include_prompt=True)
    with fastlm.load(folder, threads=1) as model:
        pair = model.embed([("paris", "is it wide")], prompt_name="query")
        assert np.array_equal(pair, model.embed([("who is it paris", "is it wide")], prompt_name="none"))
    with fastlm.load(compose(tmp_path / "sparse", "splade"), threads=1) as model:
        ids = model.tokenizer.encode(TEXTS[0])  # type: ignore[union-attr]
        hidden = model.forward(ids).hidden
        found = model.embed([TEXTS[0]], pooling=["mean", "max"], normalize=False)[0]
        assert np.abs(found - np.concatenate([hidden.mean(axis=0), hidden.max(axis=0)])).max() < 1e-5


def test_a_folder_of_model2vec_alone(tmp_path: Path) -> None:
    """Its config.json says whether vectors have length 1."""
    folder = compose(tmp_path / "model", "model2vec")
    with fastlm.load(folder) as model:
        listed = model.embed(TEXTS)
    (folder / "modules.json").unlink()
    for path in list((folder / "0_StaticEmbedding").iterdir()):
        path.rename(folder / path.name)
    for unit in (False, True):
        config = {"model_type": "model2vec", "architectures": ["StaticModel"], "hidden_dim": 10, "normalize": unit}
        (folder / "config.json").write_text(json.dumps(config))
        with fastlm.load(folder) as model:
            lengths = np.linalg.norm(listed, axis=1, keepdims=True) if unit else 1
            assert model.tasks == ("embed",) and np.abs(model.embed(TEXTS) - listed / lengths).max() < 1e-6


@pytest.mark.parametrize("model", named("sparse"), indirect=True)
def test_words(model: fastlm.Model, wanted: dict[str, Any]) -> None:
    assert model.tasks == ("fill_mask", "embed_sparse")
    found = model.embed_sparse(TEXTS)
    assert len(found) == len(wanted["sparse"])
    for words, exact in zip(found, wanted["sparse"], strict=True):
        assert list(words.values()) == sorted(words.values(), reverse=True) and min(words.values()) > 0
        assert all(abs(words.get(name, 0) - exact.get(name, 0)) < CLOSE for name in words.keys() | exact.keys())
    shorter = model.embed_sparse(TEXTS, top_k=3)
    assert shorter == [dict(list(words.items())[:3]) for words in found]


@pytest.mark.parametrize("model", named("query0"), indirect=True)
def test_tokens(model: fastlm.Model, wanted: dict[str, Any]) -> None:
    assert model.tasks == ("embed_tokens",)
    queries = model.embed_tokens([QUERY, "who"], prompt_name="query")
    documents = model.embed_tokens(TEXTS)
    for kind, found in (("query", queries), ("document", documents)):
        exact = [wanted[f"{kind}{i}"] for i in range(len(found))]
        assert all(near(vectors, other) for vectors, other in zip(found, exact, strict=True))
    for query, scores in zip(queries, wanted["scores"], strict=True):
        assert near(fastlm.max_sim(query, documents), scores)
        assert fastlm.max_sim(query, documents[2]) == fastlm.max_sim(query, documents)[2]
    again = model.embed_tokens(TEXTS[::-1], prompt_name="document")[::-1]
    assert all(np.array_equal(a, b) for a, b in zip(documents, again, strict=True))


@pytest.mark.parametrize("model", named("ranks"), indirect=True)
def test_ranks(model: fastlm.Model, wanted: dict[str, Any]) -> None:
    assert "rerank" in model.tasks
    found = model.rerank(QUERY, DOCUMENTS)
    scores = np.empty(len(DOCUMENTS))
    for rank in found:
        assert rank.document == DOCUMENTS[rank.index]
        scores[rank.index] = rank.score
    assert near(scores, wanted["ranks"])
    assert [rank.index for rank in found] == np.argsort(-wanted["ranks"], kind="stable").tolist()


TWINS: list[tuple[str, str, dict[str, Any]]] = [
    ("pooled_list", "1_Pooling/config.json", {"include_prompt": True}),
    ("pooled_list", "1_Pooling/config.json", {"pooling_mode": ["mean", "cls", "max"]}),
    ("pooled_list", "1_Pooling/config.json", {"pooling_mode": ["weightedmean", "lasttoken", "max"]}),
    ("pooled_list", "1_Pooling/config.json", {"pooling_mode": ["weightedmean", "cls", "mean_sqrt_len_tokens"]}),
    ("pooled_list", "config_sentence_transformers.json", {"default_prompt_name": None}),
    ("pooled_old", "sentence_bert_config.json", {"do_lower_case": False}),
    ("pooled_old", "sentence_bert_config.json", {"max_seq_length": 8}),
    ("dense", "2_Dense/config.json", {"activation_function": "torch.nn.modules.activation.SiLU"}),
    ("dense", "5_Dense/config.json", {"use_residual": False}),
    ("dense", "6_Dense/config.json", {"activation_function": "torch.nn.modules.activation.Tanh"}),
    ("dense_tokens", "1_Dense/config.json", {"activation_function": "torch.nn.modules.linear.Identity"}),
    ("late_attended", "2_MultiVectorMask/config.json", {"skiplist_words": []}),
    ("late_attended", "config_sentence_transformers.json", {"prompts": {"document": "a "}}),
    ("splade", "1_SpladePooling/config.json", {"activation_function": "log1p_relu"}),
    ("splade", "1_SpladePooling/config.json", {"pooling_strategy": "sum"}),
    ("cross", "config_sentence_transformers.json", {"activation_fn": "torch.nn.modules.activation.Sigmoid"}),
    ("cross", "config_sentence_transformers.json", {"default_prompt_name": None}),
    ("causal", "1_LogitScore/config.json", {"false_token_id": None}),
    ("causal_asked", "sentence_bert_config.json", {"processing_kwargs": {}}),
    ("causal_asked", "config_sentence_transformers.json", {"default_prompt_name": None}),
]


@pytest.mark.parametrize(("name", "file", "changes"), TWINS)
def test_what_a_folder_says_shows(tmp_path: Path, name: str, file: str, changes: dict[str, Any]) -> None:
    """A setting that is overlooked would be seen by the goldens: another value changes what comes out."""
    folder, wanted = compose(tmp_path / "model", name), expected(name)
    edit(folder, file, **changes)
    with fastlm.load(folder, threads=1) as model:
        if "vectors" in wanted:
            assert not near(model.embed(TEXTS, truncate=True), wanted["vectors"])
        elif "sparse" in wanted:
            heaviest = [max(words.values()) for words in model.embed_sparse(TEXTS)]
            assert not np.allclose(heaviest, [max(words.values()) for words in wanted["sparse"]], atol=1e-2)
        elif "query0" in wanted:
            found = model.embed_tokens(TEXTS)
            assert not all(near(vectors, wanted[f"document{i}"]) for i, vectors in enumerate(found))
        else:
            found = [np.array([rank.score for rank in model.rerank(QUERY, DOCUMENTS)])]
            assert not near(found[0], np.sort(wanted["ranks"])[::-1])


@pytest.mark.parametrize(
    "model", [n for n in NAMES if n not in named("labels") + named("tags") + named("filled")], indirect=True
)
def test_a_packed_file_says_the_same(model: fastlm.Model, wanted: dict[str, Any], tmp_path: Path) -> None:
    from fastlm.saving import save

    def made(m: fastlm.Model) -> list[np.ndarray]:
        if "sparse" in wanted:
            return [np.array(list(words.values())) for words in m.embed_sparse(TEXTS)]
        if "query0" in wanted:
            return m.embed_tokens(TEXTS)
        if "ranks" in wanted:
            return [np.array([rank.score for rank in m.rerank(QUERY, DOCUMENTS)])]
        return [m.embed(TEXTS, truncate=True)]

    save(model, tmp_path / "model.flm")
    with fastlm.load(tmp_path / "model.flm", threads=1) as packed:
        assert packed.tasks == model.tasks
        assert all(np.array_equal(a, b) for a, b in zip(made(packed), made(model), strict=True))


@pytest.mark.parametrize("model", named("labels"), indirect=True)
def test_labels(model: fastlm.Model, wanted: dict[str, Any]) -> None:
    """As transformers' pipelines for text classification, and for labels of one's own."""
    found = model.classify([*TEXTS, (QUERY, DOCUMENTS[0])])
    for labels, exact in zip(found, wanted["labels"], strict=True):
        assert [label.label for label in labels] == [other["label"] for other in exact]
        assert np.allclose([label.score for label in labels], [other["score"] for other in exact], atol=1e-5)
    for exact in wanted["zero"]:
        (labels,) = model.classify([TEXTS[0]], labels=exact["labels"][::-1])
        assert [label.label for label in labels] == exact["labels"]
        assert np.allclose([label.score for label in labels], exact["scores"], atol=1e-5)


@pytest.mark.parametrize("model", named("tags"), indirect=True)
def test_spans(model: fastlm.Model, wanted: dict[str, Any]) -> None:
    """As transformers' pipeline puts words together by their first piece."""
    for text, exact in zip([*TEXTS, TAGGED], wanted["tags"], strict=True):
        found = model.tag(text)
        spans = [(span.label, span.start, span.end) for span in found]
        assert spans == [(other["entity_group"], other["start"], other["end"]) for other in exact]
        assert np.allclose([span.score for span in found], [other["score"] for other in exact], atol=1e-5)
        assert all(span.text == text[span.start : span.end] for span in found)


@pytest.mark.parametrize("model", named("filled"), indirect=True)
def test_gaps(model: fastlm.Model, wanted: dict[str, Any]) -> None:
    for text, exact in zip(MASKED, wanted["filled"], strict=True):
        found: Any = model.fill_mask(text, top_k=4)
        assert _plain(found) == _plain(exact)


def _plain(filled: Any) -> Any:
    if isinstance(filled, list):
        return [_plain(one) for one in filled]
    if isinstance(filled, dict):
        return filled["token"], filled["token_str"], filled["sequence"], pytest.approx(filled["score"], abs=1e-5)
    return filled.token, filled.text, filled.sequence, filled.score
