"""Adapters by name: which calls take them, alone and together, while others are loaded and unloaded."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from adapter_folders import low_rank, save_adapter
from bert_models import save_bert
from models import add_byte_tokenizer, byte_shape, save_llama

import fastlm
from fastlm import _core
from fastlm.cli import main
from fastlm.errors import ParameterError, StateError, UnsupportedError

IDS = list(b"Once upon a time there was a")


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("adapters")
    add_byte_tokenizer(save_llama(path / "model", byte_shape()))
    for seed in range(3):
        save_adapter(path / f"a{seed}", low_rank(byte_shape(), 3 + seed, seed), lora_alpha=8)
    return path


@pytest.fixture
def model(folders: Path) -> Iterator[fastlm.Model]:
    with fastlm.load(folders / "model", threads=2) as loaded:
        for seed in range(3):
            loaded.load_adapter(f"a{seed}", folders / f"a{seed}")
        yield loaded


def greedy(model: fastlm.Model, adapter: str | None, **params: Any) -> list[int]:
    return model.generate(IDS, max_tokens=12, adapter=adapter, **params).token_ids


def test_each_call_takes_them(model: fastlm.Model, folders: Path) -> None:
    with fastlm.load(folders / "model", threads=1) as plain:
        for adapter in (None, "a0", "a1", "a2"):
            logits = model.forward(IDS, adapter=adapter).logits
            assert logits is not None
            if adapter is None:
                assert np.array_equal(logits, plain.forward(IDS).logits)
            else:
                assert np.abs(logits - plain.forward(IDS).logits).max() > 0.1
            written = greedy(model, adapter)
            assert written[0] == int(logits[-1].argmax())
            assert [
                t for chunk in model.stream(IDS, max_tokens=12, adapter=adapter) for t in chunk.token_ids
            ] == written
            with model.session() as session:
                assert session.generate(IDS, max_tokens=12, adapter=adapter).token_ids == written
            best = model.next_tokens(IDS, 1, adapter=adapter)
            assert best[0][0] == written[0]
            score = model.loglikelihood(IDS, adapter=adapter)
            rows = logits.astype(np.float64)
            rows = rows - np.log(np.exp(rows).sum(axis=1, keepdims=True))
            assert score == pytest.approx(sum(rows[i, t] for i, t in enumerate(IDS[1:])), rel=1e-6)
            both = model.generate(IDS, max_tokens=12, n=2, adapter=adapter)
            assert [both.token_ids, both.alternatives[0].token_ids] == [written, written]
            seen = model.generate(IDS, max_tokens=3, adapter=adapter, attentions=True)
            attended = model.forward(IDS + written[:2], adapter=adapter, attentions=True).attentions
            assert seen.attentions is not None and attended is not None
            assert np.array_equal(seen.attentions[2][1], attended[1][:, len(IDS) + 1, : len(IDS) + 2])


def test_batches_mix_them(model: fastlm.Model) -> None:
    names = [None, "a0", "a1", "a2"] * 8
    alone = {name: greedy(model, name) for name in names}
    assert len({tuple(text) for text in alone.values()}) == 4
    together = model.batch([fastlm.Request(IDS, adapter=name) for name in names], max_tokens=12)
    assert [done.token_ids for done in together] == [alone[name] for name in names]


def test_a_session_changes_its_adapter(model: fastlm.Model) -> None:
    with model.session() as session:
        first = session.generate(IDS, max_tokens=4, adapter="a0").token_ids
        second = session.generate(IDS, max_tokens=4).token_ids
    assert first == greedy(model, "a0")[:4]
    assert second == model.generate([*IDS, *first, *IDS], max_tokens=4).token_ids


def test_scale(model: fastlm.Model, folders: Path) -> None:
    for scale in (0.0, 0.5):
        model.load_adapter(f"x{scale}", folders / "a0", scale=scale)
    base, full = (model.forward(IDS, adapter=name).logits for name in (None, "a0"))
    assert np.allclose(model.forward(IDS, adapter="x0.0").logits, base, atol=1e-5)
    half = model.forward(IDS, adapter="x0.5").logits
    assert half is not None and full is not None and base is not None
    assert 0.1 < np.abs(half - base).max() < np.abs(full - base).max()


def test_names(model: fastlm.Model, folders: Path) -> None:
    with pytest.raises(ParameterError, match="'a0' is loaded already"):
        model.load_adapter("a0", folders / "a1")
    with pytest.raises(ParameterError, match=r"none called 'b' \(loaded: 'a0', 'a1', 'a2'\)"):
        model.generate(IDS, adapter="b")
    with pytest.raises(ParameterError, match="adapter must be the name"):
        model.generate(IDS, adapter=3)
    with pytest.raises(ParameterError, match="name must be a text"):
        model.load_adapter("", folders / "a0")
    model.unload_adapter("a0")
    with pytest.raises(ParameterError, match="none called 'a0'"):
        model.forward(IDS, adapter="a0")
    with pytest.raises(ParameterError, match="none called 'a0'"):
        model.unload_adapter("a0")
    model.load_adapter("a0", folders / "a1")
    assert greedy(model, "a0") == greedy(model, "a1")


def test_unloading_in_use(model: fastlm.Model) -> None:
    """What runs goes on with what it has."""
    want = greedy(model, "a0")
    stream = model.stream(IDS, max_tokens=12, adapter="a0")
    written = list(next(stream).token_ids)
    session = model.session()
    session.generate(IDS, max_tokens=2, adapter="a0")
    model.unload_adapter("a0")
    assert written + [t for chunk in stream for t in chunk.token_ids] == want
    session.close()


def test_loading_while_others_run(model: fastlm.Model, folders: Path) -> None:
    """Four threads write, two load and unload: no text changes, and the only errors are of adapters that are gone."""
    want = {name: greedy(model, name) for name in (None, "a0", "a1", "a2")}
    wrong: list[object] = []
    done = threading.Event()

    def write(seed: int) -> None:
        rng = np.random.default_rng(seed)
        for _ in range(40):
            name = [None, "a0", "a1", "a2"][int(rng.integers(4))]
            try:
                if greedy(model, name) != want[name]:
                    wrong.append(name)
            except (ParameterError, StateError):
                if name != "a2":
                    wrong.append((name, "gone"))

    def load() -> None:
        for i in range(10_000):
            if done.is_set():
                return
            try:
                model.load_adapter(f"new{i}", folders / "a2")
                model.unload_adapter("a2")
                model.load_adapter("a2", folders / "a2")
                model.unload_adapter(f"new{i}")
            except (ParameterError, StateError):
                continue

    writers = [threading.Thread(target=write, args=(seed,)) for seed in range(4)]
    loaders = [threading.Thread(target=load) for _ in range(2)]
    for thread in (*writers, *loaders):
        thread.start()
    for thread in writers:
        thread.join()
    done.set()
    for thread in loaders:
        thread.join()
    assert not wrong


def test_encoders(tmp_path: Path) -> None:
    folder = save_bert(tmp_path / "bert", "BertModel")
    with fastlm.load(folder, threads=2) as model:
        width = model.spec.hidden
        rng = np.random.default_rng(0)
        for i in (0, 1):
            module = f"base_model.model.encoder.layer.{i}.attention.self.query"
            tensors = {
                module + ".lora_A.weight": rng.standard_normal((2, width)),
                module + ".lora_B.weight": rng.standard_normal((width, 2)),
            }
            model.load_adapter(f"a{i}", save_adapter(tmp_path / f"a{i}", tensors))
        texts = [f"the {word} sat on the mat" for word in ("cat", "dog")] * 40
        plain = model.embed(texts)
        for name in ("a0", "a1"):
            found = model.embed(texts, adapter=name)
            assert np.abs(found - plain).max() > 1e-3
            assert np.array_equal(found[:2], np.stack([model.embed(text, adapter=name) for text in texts[:2]]))
        assert np.array_equal(model.embed(texts), plain)
    out = tmp_path / "vectors.npy"
    command = ["embed", *texts[:2], "--model", str(folder), "--adapter", str(tmp_path / "a1"), "--out", str(out)]
    assert main(command) == 0 and np.array_equal(np.load(out), found[:2])


def test_packed_files(folders: Path, tmp_path: Path) -> None:
    """A .flm file takes adapters; one with an adapter added in is what the adapter made of the folder."""
    model, adapter = str(folders / "model"), str(folders / "a0")
    plain, merged = tmp_path / "plain.flm", tmp_path / "merged.flm"
    assert main(["convert", model, str(plain)]) == 0
    assert main(["convert", model, str(merged), "--adapter", adapter]) == 0
    with fastlm.load(model, threads=1) as loaded:
        loaded.load_adapter("a", adapter)
        want = loaded.forward(IDS, adapter="a").logits
        loaded.load_adapter("b", folders / "a1")
        loaded.merge_adapter("a")
        assert np.allclose(loaded.forward(IDS).logits, want, atol=1e-5)
        with pytest.raises(ParameterError, match=r"none called 'a' \(loaded: 'b'\)"):
            loaded.forward(IDS, adapter="a")
        both = loaded.forward(IDS, adapter="b").logits
        loaded.merge_adapter("b")
        assert np.allclose(loaded.forward(IDS).logits, both, atol=1e-5)
    with fastlm.load(plain, threads=1) as loaded:
        loaded.load_adapter("a", adapter)
        assert np.array_equal(loaded.forward(IDS, adapter="a").logits, want)
        with pytest.raises(UnsupportedError, match="merge in the model's folder"):
            loaded.merge_adapter("a")
    with fastlm.load(merged, threads=1) as loaded:
        assert np.allclose(loaded.forward(IDS).logits, want, atol=1e-5)


def test_commands(folders: Path, capsys: pytest.CaptureFixture[str]) -> None:
    prompt, model = bytes(IDS).decode(), str(folders / "model")
    texts = []
    for more in ([], ["--adapter", str(folders / "a0")]):
        assert main(["generate", prompt, "--model", model, "--max-tokens", "8", *more]) == 0
        texts.append(capsys.readouterr().out)
    assert texts[0] != texts[1]
    assert main(["info", str(folders / "a0")]) == 0
    shown = capsys.readouterr().out
    assert "LoRA adapter" in shown and "rank 3" in shown and "q_proj" in shown
    assert main(["generate", prompt, "--model", model, "--adapter", model]) != 0
    assert "adapter_config.json" in capsys.readouterr().err


def test_a_source_that_a_forward_encodes_is_read_with_the_adapter() -> None:
    golden = Path(__file__).with_name("golden")
    found = []
    with fastlm.load(golden / "t5_gated", dtype="float32", threads=1) as model:
        model.load_adapter("a", golden / "adapters/t5_gated_dora")
        engine = model.engine.adapted("a")
        for read in (_core.Session.encode, _core.Session.set_source):
            session = engine.session()
            read(session, np.arange(5, 12, dtype=np.int32))
            logits = np.empty((1, model.vocab), np.float32)
            _core.forward(engine.core, [_core.Item(session, np.array([0], np.int32), rows="last", logits=logits)])
            found.append(logits)
    assert np.array_equal(*found)
