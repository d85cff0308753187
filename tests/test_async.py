"""asyncio: the texts of solo runs without a thread for each, cancellation, errors, and clean ends."""

from __future__ import annotations

import asyncio
import gc
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Iterator
from contextlib import aclosing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from adapter_folders import low_rank, save_adapter
from folder_models import BASES, save_decoder
from models import Shape, save_sparse_llama

import fastlm
from fastlm import driving

SLOW = Shape(hidden=512, layers=6, heads=8, kv_heads=4, width=1536, vocab=256, context=4096)
TEMPLATE = "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}<assistant>"


@pytest.fixture(scope="module")
def model() -> Iterator[fastlm.Model]:
    with fastlm.load(threads=1) as loaded:
        yield loaded


@pytest.fixture(scope="module")
def slow(tmp_path_factory: pytest.TempPathFactory) -> Iterator[fastlm.Model]:
    """4,096 of its steps take a minute."""
    with fastlm.load(save_sparse_llama(tmp_path_factory.mktemp("slow"), SLOW), threads=1) as loaded:
        yield loaded


def steps(model: fastlm.Model) -> int:
    return int(model.engine.context.counters()["forwards"])  # type: ignore[arg-type]


def descriptors() -> int:
    """How many this process has."""
    folder = Path("/proc/self/fd")
    return len(list(folder.iterdir())) if folder.is_dir() else 0


def test_a_thousand_at_a_time(model: fastlm.Model) -> None:
    prompts = [f"Once upon a time number {i}" for i in range(1000)]
    options: Any = {"max_tokens": 12, "temperature": 0.8}
    most = 0

    async def watch() -> None:
        nonlocal most
        while True:
            most = max(most, threading.active_count())
            await asyncio.sleep(0.002)

    async def all_of_them() -> list[fastlm.Completion]:
        watching = asyncio.create_task(watch())
        tasks = [model.agenerate(prompt, seed=i, **options) for i, prompt in enumerate(prompts)]
        try:
            return await asyncio.gather(*tasks)
        finally:
            watching.cancel()

    before = steps(model)
    found = asyncio.run(all_of_them())
    assert most < 60
    assert steps(model) - before < 6000  # of 12,000 tokens: they share steps
    for i in range(0, 1000, 50):
        alone = model.generate(prompts[i], seed=i, **options)
        assert (found[i].text, found[i].token_ids, found[i].seed) == (alone.text, alone.token_ids, i)


def test_everything_there_is(tmp_path: Path, model: fastlm.Model) -> None:
    chat = fastlm.load(save_decoder(tmp_path / "chat", TEMPLATE), beside=model)
    vectors = fastlm.load(BASES["bert"](tmp_path / "bert"), beside=model)
    options: Any = {"max_tokens": 20, "temperature": 0.7, "seed": 3}
    hello = [{"role": "user", "content": "Hello"}]

    async def ask() -> tuple[Any, ...]:
        streamed = [chunk async for chunk in model.astream("Once", **options)]
        several = await model.agenerate("Once", n=3, logprobs=2, **options)
        together = await model.abatch(["Once", fastlm.Request("Twice", max_tokens=5)], **options)
        seen = await model.agenerate("Once", max_tokens=3, attentions=True)
        answered, embedded = await asyncio.gather(chat.achat(hello, **options), vectors.aembed(["who", "it"]))
        return streamed, several, together, seen, answered, embedded

    streamed, several, together, seen, answered, embedded = asyncio.run(ask())
    own = model.generate("Once", **options)
    assert "".join(chunk.text for chunk in streamed) == own.text and streamed[-1].finish_reason == own.finish_reason
    alone = model.generate("Once", n=3, logprobs=2, **options)
    assert [c.text for c in several.alternatives] == [c.text for c in alone.alternatives]
    assert several.logprobs == alone.logprobs and several.usage.prompt_tokens == alone.usage.prompt_tokens
    assert [c.text for c in together] == [own.text, model.generate("Twice", **{**options, "max_tokens": 5}).text]
    assert len(seen.attentions) == 3
    assert answered.text == chat.chat(hello, **options).text
    np.testing.assert_array_equal(embedded, vectors.embed(["who", "it"]))
    chat.close()
    vectors.close()


