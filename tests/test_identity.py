"""Logits are bit-identical for any number of threads, batch, chunking, prefix-cache hit, fork and rewind."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from core_structs import ISAS
from random_models import build, exotic_spec, plain_spec, run, usable

from fastlm import _core
from fastlm.arch.spec import ModelSpec

MakeSpec = Callable[[], ModelSpec]

PAGE = 64  # positions of a KV page; splits of attention are 256
LENGTHS = (1, 2, 17, 40, 63, 64, 65, 100, 128, 129, 150, 200, 257, 300, 320)
FEW_LENGTHS = (1, 3, 64, 90, 300)
SHARED = (0, 1, 30, 63, 64, 65, 128, 140, 256, 290)  # tokens that a text has in common with others
CASES = [
    pytest.param(plain_spec, "float32", "auto", id="plain-float32"),
    pytest.param(plain_spec, "bfloat16", "auto", id="plain-bfloat16"),
    pytest.param(lambda: plain_spec(layers=1), "float16", "float32", id="plain-float16-kv32"),
    pytest.param(exotic_spec, "float32", "auto", id="exotic-float32"),
    pytest.param(exotic_spec, "float32", "bfloat16", id="exotic-float32-kv16"),
    pytest.param(exotic_spec, "float16", "bfloat16", id="exotic-float16"),
    pytest.param(lambda: plain_spec(layers=1), "int8", "auto", id="plain-int8"),
    pytest.param(lambda: plain_spec(layers=1), "int4", "int8", id="plain-int4-kv8"),
    pytest.param(exotic_spec, "bfloat16", "float32", id="exotic-bfloat16-kv32"),
    pytest.param(exotic_spec, "int8", "int8", id="exotic-int8-kv8"),
    pytest.param(exotic_spec, "int4", "auto", id="exotic-int4"),
]
QUANTIZED = ("int8", "int4")
FORMATS = ("float32", "float16", "bfloat16", *QUANTIZED)
WIDE_SCHEDULES, SCHEDULES = 12, 6  # of each thread count and case: wide models (108 in all), others and quantised ones


class Texts:
    """Sequences that begin alike, for longer or shorter, and their logits: one thread, alone, one call."""

    def __init__(
        self, spec: ModelSpec, format: str, kv: str, isa: str | None = None, lengths: tuple[int, ...] = LENGTHS
    ) -> None:
        rng = np.random.default_rng(1)
        self.vocab = spec.vocab
        base = rng.integers(0, self.vocab, max(lengths))
        self.tokens = []
        for n in lengths:
            shared = min(n - 1, int(rng.choice(SHARED)))
            own = rng.integers(0, self.vocab, n - shared)
            self.tokens.append(np.concatenate([base[:shared], own]).astype(np.int32))
        _, model = build(spec, threads=1, format=format, kv=kv, prefix=False, isa=isa)
        self.logits = [run(model, [(model.session(), ids, 2)], self.vocab)[0] for ids in self.tokens]

    def common(self, a: int, b: int) -> int:
        """How many tokens two of them share at the beginning."""
        n = min(len(self.tokens[a]), len(self.tokens[b]))
        differ = np.flatnonzero(self.tokens[a][:n] != self.tokens[b][:n])
        return int(differ[0]) if len(differ) else n


class Walk:
    """One sequence of a schedule: where it is, and the random things that happen to it."""

    def __init__(self, session: _core.Session, texts: Texts, rng: np.random.Generator, which: int, at: int = 0) -> None:
        self.session, self.texts, self.rng = session, texts, rng
        self.which, self.at = which, at

    @property
    def tokens(self) -> np.ndarray:
        return self.texts.tokens[self.which]

    @property
    def done(self) -> bool:
        return self.at == len(self.tokens)

    def disturb(self) -> Walk | None:
        """Sometimes take tokens back, go on as another text, or have a fork do that; returns the fork."""
        chance = self.rng.random()
        if self.at < 2 or chance > 0.5:
            return None
        other = int(self.rng.integers(len(self.texts.tokens)))
        at = min(self.at, self.texts.common(self.which, other))
        if chance < 0.2 and at > 0:
            twin = Walk(self.session.fork(), self.texts, self.rng, other, self.at)
            twin.rewind_to(at)
            return twin
        if chance < 0.35 and at > 0:
            self.which = other
        else:
            at = int(self.rng.integers(self.at))
        self.rewind_to(at)
        return None

    def rewind_to(self, at: int) -> None:
        self.session.rewind(self.at - at)
        self.at = at

    def next_piece(self, most: int = 1000) -> tuple[_core.Session, np.ndarray, int]:
        rest = min(most, len(self.tokens) - self.at)
        n = int(self.rng.choice([1, rest, int(self.rng.integers(1, rest + 1))]))
        self.piece = self.tokens[self.at : self.at + n]
        return self.session, self.piece, int(self.rng.choice([0, 1, 1, 2, 2]))

    def check(self, logits: np.ndarray) -> None:
        self.at += len(self.piece)
        want = self.texts.logits[self.which][self.at - len(logits) : self.at]
        assert np.array_equal(logits, want), f"at {self.at} of {len(self.tokens)}: {np.abs(logits - want).max()}"


def start(model: _core.Model, texts: Texts, rng: np.random.Generator) -> Walk:
    return Walk(model.session(), texts, rng, int(rng.integers(len(texts.tokens))))


def walk_schedule(model: _core.Model, texts: Texts, rng: np.random.Generator) -> None:
    """A batch of 1 to 17 sequences and the forks that they get on the way."""
    walks = [start(model, texts, rng) for _ in range(rng.choice([1, *range(2, 18)]))]
    for _ in range(40):
        active = [w for w in walks if not w.done and rng.random() < 0.8]
        if active:
            for w, logits in zip(active, run(model, [w.next_piece() for w in active], texts.vocab), strict=True):
                w.check(logits)
        forks = [w.disturb() for w in walks if rng.random() < 0.5]
        walks += [fork for fork in forks if fork][: max(0, 17 - len(walks))]
        if all(w.done for w in walks):
            return


@pytest.mark.parametrize(("make_spec", "format", "kv"), CASES)
def test_bits_do_not_depend_on_the_schedule(make_spec: MakeSpec, format: str, kv: str) -> None:
    spec = make_spec()
    texts = Texts(spec, format, kv)
    for threads in (1, 2, 3):
        context, model = build(spec, threads=threads, format=format, kv=kv)
        rng = np.random.default_rng([threads, len(format), len(kv)])
        for _ in range(WIDE_SCHEDULES if spec.hidden >= 512 and format not in QUANTIZED else SCHEDULES):
            walk_schedule(model, texts, rng)
        counters = context.counters()
        check_shares(counters, threads)
        assert counters["prefix_hit_tokens"] > 100, "schedules must meet the prefix cache"


def check_shares(counters: dict[str, Any], threads: int) -> None:
    assert len(counters["tiles"]) == threads
    assert min(counters["tiles"]) > 0, "every thread takes part, if only by rations on a busy machine"


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("format", FORMATS)
def test_bits_do_not_depend_on_the_schedule_with_other_instructions(isa: str, format: str) -> None:
    """The kernels that this processor would not choose by itself; each meets all types of keys and values."""
    if not usable(isa):
        pytest.skip(f"this processor has no {isa}")
    kv = ("float32", "bfloat16", "int8")[(ISAS.index(isa) + FORMATS.index(format)) % 3]
    for spec in (plain_spec(320, layers=1, vocab=163), exotic_spec()):
        texts = Texts(spec, format, kv, isa, FEW_LENGTHS)
        _, model = build(spec, threads=3, format=format, kv=kv, isa=isa)
        walk_schedule(model, texts, np.random.default_rng(5))


@pytest.mark.parametrize(
    ("make_spec", "format"),
    [(plain_spec, "bfloat16"), (exotic_spec, "bfloat16"), (plain_spec, "int4"), (exotic_spec, "int8")],
)
def test_bits_do_not_depend_on_what_is_computed_again(make_spec: MakeSpec, format: str) -> None:
    """With few pages, sequences that rest lose theirs and are computed anew, in other chunks."""
    spec = make_spec()
    texts = Texts(spec, format, "auto")
    _, probe = build(spec, threads=1, format=format)
    page_bytes = PAGE * int(probe.info()["kv_bytes_per_token"] or 0)
    context, model = build(spec, threads=2, format=format, kv_bytes=9 * page_bytes, prefix=False)
    rng = np.random.default_rng(11)
    walks = [Walk(model.session(), texts, rng, i) for i in range(len(texts.tokens))]
    given = 0
    while not all(walk.done for walk in walks):
        walk = walks[int(rng.integers(len(walks)))]
        if walk.done:
            continue
        work = [walk.next_piece(40)]
        given += len(walk.piece)
        walk.check(run(model, work, spec.vocab)[0])
    assert context.counters()["tokens"] > 2 * given, "what was lost was computed again"


def generate(model: _core.Model, prompts: list[np.ndarray], n: int) -> list[_core.Progress]:
    """Greedy requests, all queued before the first is waited for; logprobs show more bits than tokens do."""
    sampling = {"max_tokens": n, "ignore_eos": True, "logprobs": 3}
    requests = [_core.Request(model.session(), ids, dict(sampling)) for ids in prompts]
    return [request.wait(True) for request in requests]


@pytest.mark.parametrize(("threads", "format"), [(1, "bfloat16"), (2, "bfloat16"), (3, "int8"), (2, "int4")])
def test_generated_tokens_are_those_of_a_prompt(threads: int, format: str) -> None:
    spec = plain_spec()
    vocab = spec.vocab
    _, model = build(spec, threads=threads, format=format)
    _, alone = build(spec, threads=1, format=format, prefix=False)
    rng = np.random.default_rng(threads)
    prompts = [rng.integers(0, vocab, n).astype(np.int32) for n in (5, 70, 130, 256)]
    for prompt, progress in zip(prompts, generate(model, prompts, 80), strict=True):
        both = np.concatenate([prompt, progress.tokens]).astype(np.int32)
        read = run(alone, [(alone.session(), both, 2)], vocab)[0]
        assert progress.tokens == read[len(prompt) - 1 : -1].argmax(axis=1).tolist()
        session = model.session()
        request = _core.Request(session, prompt, {"max_tokens": 80, "ignore_eos": True})
        request.wait(True)
        request.close()
        last = run(model, [(session, np.array([7], np.int32), 1)], vocab)[0]
        again = run(alone, [(alone.session(), np.append(both, 7).astype(np.int32), 1)], vocab)[0]
        assert np.array_equal(last, again), "continuing a generation and reading it as a prompt"


def test_neighbours_do_not_show() -> None:
    spec = plain_spec()
    _, model = build(spec, threads=2, prefix=False)
    rng = np.random.default_rng(3)
    prompts = [rng.integers(0, spec.vocab, int(n)).astype(np.int32) for n in rng.integers(1, 150, 17)]
    together = generate(model, prompts, 24)
    for prompt, progress in zip(prompts, together, strict=True):
        (alone,) = generate(model, [prompt], 24)
        assert alone.tokens == progress.tokens
        assert alone.logprobs == progress.logprobs


def test_a_batch_of_eight_takes_one_step_per_token() -> None:
    spec = plain_spec()
    context, model = build(spec, threads=2, prefix=False)
    prompts = [np.arange(1 + 2 * i, dtype=np.int32) for i in range(1, 9)]
    before = context.counters()["forwards"]
    generate(model, prompts, 30)
    assert context.counters()["forwards"] - before == 30, "one to read all prompts, then one per written token"


def test_only_wanted_tokens_pass_the_last_layer() -> None:
    """Others leave their keys and values there, and go no further."""
    spec = plain_spec()
    layers, vocab = len(spec.decoder.layers), spec.vocab
    context, model = build(spec, threads=2, prefix=False)
    strips = {t.name: -(-t.rows // 16) for t in model.tensors() if t.is_matrix}
    stored = sum(n for name, n in strips.items() if name.startswith("decoder.0.0.") and name[-1] in "qkv")
    after = sum(n for name, n in strips.items() if name.startswith("decoder.0.")) - stored
    ids = np.arange(70, dtype=np.int32)
    for rows, wanted in enumerate((0, 1, 70)):
        before = sum(context.counters()["tiles"])
        run(model, [(model.session(), ids, rows)], vocab)
        tiles = 70 * layers * stored + (70 * (layers - 1) + wanted) * after + wanted * strips["head.weight"]
        assert sum(context.counters()["tiles"]) - before == tiles


def test_concurrent_callers_share_steps() -> None:
    spec = plain_spec()
    context, model = build(spec, threads=2, prefix=False)
    prompts = [np.arange(3 + i, dtype=np.int32) for i in range(8)]
    (expected,) = zip(*[generate(model, [p], 200) for p in prompts], strict=True)
    before, found = context.counters()["forwards"], {}
    gate = threading.Barrier(8)

    def call(i: int) -> None:
        gate.wait()
        found[i] = generate(model, [prompts[i]], 200)[0]

    callers = [threading.Thread(target=call, args=(i,)) for i in range(8)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert [found[i].tokens for i in range(8)] == [p.tokens for p in expected]
    assert context.counters()["forwards"] - before < 3 * 200, "eight callers must not take eight times the steps"


@dataclass(frozen=True)
class Task:
    """A request of a crowd, and what it gives alone on one thread."""

    prompt: np.ndarray
    sampling: dict[str, object]
    alone: _core.Progress


def make_tasks(spec: ModelSpec, format: str, n: int) -> list[Task]:
    """Greedy and sampled requests; many prompts begin alike, some are longer than a split of attention."""
    _, model = build(spec, threads=1, format=format, prefix=False)
    rng = np.random.default_rng(n)
    starts = [rng.integers(0, spec.vocab, 300) for _ in range(3)]
    tasks = []
    for i in range(n):
        start = starts[i % 3][: rng.choice([0, 64, 200, 300])]
        prompt = np.concatenate([start, rng.integers(0, spec.vocab, rng.integers(1, 90))]).astype(np.int32)
        temperature = float(rng.choice([0.0, 1.0]))
        sampling = {"max_tokens": int(rng.integers(1, 60)), "ignore_eos": True, "logprobs": 5, "seed": i}
        sampling = {**sampling, "temperature": temperature, "repetition_penalty": 1.1 if i % 4 == 0 else 1.0}
        tasks.append(Task(prompt, sampling, _core.Request(model.session(), prompt, dict(sampling)).wait(True)))
    return tasks


@pytest.mark.parametrize("threads", [1, 2, 4])
@pytest.mark.parametrize(
    ("make_spec", "format"),
    [(plain_spec, "bfloat16"), (exotic_spec, "float32"), (plain_spec, "int8"), (exotic_spec, "int4")],
)
def test_bits_in_a_crowd(make_spec: MakeSpec, format: str, threads: int) -> None:
    """Requests that join and leave at random moments, of several callers, among calls of forward."""
    spec = make_spec()
    tasks, texts = make_tasks(spec, format, 24), Texts(spec, format, "auto")
    context, model = build(spec, threads=threads, format=format)
    wrong: list[str] = []

    def call(mine: list[int]) -> None:
        rng = np.random.default_rng(mine)
        for i in mine:
            time.sleep(rng.exponential(0.003))
            task, tokens, logprobs = tasks[i], [], []
            request = _core.Request(model.session(), task.prompt, dict(task.sampling))
            progress = request.wait(bool(rng.random() < 0.5))
            while True:
                tokens += progress.tokens
                logprobs += progress.logprobs
                if progress.finish:
                    break
                progress = request.wait()
            if tokens != task.alone.tokens or logprobs != task.alone.logprobs:
                wrong.append(f"request {i} of {len(task.prompt)} tokens")

    callers = [threading.Thread(target=call, args=(list(range(i, len(tasks), 6)),)) for i in range(6)]
    for caller in callers:
        caller.start()
    rng = np.random.default_rng(threads)
    walk_schedule(model, texts, rng)
    for caller in callers:
        caller.join()
    assert not wrong
    check_shares(context.counters(), threads)
    written = sum(len(task.alone.tokens) for task in tasks)
    assert written > 300 and context.counters()["prefix_hit_tokens"] > 100


@pytest.mark.parametrize(
    ("make_spec", "format"),
    [(plain_spec, "float16"), (exotic_spec, "bfloat16"), (plain_spec, "int4"), (exotic_spec, "int8")],
)
def test_what_was_generated_reads_the_same(make_spec: MakeSpec, format: str) -> None:
    """At every place the log-probabilities of a generation are those after the same tokens given as a prompt."""
    spec = make_spec()
    _, model = build(spec, threads=2, format=format)
    (task, *_) = make_tasks(spec, format, 1)
    written = task.alone.tokens
    for n in range(len(written)):
        prompt = np.concatenate([task.prompt, written[:n]]).astype(np.int32)
        (progress,) = generate(model, [prompt], 1)
        best = dict(task.alone.logprobs[n])
        assert all(best[token] == logprob for token, logprob in progress.logprobs[0] if token in best)
        assert any(token in best for token, _ in progress.logprobs[0])
