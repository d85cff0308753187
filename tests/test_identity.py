"""Logits are bit-identical for any number of threads, batch, chunking, prefix-cache hit, fork and rewind."""

from __future__ import annotations

import threading
from dataclasses import dataclass

import numpy as np
import pytest
from random_models import build, exotic_spec, plain_spec, run

from fastlm import _core
from fastlm.arch.spec import ModelSpec

PAGE = 64  # positions of a KV page; splits of attention are 256
LENGTHS = (1, 2, 17, 40, 63, 64, 65, 100, 128, 129, 150, 200, 257, 300, 320)
CASES = [
    pytest.param(plain_spec, "float32", "auto", id="plain-float32"),
    pytest.param(plain_spec, "bfloat16", "auto", id="plain-bfloat16"),
    pytest.param(plain_spec, "float16", "float32", id="plain-float16-kv32"),
    pytest.param(exotic_spec, "float32", "auto", id="exotic-float32"),
    pytest.param(exotic_spec, "float32", "bfloat16", id="exotic-float32-kv16"),
    pytest.param(exotic_spec, "float16", "bfloat16", id="exotic-float16"),
]
SCHEDULES = 12  # of each thread count and case: 288 in all


@dataclass
class Texts:
    """Sequences, some of them continuations of others, and their logits: one thread, alone, one call."""

    tokens: list[np.ndarray]
    logits: list[np.ndarray]


def make_texts(spec: ModelSpec, format: str, kv: str) -> Texts:
    rng = np.random.default_rng(1)
    vocab = spec.embed.vocab
    tokens = [rng.integers(0, vocab, n).astype(np.int32) for n in LENGTHS]
    for shared in (64, 130, 256):  # the same beginning, then something else
        tail = rng.integers(0, vocab, 45).astype(np.int32)
        tokens.append(np.concatenate([tokens[-1][:shared], tail]))
    _, model = build(spec, threads=1, format=format, kv=kv, prefix=False)
    logits = [run(model, [(model.session(), ids, 2)], vocab)[0] for ids in tokens]
    return Texts(tokens, logits)


class Walk:
    """One sequence of a schedule: where it is, and the random things that happen to it."""

    def __init__(self, model: _core.Model, texts: Texts, which: int, rng: np.random.Generator) -> None:
        self.session, self.rng = model.session(), rng
        self.tokens, self.want = texts.tokens[which], texts.logits[which]
        self.at = 0

    @property
    def done(self) -> bool:
        return self.at == len(self.tokens)

    def disturb(self) -> None:
        """Sometimes go on in a fork, or take tokens back."""
        if self.at and self.rng.random() < 0.2:
            twin = self.session.fork()
            if self.rng.random() < 0.5:
                self.session.close()
            self.session = twin
        if self.at > 1 and self.rng.random() < 0.2:
            n = int(self.rng.integers(1, self.at))
            self.session.rewind(n)
            self.at -= n

    def next_piece(self) -> tuple[_core.Session, np.ndarray, int]:
        rest = len(self.tokens) - self.at
        n = int(self.rng.choice([1, rest, int(self.rng.integers(1, rest + 1))]))
        self.piece = self.tokens[self.at : self.at + n]
        return self.session, self.piece, int(self.rng.choice([1, 2]))

    def check(self, logits: np.ndarray) -> None:
        self.at += len(self.piece)
        want = self.want[self.at - len(logits) : self.at]
        assert np.array_equal(logits, want), f"at {self.at} of {len(self.tokens)}: {np.abs(logits - want).max()}"


def walk_schedule(model: _core.Model, texts: Texts, vocab: int, rng: np.random.Generator) -> None:
    batch = int(rng.choice([1, *range(2, 18)]))
    walks = [Walk(model, texts, int(rng.integers(len(texts.tokens))), rng) for _ in range(batch)]
    for _ in range(60):
        active = [w for w in walks if not w.done and rng.random() < 0.8]
        if active:
            for w, logits in zip(active, run(model, [w.next_piece() for w in active], vocab), strict=True):
                w.check(logits)
        for w in walks:
            w.disturb()
        if all(w.done for w in walks):
            return


@pytest.mark.parametrize(("make_spec", "format", "kv"), CASES)
def test_bits_do_not_depend_on_the_schedule(make_spec, format: str, kv: str) -> None:
    spec = make_spec()
    texts = make_texts(spec, format, kv)
    for threads in (1, 2, 3, 4):
        context, model = build(spec, threads=threads, format=format, kv=kv)
        rng = np.random.default_rng([threads, len(format), len(kv)])
        for _ in range(SCHEDULES):
            walk_schedule(model, texts, spec.embed.vocab, rng)
        counters = context.counters()
        assert len(counters["tiles"]) == threads
        assert min(counters["tiles"]) > 0.5 * np.mean(counters["tiles"]), "every thread computes its share"
        assert counters["prefix_hit_tokens"] > 100, "schedules must meet the prefix cache"


def generate(model: _core.Model, prompts: list[np.ndarray], n: int) -> list[_core.Progress]:
    """Greedy requests, all queued before the first is waited for; logprobs show more bits than tokens do."""
    sampling = {"max_tokens": n, "ignore_eos": True, "logprobs": 3}
    requests = [_core.Request(model.session(), ids, dict(sampling)) for ids in prompts]
    return [request.wait(True) for request in requests]


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_generated_tokens_are_those_of_a_prompt(threads: int) -> None:
    spec = plain_spec()
    vocab = spec.embed.vocab
    _, model = build(spec, threads=threads, format="bfloat16")
    _, alone = build(spec, threads=1, format="bfloat16", prefix=False)
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
    prompts = [rng.integers(0, spec.embed.vocab, int(n)).astype(np.int32) for n in rng.integers(1, 150, 17)]
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