def test_cancelling_a_task_cancels_its_request(slow: fastlm.Model) -> None:
    async def ask() -> fastlm.Completion:
        before = steps(slow)
        gone = [asyncio.create_task(slow.agenerate([1, 2, i], max_tokens=4000)) for i in range(5)]
        stays = asyncio.create_task(slow.agenerate([7, 8], max_tokens=30))
        while steps(slow) < before + 5:
            await asyncio.sleep(0.005)
        for task in gone:
            task.cancel()
        for task in gone:
            with pytest.raises(asyncio.CancelledError):
                await task
        return await stays

    before = steps(slow)
    assert asyncio.run(ask()).token_ids == slow.generate([7, 8], max_tokens=30).token_ids
    assert steps(slow) - before < 500


def test_leaving_a_stream_cancels_it(slow: fastlm.Model) -> None:
    async def ask() -> list[int]:
        tokens: list[int] = []
        async with aclosing(slow.astream([1, 2], max_tokens=4000)) as stream:
            async for chunk in stream:
                tokens += chunk.token_ids
                if len(tokens) >= 3:
                    break
        now = steps(slow)
        await asyncio.sleep(0.2)
        assert steps(slow) <= now + 2
        return tokens

    tokens = asyncio.run(ask())
    assert tokens == slow.generate([1, 2], max_tokens=len(tokens)).token_ids


def test_threads_and_tasks_share_steps(slow: fastlm.Model) -> None:
    found: list[list[int]] = []
    thread = threading.Thread(target=lambda: found.append(slow.generate([5, 6], max_tokens=40).token_ids))

    async def ask() -> list[fastlm.Completion]:
        thread.start()
        return await asyncio.gather(*(slow.agenerate([1, i], max_tokens=40) for i in range(4)))

    before = steps(slow)
    done = asyncio.run(ask())
    thread.join()
    assert steps(slow) - before < 150  # of 200 tokens
    assert found[0] == slow.generate([5, 6], max_tokens=40).token_ids
    assert [d.token_ids for d in done] == [slow.generate([1, i], max_tokens=40).token_ids for i in range(4)]


def test_errors(model: fastlm.Model) -> None:
    async def fails(call: Any, kind: type[Exception], text: str) -> None:
        with pytest.raises(kind, match=text):
            await call

    async def ask() -> None:
        await fails(model.agenerate("a", temprature=1), fastlm.ParameterError, "temperature")
        await fails(model.agenerate("a" * 9999, max_tokens=1), fastlm.ContextLengthError, "context")
        await fails(model.agenerate("a", cancel=threading.Event()), fastlm.ParameterError, "cancel the task")
        await fails(model.abatch(["a", "b", 5]), fastlm.ParameterError, r"prompts\[2\]")
        await fails(model.abatch("a"), fastlm.ParameterError, "prompts")
        await fails(model.achat([{"role": "user", "content": "a"}]), fastlm.UnsupportedError, "template")
        with pytest.raises(fastlm.ParameterError, match="n: a stream"):
            async for _ in model.astream("a", n=2):
                pass

    asyncio.run(ask())


def test_beams_give_what_they_give_threads(model: fastlm.Model) -> None:
    params: Any = {"num_beams": 3, "n": 2, "temperature": 0, "max_tokens": 8}

    async def ask() -> list[fastlm.Completion]:
        return [await model.agenerate("Once", **params), *await model.abatch(["There", "Once"], **params)]

    expected = [model.generate(text, **params) for text in ("Once", "There", "Once")]
    for found, wanted in zip(asyncio.run(ask()), expected, strict=True):
        assert len(wanted.alternatives) == 1 and wanted.score is not None
        for one, other in zip((found, *found.alternatives), (wanted, *wanted.alternatives), strict=True):
            assert (one.text, one.token_ids, one.score) == (other.text, other.token_ids, other.score)
            assert (one.finish_reason, one.usage.prompt_tokens) == (other.finish_reason, other.usage.prompt_tokens)


