"""embed, classify, tag, fill_mask, answer and rerank: as their forward passes say, in any company."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bert_models import WORDS, pieces, save_bert

import fastlm
from fastlm.errors import ContextLengthError, ModelFormatError, ParameterError, UnsupportedError
from fastlm.tasks.labels import Span, _join, _Word

TEXTS = ["the animal did not cross the street", "it was too tired", "", "paris", "who is it? " * 9, "it was wide."]
TAGS = ("O", "B-PER", "I-PER", "B-LOC", "I-LOC")


def ids(*texts: str) -> list[int]:
    """By hand: all words of these texts are pieces of their own."""
    table = {piece: i for i, piece in enumerate(pieces())}
    found = [2]
    for text in texts:
        found += [table[word] for word in text.replace("?", " ?").replace(".", " .").split()] + [3]
    return found


def types(*texts: str) -> list[int]:
    found = [0]
    for i, text in enumerate(texts):
        found += [i] * (len(text.replace("?", " ?").replace(".", " .").split()) + 1)
    return found


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    kinds = {
        "Model": (),
        "ForSequenceClassification": ("contradiction", "entailment", "neutral"),
        "ForTokenClassification": TAGS,
        "ForQuestionAnswering": ("LABEL_0", "LABEL_1"),
        "ForMaskedLM": (),
    }
    made = {}
    for kind, labels in kinds.items():
        made[kind] = save_bert(tmp_path_factory.mktemp(kind), f"Bert{kind}", labels)
    made["one label"] = save_bert(tmp_path_factory.mktemp("one"), "BertForSequenceClassification", ("LABEL_0",))
    return made


def opened(folders: dict[str, Path], kind: str, **options: Any) -> Iterator[fastlm.Model]:
    with fastlm.load(folders[kind], threads=2, **options) as model:
        yield model


@pytest.fixture
def bare(folders: dict[str, Path]) -> Iterator[fastlm.Model]:
    yield from opened(folders, "Model")


@pytest.fixture
def classifier(folders: dict[str, Path]) -> Iterator[fastlm.Model]:
    yield from opened(folders, "ForSequenceClassification")


def softmax(x: np.ndarray) -> np.ndarray:
    e = np.exp(x - x.max())
    return e / e.sum()


# ---- embed ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["Model", "ForMaskedLM"])
@pytest.mark.parametrize("pooling", ["mean", "cls", "last"])
def test_vectors_are_pooled_hidden_states(folders: dict[str, Path], kind: str, pooling: str) -> None:
    for model in opened(folders, kind):
        found = model.embed(TEXTS, pooling=pooling, normalize=False)
        assert found.dtype == np.float32 and found.shape == (len(TEXTS), 32)
        for text, vector in zip(TEXTS, found, strict=True):
            hidden = model.forward(ids(text)).hidden
            wanted = {"mean": hidden.mean(axis=0), "cls": hidden[0], "last": hidden[-1]}[pooling]
            assert np.abs(vector - wanted).max() < 1e-5


def test_vectors_are_the_same_in_any_company(folders: dict[str, Path]) -> None:
    rng = np.random.default_rng(0)
    words = [w for w in WORDS.split() if len(w) > 1]
    texts = [" ".join(rng.choice(words, int(rng.integers(0, 50)))) for _ in range(150)]
    for dtype in ("float32", "int8"):
        alone = {}
        for threads in (1, 2):
            with fastlm.load(folders["Model"], threads=threads, dtype=dtype) as model:
                found = model.embed(iter(texts))
                alone = alone or {text: model.embed(text) for text in texts}
                assert all(np.array_equal(found[i], alone[text]) for i, text in enumerate(texts))
                order = rng.permutation(len(texts))
                assert np.array_equal(model.embed([texts[i] for i in order]), found[order])
        lengths = np.linalg.norm(found, axis=1)
        assert np.abs(lengths - 1).max() < 1e-6


def test_embed_takes_one_text_none_or_many(bare: fastlm.Model) -> None:
    assert bare.embed("paris").shape == (32,)
    assert bare.embed([]).shape == (0, 32)
    assert bare.embed(["paris"], dimensions=8).shape == (1, 8)
    seen: list[tuple[int, int | None]] = []
    bare.embed(TEXTS, progress=lambda done, total: seen.append((done, total)))
    assert seen == [(len(TEXTS), len(TEXTS))]


def test_texts_that_are_too_long(bare: fastlm.Model) -> None:
    long = "paris " * 100
    with pytest.raises(ContextLengthError, match=r"texts\[1\]: 102 tokens .* of 64: shorten it, or let it be cut"):
        bare.embed(["paris", long])
    cut = bare.embed([long, "paris " * 62], truncate=True)
    assert np.array_equal(cut[0], cut[1])


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"pooling": "min"}, "pooling must be one of auto, first, last, cls, max, mean, .* not .min."),
        ({"normalize": "yes"}, "normalize must be True, False or 'auto'"),
        ({"dimensions": 33}, "dimensions must be from 1 to 32"),
        ({"prompt_name": "query"}, r"prompt_name: this model has no prompt 'query' \(known: none\)"),
    ],
)
def test_embed_refuses(bare: fastlm.Model, arguments: dict[str, Any], words: str) -> None:
    with pytest.raises(ParameterError, match=words):
        bare.embed(["paris"], **arguments)


@pytest.mark.parametrize("texts", [3, b"paris", ["paris", 3], [["a", "b", "c"]], ["half \ud800"]])
def test_embed_refuses_what_is_no_text(bare: fastlm.Model, texts: Any) -> None:
    with pytest.raises(ParameterError, match="text"):
        bare.embed(texts)


def test_a_folder_of_sentence_transformers(folders: dict[str, Path], tmp_path: Path) -> None:
    folder = save_bert(tmp_path / "model")
    (folder / "1_Pooling").mkdir()
    types = ["Transformer", "Pooling", "Normalize"]
    modules = [{"idx": i, "path": "", "type": f"sentence_transformers.models.{t}"} for i, t in enumerate(types)]
    (folder / "modules.json").write_text(json.dumps(modules[:2]))
    pooling = folder / "1_Pooling" / "config.json"
    pooling.write_text(json.dumps({"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False}))
    prompts = {"prompts": {"query": "who is "}, "default_prompt_name": None}
    (folder / "config_sentence_transformers.json").write_text(json.dumps(prompts))
    (folder / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": 16}))
    with fastlm.load(folder) as model:
        first = model.forward(ids("who is it")).hidden[0]
        assert np.abs(model.embed("it", prompt_name="query") - first).max() < 1e-5
        with pytest.raises(ContextLengthError, match=r"texts\[0\]: 42 tokens are more than the 16 that this model"):
            model.embed(["paris " * 40])
        cut = model.embed(["paris " * 40, "paris " * 14], truncate=True)
        assert np.array_equal(cut[0], cut[1])
        from fastlm.saving import save

        save(model, tmp_path / "model.flm")
        with fastlm.load(tmp_path / "model.flm") as packed:
            assert np.array_equal(packed.embed("it", prompt_name="query"), model.embed("it", prompt_name="query"))
    pooling.write_text(json.dumps({"pooling_mode": "mean"}))
    (folder / "modules.json").write_text(json.dumps(modules))
    with fastlm.load(folder) as model:
        assert np.array_equal(model.embed("it"), model.embed("it", pooling="mean", normalize=True))
    pooling.write_text(json.dumps({"pooling_mode": "sorted"}))
    with pytest.raises(UnsupportedError, match="pooling"):
        fastlm.load(folder)
    (folder / "modules.json").write_text("{}")
    with pytest.raises(ModelFormatError, match=r"modules\.json: expected a list of modules"):
        fastlm.load(folder)
    (folder / "modules.json").write_text(json.dumps([{"type": "x.Quaternion"}]))
    with pytest.raises(UnsupportedError, match="Quaternion"):
        fastlm.load(folder)


# ---- labels --------------------------------------------------------------------------------------------------------


def test_labels_of_texts_and_pairs(classifier: fastlm.Model) -> None:
    assert classifier.tasks == ("classify", "embed")
    texts = [TEXTS[0], ("it was tired", "it was wide"), ["paris", "france"]]
    found = classifier.classify(texts)
    for text, labels in zip(texts, found, strict=True):
        parts = [text] if isinstance(text, str) else text
        logits = classifier.forward(ids(*parts), token_type_ids=types(*parts)).logits
        assert logits is not None and logits.shape == (1, 3)
        p = softmax(logits[0].astype(float))
        order = np.argsort(-p)
        assert [label.label for label in labels] == [("contradiction", "entailment", "neutral")[i] for i in order]
        assert np.allclose([label.score for label in labels], p[order], atol=1e-6)
    assert [len(labels) for labels in classifier.classify(texts, top_k=2)] == [2, 2, 2]


def test_errors_name_the_text(folders: dict[str, Path], classifier: fastlm.Model, monkeypatch: Any) -> None:
    """Texts are read in groups; their numbers are those of the whole list."""
    monkeypatch.setattr("fastlm.tasks.texts.READ_AT_ONCE", 2)
    texts: list[Any] = ["paris", "it was wide.", "paris", "it", "paris", 6]
    for call in (classifier.embed, classifier.classify, lambda texts: classifier.classify(texts, labels=["paris"])):
        with pytest.raises(ParameterError, match=r"^texts\[5\]"):
            call(texts)
    with fastlm.load(folders["one label"]) as ranker, pytest.raises(ParameterError, match=r"^docs\[5\]"):
        ranker.rerank("paris", texts)


def test_labels_that_exclude_nothing(tmp_path: Path) -> None:
    kind = {"problem_type": "multi_label_classification"}
    folder = save_bert(tmp_path, "BertForSequenceClassification", ("a", "b"), **kind)
    with fastlm.load(folder) as model:
        (labels,) = model.classify(["paris"])
        logits = model.forward(ids("paris")).logits
        assert logits is not None
        wanted = sorted(1 / (1 + np.exp(-logits[0].astype(float))), reverse=True)
        assert np.allclose([label.score for label in labels], wanted, atol=1e-6)


def test_labels_of_ones_own(classifier: fastlm.Model) -> None:
    (found,) = classifier.classify(["paris"], labels=["street", "animal"])
    scores = []
    for label in ("street", "animal"):
        hypothesis = "this example is " + label + "."
        reading = classifier.tokenizer.read([("paris", hypothesis)])[0]  # type: ignore[union-attr]
        logits = classifier.forward(reading.ids, token_type_ids=reading.types).logits
        assert logits is not None
        scores.append(float(logits[0, 1]))
    p = softmax(np.array(scores))
    assert np.allclose(sorted(p, reverse=True), [label.score for label in found], atol=1e-5)


def test_spans_of_a_text(folders: dict[str, Path]) -> None:
    for model in opened(folders, "ForTokenClassification"):
        text = "Paris is the capital of France"
        spans = model.tag(text)
        assert all(text[span.start : span.end] == span.text and span.label in ("PER", "LOC") for span in spans)
        logits = model.forward(ids(text.lower())).logits
        assert logits is not None
        kinds = [TAGS[i] for i in logits.argmax(axis=1)][1:-1]
        assert len(spans) <= sum(kind != "O" for kind in kinds)
        covered = " ".join(span.text for span in spans).lower().split()
        assert covered == [word for word, kind in zip(text.lower().split(), kinds, strict=True) if kind != "O"]


@pytest.mark.parametrize("text", [("paris", "it"), ["paris"], 5])
def test_one_text_is_no_pair(folders: dict[str, Path], text: Any) -> None:
    for kind, call in (("ForTokenClassification", "tag"), ("ForMaskedLM", "fill_mask")):
        with fastlm.load(folders[kind]) as model, pytest.raises(ParameterError, match=r"^text must be a string, not"):
            getattr(model, call)(text)


def test_neighbours_are_joined() -> None:
    text = "ann lee of new york and bo"
    kinds = [("B-PER", 0, 3), ("I-PER", 4, 7), ("O", 8, 10), ("I-LOC", 11, 14), ("I-LOC", 15, 19), ("O", 20, 23)]
    words = [_Word(kind, 0.5, start, end) for kind, start, end in [*kinds, ("B-PER", 24, 26)]]
    spans = [("PER", "ann lee", 0, 7), ("LOC", "new york", 11, 19), ("PER", "bo", 24, 26)]
    assert list(_join(text, words)) == [Span(kind, 0.5, part, start, end) for kind, part, start, end in spans]
    twice = [_Word("B-PER", 0.5, 0, 3), _Word("B-PER", 0.7, 4, 7)]
    assert [span.text for span in _join(text, twice)] == ["ann", "lee"]


def test_pieces_are_put_together(folders: dict[str, Path]) -> None:
    """A word that is not in the vocabulary is many pieces, and one span at most."""
    for model in opened(folders, "ForTokenClassification"):
        spans = model.tag("zanzibar zanzibar paris")
        assert {span.text for span in spans} <= {
            "zanzibar",
            "paris",
            "zanzibar zanzibar",
            "zanzibar zanzibar paris",
            "zanzibar paris",
        }


# ---- gaps, answers, ranks ------------------------------------------------------------------------------------------


def test_gaps_are_filled(folders: dict[str, Path]) -> None:
    for model in opened(folders, "ForMaskedLM"):
        found = model.fill_mask("paris is the [MASK] of france", top_k=3)
        whole = ids("paris is the it of france")
        whole[4] = 4
        logits = model.forward(whole).logits
        assert logits is not None and logits.shape == (len(whole), len(pieces()))
        p = softmax(logits[4].astype(float))
        order = np.argsort(-p)[:3]
        assert [gap.token for gap in found] == order.tolist()  # type: ignore[union-attr]
        assert np.allclose([gap.score for gap in found], p[order], atol=1e-6)  # type: ignore[union-attr]
        two = model.fill_mask("[MASK] is the [MASK]", top_k=2)
        assert [len(gap) for gap in two] == [2, 2]  # type: ignore[arg-type]
        with pytest.raises(ParameterError, match=r"there is no \[MASK\] in it"):
            model.fill_mask("paris")


def test_answers_are_spans_of_the_context(folders: dict[str, Path]) -> None:
    for model in opened(folders, "ForQuestionAnswering"):
        question, context = "what is paris?", "Paris is the capital of France."
        found = model.answer(question, context, top_k=4)
        assert [span.score for span in found] == sorted((span.score for span in found), reverse=True)
        assert all(context[span.start : span.end] == span.text for span in found)
        logits = model.forward(ids(question, context.lower()), token_type_ids=types(question, context)).logits
        assert logits is not None
        first = len(ids(question))
        start, end = (softmax(logits[first:-1, i].astype(float)) for i in (0, 1))
        best = max(start[i] * end[j] for i in range(len(start)) for j in range(i, len(end)))
        assert abs(found[0].score - best) < 1e-6


def test_no_answer_competes(folders: dict[str, Path]) -> None:
    for model in opened(folders, "ForQuestionAnswering"):
        question, context = "what is paris?", "paris is the capital of france."
        found = model.answer(question, context, top_k=1000, no_answer=True)
        (none,) = [span for span in found if not span.text]
        logits = model.forward(ids(question, context), token_type_ids=types(question, context)).logits
        assert logits is not None
        first = len(ids(question))
        start, end = (softmax(np.append(logits[0, i], logits[first:-1, i]).astype(float)) for i in (0, 1))
        assert (none.start, none.end) == (0, 0) and abs(none.score - start[0] * end[0]) < 1e-6
        best = max(start[i] * end[j] for i in range(1, len(start)) for j in range(i, len(end)))
        assert abs(max(span.score for span in found if span.text) - best) < 1e-6
        assert all(span.text for span in model.answer(question, context, top_k=1000))
        with pytest.raises(ParameterError, match="no_answer must be True or False"):
            model.answer(question, context, no_answer="maybe")  # type: ignore[arg-type]


def test_documents_are_ranked(folders: dict[str, Path]) -> None:
    docs = ["paris", "the street", "france is wide"]
    for model in opened(folders, "one label"):
        assert model.tasks == ("classify", "rerank", "embed")
        found = model.rerank("what is paris?", docs)
        scores = []
        for doc in docs:
            pair = ("what is paris?", doc)
            logits = model.forward(ids(*pair), token_type_ids=types(*pair)).logits
            assert logits is not None
            scores.append(1 / (1 + np.exp(-float(logits[0, 0]))))
        assert [rank.index for rank in found] == np.argsort(-np.array(scores)).tolist()
        assert all(abs(rank.score - scores[rank.index]) < 1e-6 and docs[rank.index] == rank.document for rank in found)
        assert len(model.rerank("it", docs, top_n=1)) == 1 and model.rerank("it", []) == []


@pytest.mark.parametrize(
    "call",
    [
        lambda m: m.classify(["paris"]),
        lambda m: m.tag("paris"),
        lambda m: m.fill_mask("[MASK]"),
        lambda m: m.answer("who", "paris"),
        lambda m: m.rerank("who", ["paris"]),
    ],
)
def test_a_task_without_a_head(bare: fastlm.Model, call: Any) -> None:
    with pytest.raises(UnsupportedError, match="no head for it; it can: embed"):
        call(bare)
    with pytest.raises(UnsupportedError, match="writes no text; it can: embed"):
        bare.chat([{"role": "user", "content": "hi"}])
