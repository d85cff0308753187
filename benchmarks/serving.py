"""A server under load: many clients at a time, whose answers must be what the model gives each prompt alone.

python benchmarks/serving.py [--clients 64] [--seconds 60] [--model MODEL] [--tokens 48] [--whole]

Tells the time to the first token (from sending the request), tokens a second of all clients together, beside those of
`Model.batch` over the same requests in one process, and what memory the server holds at the beginning and at the end.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import quantiles
from typing import Any

import fastlm

NAMES = ("Lily", "Tom", "Ben", "Sue", "Max", "Mia")
THINGS = ("a red ball", "two cats", "the old tree", "a big dog", "her friend", "some bread", "a tiny boat")
DISTINCT = 256  # prompts, of which each is also asked alone


@dataclass(slots=True)
class Seen:
    """What the clients saw."""

    firsts: list[float] = field(default_factory=list)  # seconds to the first token
    tokens: int = 0
    requests: int = 0
    failures: list[str] = field(default_factory=list)


def prompts_of(n: int) -> list[str]:
    """As many, of one to six sentences."""
    draw = random.Random(7)

    def sentence() -> str:
        return f"{draw.choice(NAMES)} saw {draw.choice(THINGS)} and {draw.choice(THINGS)}."

    return [f"Story {i}. " + " ".join(sentence() for _ in range(draw.randint(1, 6))) for i in range(n)]


@contextmanager
def serving(model: str | None, threads: int) -> Iterator[tuple[int, int]]:
    """`fastlm serve` in a process of its own: its process id and port."""
    path = Path(model).absolute() if model else Path(fastlm.__file__).parent / "box" / "box.flm"
    command = [sys.executable, "-m", "fastlm", "serve", f"m={path}", "--port", "0", "--threads", str(threads)]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, cwd=sys.prefix)
    assert process.stderr is not None
    found = re.search(r"http://[\d.]+:(\d+)", process.stderr.readline())
    assert found is not None, "the server did not start"
    threading.Thread(target=process.stderr.read, daemon=True).start()
    try:
        yield process.pid, int(found[1])
    finally:
        process.terminate()
        process.wait(150)


class Client:
    """One connection, which asks again and again until the time is over."""

    def __init__(self, port: int, texts: dict[str, str], tokens: int, whole: bool, seen: Seen) -> None:
        self._port = port
        self._texts = texts
        self._tokens = tokens
        self._whole = whole
        self._seen = seen

    async def run(self, seed: int, end: float) -> None:
        draw = random.Random(seed)
        reads, writes = await asyncio.open_connection("127.0.0.1", self._port)
        while time.monotonic() < end:
            prompt = draw.choice(list(self._texts))
            try:
                text = await self._ask(reads, writes, prompt)
                if text != self._texts[prompt]:
                    self._seen.failures.append(f"{prompt}: {text!r}, alone {self._texts[prompt]!r}")
            except (OSError, ValueError, KeyError, asyncio.IncompleteReadError) as error:
                self._seen.failures.append(f"{prompt}: {error!r}")
                return
        writes.close()

    async def _ask(self, reads: asyncio.StreamReader, writes: asyncio.StreamWriter, prompt: str) -> str:
        body: dict[str, Any] = {"model": "m", "prompt": prompt, "max_tokens": self._tokens, "temperature": 0}
        body |= {} if self._whole else {"stream": True, "stream_options": {"include_usage": True}}
        data, begun = json.dumps(body).encode(), time.monotonic()
        head = "POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        writes.write(f"{head}Content-Length: {len(data)}\r\n\r\n".encode() + data)
        answered = (await reads.readuntil(b"\r\n\r\n")).decode()
        if not answered.startswith("HTTP/1.1 200"):
            raise ValueError(answered)
        self._seen.requests += 1
        if self._whole:
            length = re.search(r"content-length: (\d+)", answered)
            assert length is not None
            return self._told([json.loads(await reads.readexactly(int(length[1])))])
        parts: list[dict[str, Any]] = []
        while size := int(await reads.readline(), 16):
            event = (await reads.readexactly(size + 2)).removeprefix(b"data: ")
            if not parts:
                self._seen.firsts.append(time.monotonic() - begun)
            parts += [] if event.startswith(b"[DONE]") else [json.loads(event)]
        await reads.readline()
        return self._told(parts)

    def _told(self, parts: Sequence[dict[str, Any]]) -> str:
        self._seen.tokens += sum(part["usage"]["completion_tokens"] for part in parts if part["usage"])
        return "".join(choice["text"] for part in parts for choice in part["choices"])


async def load(port: int, texts: dict[str, str], args: argparse.Namespace) -> Seen:
    """All clients at a time."""
    seen, end = Seen(), time.monotonic() + args.seconds
    clients = [Client(port, texts, args.tokens, args.whole, seen) for _ in range(args.clients)]
    await asyncio.gather(*(client.run(seed, end) for seed, client in enumerate(clients)))
    return seen


def batch_rate(model: fastlm.Model, prompts: Sequence[str], args: argparse.Namespace) -> float:
    """Tokens a second of `Model.batch`, with as many at a time."""
    begun, tokens = time.monotonic(), 0
    while time.monotonic() - begun < min(args.seconds, 10):
        for at in range(0, len(prompts), args.clients):
            done = model.batch(prompts[at : at + args.clients], max_tokens=args.tokens, temperature=0)
            tokens += sum(len(one.token_ids) for one in done)
    return tokens / (time.monotonic() - begun)


def resident(pid: int) -> int:
    """Megabytes that a process holds."""
    found = re.search(r"VmRSS:\s+(\d+)", Path(f"/proc/{pid}/status").read_text())
    return int(found[1]) // 1024 if found else 0


def main() -> int:
    parser = argparse.ArgumentParser(prog="benchmarks/serving.py", description=__doc__.splitlines()[0])
    parser.add_argument("--clients", type=int, default=64, metavar="N", help="at a time (64)")
    parser.add_argument("--seconds", type=float, default=60, metavar="N", help="that they go on asking (60)")
    parser.add_argument("--tokens", type=int, default=48, metavar="N", help="of each answer (48)")
    parser.add_argument("--threads", type=int, default=1, metavar="N", help="of the model (1)")
    parser.add_argument("--model", metavar="MODEL", help="a folder or .flm file; default: the packaged one")
    parser.add_argument("--whole", action="store_true", help="answers in one piece; else streams")
    args = parser.parse_args()
    prompts = prompts_of(DISTINCT)
    with fastlm.load(args.model, threads=args.threads) as model:
        texts = {prompt: model.generate(prompt, max_tokens=args.tokens, temperature=0).text for prompt in prompts}
        alone = batch_rate(model, prompts, args)
    with serving(args.model, args.threads) as (pid, port):
        before, begun = resident(pid), time.monotonic()
        seen = asyncio.run(load(port, texts, args))
        seconds, after = time.monotonic() - begun, resident(pid)
    rate = seen.tokens / seconds
    print(f"{args.clients} clients, {seconds:.0f} s: {seen.requests:,} requests, {len(seen.failures)} failures")
    print(f"{rate:,.0f} tokens/s; batch {alone:,.0f}: {rate / alone:.2f} of it; memory {before} MB, then {after} MB")
    if len(seen.firsts) > 1:
        shares = quantiles(seen.firsts, n=100)
        print(f"first token: p50 {1000 * shares[49]:.0f} ms, p99 {1000 * shares[98]:.0f} ms")
    for failure in seen.failures[:5]:
        print(failure)
    return 1 if seen.failures or not seen.requests else 0


if __name__ == "__main__":
    sys.exit(main())