def test_closing_a_model_ends_its_requests(tmp_path: Path) -> None:
    model = fastlm.load(save_sparse_llama(tmp_path, SLOW), threads=1)

    async def ask() -> list[object]:
        tasks = [asyncio.create_task(model.agenerate([1, i], max_tokens=4000)) for i in range(20)]
        await asyncio.sleep(0.1)
        model.close()
        return await asyncio.wait_for(asyncio.gather(*tasks, return_exceptions=True), 20)

    assert all(isinstance(error, fastlm.StateError) for error in asyncio.run(ask()))


def test_closing_a_merged_model_leaves_the_requests_of_the_old_one(tmp_path: Path) -> None:
    """Their loop does not wait for them, and they go on."""
    model = fastlm.load(save_sparse_llama(tmp_path / "model", SLOW), threads=1)
    model.load_adapter("a", save_adapter(tmp_path / "a", low_rank(SLOW)))

    async def ask() -> tuple[float, fastlm.Completion]:
        task = asyncio.create_task(model.agenerate([1, 2], max_tokens=400, adapter="a"))
        await asyncio.sleep(0.1)
        await asyncio.to_thread(model.merge_adapter, "a")
        assert not task.done()
        model.close()
        start = time.monotonic()
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        return time.monotonic() - start, await task

    seconds, done = asyncio.run(ask())
    assert seconds < 0.5 and len(done.token_ids) == 400


def test_a_loop_that_rests(model: fastlm.Model, monkeypatch: pytest.MonkeyPatch) -> None:
    """What comes meanwhile comes together, and nothing is lost."""
    monkeypatch.setattr(driving, "REST", 500.0)

    async def ask(prompt: str) -> list[fastlm.Chunk]:
        return [chunk async for chunk in model.astream(prompt, max_tokens=100, temperature=0, ignore_eos=True)]

    async def ask_all() -> list[list[fastlm.Chunk]]:
        return await asyncio.gather(*map(ask, prompts))

    prompts = ["Once upon", "Lily saw", "Tom and"]
    for prompt, chunks in zip(prompts, asyncio.run(ask_all()), strict=True):
        alone = model.generate(prompt, max_tokens=100, temperature=0, ignore_eos=True)
        assert "".join(chunk.text for chunk in chunks) == alone.text
        assert sum(len(chunk.token_ids) for chunk in chunks) == 100 > len(chunks)


def test_nothing_stays_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither threads nor descriptors nor the context."""
    monkeypatch.setattr(driving, "LINGER_SECONDS", 0.05)
    gc.collect()
    open_files = descriptors()
    model = fastlm.load(threads=1)
    for _ in range(20):
        asyncio.run(model.agenerate("Once", max_tokens=2))
    assert model.engine.context in driving._drivers
    context = weakref.ref(model.engine.context)
    model.close()
    del model
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline and context() is not None:
        gc.collect()
        time.sleep(0.02)
    assert context() is None
    assert descriptors() <= open_files


PROGRAM = """
import asyncio, os, sys, threading, time, fastlm
model = fastlm.load(threads=1)
async def ask():
    return (await model.agenerate("Once", max_tokens=5, temperature=0)).text
text = asyncio.run(ask())
if os.fork() == 0:  # the driving thread stays with the parent
    assert asyncio.run(ask()) == text
    sys.exit(0)
assert os.waitstatus_to_exitcode(os.wait()[1]) == 0
async def leave():  # requests that are still written when the interpreter ends
    await asyncio.gather(*(model.agenerate("Once", max_tokens=400, ignore_eos=True) for _ in range(50)))
before = model.engine.context.counters()["forwards"]
threading.Thread(target=lambda: asyncio.run(leave()), daemon=True).start()
while model.engine.context.counters()["forwards"] < before + 60:  # all of them have begun
    time.sleep(0.001)
print(text)
"""


def test_forks_and_the_end_of_the_interpreter(model: fastlm.Model) -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, timeout=60, cwd=sys.prefix)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == model.generate("Once", max_tokens=5, temperature=0).text + "\n"
