"""fastlm train: it learns, repeats itself, and what it writes loads elsewhere."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from train.toy import SHAPE, STEPS, VOCAB, forgetful_bits_per_byte, recipe

import fastlm
from fastlm.errors import NumericError, ParameterError, UnsupportedError
from fastlm.train.corpus import read_texts
from fastlm.train.models import decoder_at, machine, seed_step
from fastlm.train.optimizer import learning_rate, optimizers
from fastlm.train.recipe import Recipe, Shape
from fastlm.train.scratch import train


def log_of(folder: Path) -> list[dict]:
    return json.loads((folder / "training.json").read_text())["log"]


def test_it_learns_what_no_short_memory_could(trained: Path, corpus: Path) -> None:
    (file,) = read_texts([corpus])
    log = log_of(trained)
    assert [entry["step"] for entry in log] == [0, 100, 200, STEPS]
    untrained, learned = log[0]["bits_per_byte"]["all"], log[-1]["bits_per_byte"]["all"]
    assert untrained > 2
    assert learned < forgetful_bits_per_byte(file.held_out)
    assert log[-1]["loss"] < log[1]["loss"] / 3


def test_what_is_trained_here_draws_its_words(trained: Path) -> None:
    """A small model that always takes the most probable token goes round in circles."""
    settings = json.loads((trained / "generation_config.json").read_text())
    assert settings["do_sample"] is True and 0 < settings["temperature"] < 1 and settings["top_p"] < 1
    with fastlm.load(trained) as model:
        prompt = "One day"
        assert len({model.generate(prompt, seed=seed, max_tokens=30).text for seed in range(10)}) > 1
        assert model.generate(prompt, seed=3).text == model.generate(prompt, seed=3).text


@pytest.mark.parametrize(("optimizer", "lr"), [("muon", 1e-2), ("adamw", 1e-2)])
def test_every_optimizer_learns(corpus: Path, tmp_path: Path, optimizer: str, lr: float) -> None:
    how = recipe(steps=60, lr=lr, optimizer=optimizer, dropout=0.1, weight_decay=0.1)
    out = train([corpus], tmp_path / "out", vocab=VOCAB, shape=SHAPE, recipe=how)
    assert log_of(out)[-1]["bits_per_byte"]["all"] < 0.9  # the best without context, letter by letter, is over 3


def test_the_folder_is_a_hugging_face_model(trained: Path, corpus: Path) -> None:
    names = {path.name for path in trained.iterdir()}
    assert names >= {"config.json", "generation_config.json", "model.safetensors", "tokenizer.json"}
    assert names >= {"tokenizer_config.json", "README.md", "training.json"}
    assert all(path.stat().st_mode & 0o444 == 0o444 for path in trained.iterdir())
    model = transformers.AutoModelForCausalLM.from_pretrained(trained)
    tokenizer = transformers.AutoTokenizer.from_pretrained(trained)
    text = read_texts([corpus])[0].held_out[0]
    ids = tokenizer(text)["input_ids"]
    assert ids[0] == tokenizer.bos_token_id == tokenizer.eos_token_id == model.config.eos_token_id
    assert tokenizer.decode(ids, skip_special_tokens=True) == text
    with torch.no_grad():
        expected = model(torch.tensor([ids])).logits[0].numpy()
    with fastlm.load(trained) as ours:
        assert ours.tokenizer is not None and ours.tokenizer.encode(text) == ids
        found = ours.forward(ids).logits
        story = ours.generate("One day Tom", temperature=0, max_tokens=50)
    assert np.abs(found - expected).max() < 1e-4 * expected.std()
    assert story.finish_reason == "stop" and story.text.endswith(".")


def test_validation_is_what_the_engine_computes(trained: Path, corpus: Path) -> None:
    (file,) = read_texts([corpus])
    with fastlm.load(trained) as model:
        nats = -sum(model.loglikelihood(text) for text in file.held_out)
    bits = nats / math.log(2) / sum(len(text.encode()) for text in file.held_out)
    assert bits == pytest.approx(log_of(trained)[-1]["bits_per_byte"]["all"], rel=1e-4)


def test_a_seed_gives_the_same_bytes(corpus: Path, tmp_path: Path) -> None:
    def weights(name: str, seed: int) -> bytes:
        how = recipe(steps=5, seed=seed, dropout=0.2)
        out = train([corpus], tmp_path / name, vocab=VOCAB, shape=SHAPE, recipe=how)
        return (out / "model.safetensors").read_bytes()

    first = weights("a", 1)
    assert first == weights("b", 1) != weights("c", 2)


def test_a_finished_run_is_not_repeated(trained: Path, corpus: Path) -> None:
    before = (trained / "model.safetensors").stat().st_mtime_ns
    assert train([corpus], trained, vocab=VOCAB, shape=SHAPE, recipe=recipe()) == trained
    assert (trained / "model.safetensors").stat().st_mtime_ns == before
    with pytest.raises(ParameterError, match="other settings: lr"):
        train([corpus], trained, vocab=VOCAB, shape=SHAPE, recipe=recipe(lr=1.0))


def test_texts_that_changed_are_noticed(corpus: Path, tmp_path: Path) -> None:
    text = tmp_path / "stories.txt"
    text.write_bytes(corpus.read_bytes())
    train([text], tmp_path / "out", vocab=VOCAB, shape=SHAPE, recipe=recipe(steps=2))
    text.write_bytes(corpus.read_bytes() + b"more\n")
    with pytest.raises(ParameterError, match="other settings: texts"):
        train([text], tmp_path / "out", vocab=VOCAB, shape=SHAPE, recipe=recipe(steps=2))


def test_a_weight_counts(corpus: Path, tmp_path: Path) -> None:
    how = recipe(steps=None, epochs=1.0, eval_every=1000)
    steps = [
        log_of(train([corpus], tmp_path / f"{w}", vocab=VOCAB, shape=SHAPE, recipe=how, weights=[w]))[-1]["step"]
        for w in (1.0, 2.0)
    ]
    assert steps[1] in (2 * steps[0], 2 * steps[0] - 1)


def test_a_run_that_diverges_says_so(corpus: Path, tmp_path: Path) -> None:
    with pytest.raises(NumericError, match="a lower --lr"):
        train([corpus], tmp_path / "out", vocab=VOCAB, shape=SHAPE, recipe=recipe(lr=1e30, optimizer="adamw"))
    assert not (tmp_path / "out").exists()


def test_the_curves_are_a_picture(trained: Path) -> None:
    pytest.importorskip("matplotlib")
    assert (trained / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert "![curves](curves.png)" in (trained / "README.md").read_text()


def test_the_card_says_what_it_is(trained: Path) -> None:
    card = (trained / "README.md").read_text()
    bits = log_of(trained)[-1]["bits_per_byte"]["all"]
    assert f"| all | {bits:.4f} |" in card and "| stories.txt | 1 |" in card and "| lr | 0.01 |" in card


def test_learning_rate_rises_and_falls() -> None:
    how = Recipe(lr=1.0, warmup=10)
    rates = [learning_rate(how, step, 100) for step in range(100)]
    assert rates[0] == pytest.approx(0.1) and max(rates) == 1.0 and rates[9:11] == [1.0, 1.0]
    assert rates[-1] == pytest.approx(1 / 90) and sorted(rates[10:], reverse=True) == rates[10:]
    assert learning_rate(how, 0, 1) == 1.0


def test_each_weight_has_one_optimizer(trained: Path) -> None:
    model = transformers.AutoModelForCausalLM.from_pretrained(trained)
    made = optimizers(model, Recipe(weight_decay=0.5))
    held = [weight for optimizer in made for group in optimizer.param_groups for weight in group["params"]]
    assert len(held) == len({id(weight) for weight in held}) == len(list(model.parameters()))
    adamw, muon = made
    assert all(weight.ndim == 2 for group in muon.param_groups for weight in group["params"])
    assert not any(weight is model.get_input_embeddings().weight for weight in muon.param_groups[0]["params"])
    assert [group["weight_decay"] for group in adamw.param_groups] == [0.5, 0.0]
    assert all(weight.ndim == 1 for weight in adamw.param_groups[1]["params"])


def test_draws_follow_from_seed_and_step() -> None:
    def draw(seed: int, step: int) -> float:
        seed_step(seed, step)
        return float(torch.rand(()))

    assert draw(0, 5) == draw(0, 5)
    assert len({draw(seed, step) for seed in range(3) for step in range(-1, 5)}) == 18


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"dropout": 1.0}, "dropout"),
        ({"batch": 0}, "batch must be at least 1"),
        ({"lr": 0.0}, "lr and epochs"),
        ({"steps": 0}, "steps must be at least 1"),
        ({"lr": math.nan}, "lr and epochs"),
    ],
)
def test_bad_recipes_are_named(options: dict, says: str) -> None:
    with pytest.raises(ParameterError, match=says):
        Recipe(**options)


@pytest.mark.parametrize(
    ("options", "says"),
    [({"width": 100, "heads": 3}, "even multiple of heads"), ({"heads": 3, "kv_heads": 2}, "multiple of kv_heads")],
)
def test_bad_shapes_are_named(options: dict, says: str) -> None:
    with pytest.raises(ParameterError, match=says):
        Shape(**options)


def test_bad_requests_are_named(corpus: Path, tmp_path: Path) -> None:
    with pytest.raises(ParameterError, match="vocab must be 257"):
        train([corpus], tmp_path / "a", vocab=100, shape=SHAPE, recipe=recipe())
    with pytest.raises(ParameterError, match="length 65 is over the model's context of 64"):
        train([corpus], tmp_path / "b", vocab=VOCAB, shape=SHAPE, recipe=recipe(length=65))
    with pytest.raises(ParameterError, match="device must be"):
        machine(Recipe(device="tpu"))
    if not torch.cuda.is_available():
        with pytest.raises(ParameterError, match="sees no CUDA"):
            machine(Recipe(device="cuda"))
    (tmp_path / "x.flm").write_bytes(b"")
    with pytest.raises((UnsupportedError, ValueError)):
        decoder_at(tmp_path / "x.flm", "model")
