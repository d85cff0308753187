"""fastlm distill: the loss, the teacher's words, and what may not be a teacher or a student."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from train.toy import SHAPE, VOCAB, recipe, write_corpus

from fastlm.errors import ModelFileError, ParameterError, UnsupportedError
from fastlm.train.corpus import read_texts
from fastlm.train.distill import distill, softened_loss
from fastlm.train.figures import measure
from fastlm.train.models import load_decoder
from fastlm.train.recipe import Shape
from fastlm.train.scratch import train

GOLDEN = Path(__file__).parents[1] / "golden"
SMALL = Shape(width=16, layers=1, heads=1, context=64)


def log_of(folder: Path) -> list[dict]:
    return json.loads((folder / "training.json").read_text())["log"]


def log_softmax(x: np.ndarray) -> np.ndarray:
    shifted = x - x.max(-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))


@pytest.mark.parametrize(("temperature", "share"), [(1.0, 0.0), (1.0, 1.0), (2.5, 0.6)])
def test_the_loss_is_the_formula(trained: Path, crude: Path, temperature: float, share: float) -> None:
    teacher, student = load_decoder(trained), load_decoder(crude)
    ids = torch.arange(60).reshape(2, 30)
    found = float(softened_loss(teacher, temperature, share)(student, ids).detach())
    with torch.no_grad():
        t, s = (model(ids[:, :-1]).logits.double().numpy() for model in (teacher, student))
    expected = log_softmax(t / temperature)
    soft = (np.exp(expected) * (expected - log_softmax(s / temperature))).sum(-1).mean()
    hard = -np.take_along_axis(log_softmax(s), ids[:, 1:, None].numpy(), -1).mean()
    assert found == pytest.approx((1 - share) * hard + share * temperature**2 * soft, rel=1e-5)


def test_a_student_of_itself_has_nothing_to_learn(trained: Path) -> None:
    teacher, student = load_decoder(trained), load_decoder(trained)
    loss = softened_loss(teacher, 2.0, 1.0)(student, torch.arange(60).reshape(2, 30))
    loss.backward()
    assert abs(float(loss.detach())) < 1e-6
    assert all(weight.grad is None for weight in teacher.parameters())
    assert max(float(weight.grad.abs().max()) for weight in student.parameters()) < 1e-5


def test_the_teacher_replaces_the_text(trained: Path, corpus: Path, tmp_path: Path) -> None:
    """Trained on another text by the logits alone, the student learns of the teacher what that text lacks."""
    other = write_corpus(tmp_path / "other.txt", verb="lost")
    how = recipe(steps=250)
    learned = {}
    for share in (0.0, 1.0):
        out = distill(trained, [other], tmp_path / f"s{share}", shape=SMALL, recipe=how, share=share, temperature=1.0)
        learned[share] = load_decoder(out)
    tokenizer = transformers.AutoTokenizer.from_pretrained(trained)
    ids = torch.tensor([tokenizer("One day Tom")["input_ids"]])
    found = tokenizer(" found")["input_ids"][1]
    with torch.no_grad():
        told, untold = (float(learned[share](ids).logits[0, -1].softmax(-1)[found]) for share in (1.0, 0.0))
    assert told > 0.3 > 0.01 > untold


def test_a_student_on_the_teachers_words(trained: Path, corpus: Path, tmp_path: Path) -> None:
    out = distill(trained, [corpus], tmp_path / "out", shape=SMALL, recipe=recipe(steps=100), write=70)
    log = log_of(out)
    assert log[-1]["bits_per_byte"]["all"] < log[0]["bits_per_byte"]["all"] / 3
    assert not (tmp_path / "out.run").exists()
    assert (out / "tokenizer.json").read_bytes() == (trained / "tokenizer.json").read_bytes()
    assert "A student of model" in (out / "README.md").read_text()
    assert json.loads((out / "config.json").read_text())["hidden_size"] == SMALL.width


def test_the_card_sets_models_side_by_side(trained: Path, crude: Path, corpus: Path, tmp_path: Path) -> None:
    how = recipe(steps=40)
    out = distill(trained, [corpus], tmp_path / "out", shape=SMALL, recipe=how, beside=[crude])
    lines = (out / "README.md").read_text().split("## Side by side")[1].splitlines()
    rows = [[cell.strip(" *") for cell in line.split("|")[1:-1]] for line in lines if line.startswith("|")][:5]
    assert rows[0][:3] == ["model", "parameters", "bits per byte"] and rows[0][-1] == "tokens/s"
    assert [row[0] for row in rows[2:]] == ["teacher", "student", "model"]
    for row, folder in zip(rows[2:], (trained, out, crude), strict=True):
        model = load_decoder(folder)
        assert int(row[1].replace(",", "")) == sum(weight.numel() for weight in model.parameters())
        assert float(row[2]) == pytest.approx(log_of(folder)[-1]["bits_per_byte"]["all"], rel=1e-3)
        assert float(row[-1].replace(",", "")) > 0


def test_what_a_token_costs(trained: Path, corpus: Path) -> None:
    found = measure("it", trained, read_texts([corpus]), threads=1)
    shapes = [tuple(weight.shape) for weight in load_decoder(trained).parameters()]
    products = [math.prod(shape) for shape in shapes if len(shape) == 2]
    assert found.operations == 2 * sum(products)  # the embedding is the head
    rows_of_strips = sum(-(-shape[0] // 16) * 16 * shape[1] for shape in shapes if len(shape) == 2)
    vectors = sum(shape[0] for shape in shapes if len(shape) == 1)
    assert found.read == pytest.approx(4 * (rows_of_strips + vectors), rel=0.02)  # lines are filled up
    assert found.speed is not None and found.speed > 100


def test_a_model_beside_must_be_there(trained: Path, corpus: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelFileError, match="nowhere"):
        distill(trained, [corpus], tmp_path / "out", shape=SMALL, beside=[tmp_path / "nowhere"])
    assert not list(tmp_path.iterdir())


def test_a_student_that_fastlm_cannot_run(trained: Path, corpus: Path, tmp_path: Path) -> None:
    vocab = json.loads((trained / "config.json").read_text())["vocab_size"]
    (tmp_path / "student.json").write_text(json.dumps({"model_type": "mamba", "vocab_size": vocab}))
    with pytest.raises(UnsupportedError, match="mamba"):
        distill(trained, [corpus], tmp_path / "out", student=tmp_path / "student.json")
    assert not (tmp_path / "out.run").exists()


def test_a_student_by_a_config(trained: Path, corpus: Path, tmp_path: Path) -> None:
    config = {
        "model_type": "gpt2",
        "vocab_size": json.loads((trained / "config.json").read_text())["vocab_size"],
        "n_embd": 16,
        "n_layer": 1,
        "n_head": 2,
        "n_positions": 64,
        "bos_token_id": 0,
        "eos_token_id": 0,
    }
    (tmp_path / "student.json").write_text(json.dumps(config))
    out = distill(trained, [corpus], tmp_path / "out", student=tmp_path / "student.json", recipe=recipe(steps=60))
    assert json.loads((out / "config.json").read_text())["model_type"] == "gpt2"
    log = log_of(out)
    assert log[-1]["bits_per_byte"]["all"] < log[0]["bits_per_byte"]["all"] / 2


@pytest.mark.parametrize("name", ["bert", "t5"])
def test_a_teacher_must_write(corpus: Path, tmp_path: Path, name: str) -> None:
    with pytest.raises(UnsupportedError, match="the teacher must be a decoder") as raised:
        distill(GOLDEN / name, [corpus], tmp_path / "out")
    assert name in str(raised.value) and not list(tmp_path.iterdir())


def test_a_teacher_must_be_there(corpus: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelFileError):
        distill(tmp_path / "nowhere", [corpus], tmp_path / "out")


def test_vocabularies_must_agree(trained: Path, corpus: Path, tmp_path: Path) -> None:
    other_text = write_corpus(tmp_path / "other.txt", verb="lost", seed=3)
    how = recipe(steps=1)
    smaller = train([corpus], tmp_path / "smaller", vocab=VOCAB - 10, shape=SHAPE, recipe=how)
    with pytest.raises(ParameterError, match=r"vocab_size is 290, the teacher's 300"):
        distill(trained, [corpus], tmp_path / "out", student=smaller)
    other = train([other_text], tmp_path / "elsewhere", vocab=VOCAB, shape=SHAPE, recipe=how)
    with pytest.raises(ParameterError, match="its tokenizer is not the teacher's"):
        distill(trained, [corpus], tmp_path / "out", student=other)
    with pytest.raises(ParameterError, match="no such file"):
        distill(trained, [corpus], tmp_path / "out", student=tmp_path / "nothing.json")
    assert not (tmp_path / "out").exists() and not (tmp_path / "out.run").exists()
