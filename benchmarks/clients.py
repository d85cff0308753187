"""Many clients of a server of OpenAI's completions, light enough to share its machine: the other half of serving.py.

python benchmarks/clients.py < job.json

The job, an object: port, model, texts (what each prompt must be answered with, or null), tokens (of each answer),
clients (at a time), seconds (that they go on asking), whole (else streams). It prints what they saw, as JSON: requests,
failures, tokens, firsts (seconds to the first token of each stream), seconds, and cpu (those of this process).
"""

from __future__ import annotations

import asyncio
import json
import random
import re
import sys
import time
from typing import Any

EVENT = re.compile(rb"data: (\{[^\r\n]*\})")
LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
HEAD = "POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: "


class Crowd:
    """All clients, and what they saw."""

    def __init__(self, job: dict[str, Any]) -> None:
        self.whole = job["whole"]
        self.texts: list[tuple[bytes, str | None]] = [
            (self._asked(job, prompt), text) for prompt, text in job["texts"].items()
        ]
        self.end = time.monotonic() + job["seconds"]
        self.done = asyncio.Event()
        self.left = job["clients"]
        self.requests = self.tokens = 0
        self.firsts: list[float] = []
        self.failures: list[str] = []

    def _asked(self, job: dict[str, Any], prompt: str) -> bytes:
        body = {"model": job["model"], "prompt": prompt, "max_tokens": job["tokens"], "temperature": 0}
        body |= {} if self.whole else {"stream": True, "stream_options": {"include_usage": True}}
        data = json.dumps(body).encode()
        return f"{HEAD}{len(data)}\r\n\r\n".encode() + data

    def leave(self) -> None:
        self.left -= 1
        if not self.left:
            self.done.set()


class Client(asyncio.Protocol):
    """One connection, which asks again and again until the time is over."""

    def __init__(self, crowd: Crowd, seed: int) -> None:
        self._crowd = crowd
        self._draw = random.Random(seed)
        self._parts: list[bytes] = []
        self._size = 0  # of a whole answer, once its head is there

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._ask()

    def connection_lost(self, error: Exception | None) -> None:
        if self._parts or time.monotonic() < self._crowd.end:
            self._crowd.failures.append(f"the connection was lost: {error!r} {b''.join(self._parts)[:200]!r}")
        self._crowd.leave()

    def _ask(self) -> None:
        self._parts, self._size, self._first = [], 0, True
        asked, self._wanted = self._draw.choice(self._crowd.texts)
        self._begun = time.monotonic()
        self._transport.write(asked)

    def data_received(self, data: bytes) -> None:
        self._parts.append(data)
        if self._crowd.whole:
            self._size = self._size or self._announced()
            if self._size and sum(map(len, self._parts)) >= self._size:
                self._answered([b"".join(self._parts).partition(b"\r\n\r\n")[2]])
            return
        if self._first and b"data: " in data:
            self._crowd.firsts.append(time.monotonic() - self._begun)
            self._first = False
        if data.endswith(b"0\r\n\r\n") or (self._first and b"\r\n\r\n" in data and b" 200 " not in data[:15]):
            self._answered(EVENT.findall(b"".join(self._parts)))

    def _announced(self) -> int:
        head, found, _ = b"".join(self._parts).partition(b"\r\n\r\n")
        length = LENGTH.search(head)
        return len(head) + 4 + int(length[1]) if found and length else 0

    def _answered(self, parts: list[bytes]) -> None:
        """Judge an answer, and ask for another one."""
        crowd = self._crowd
        crowd.requests += 1
        try:
            objects = json.loads(b"[" + b",".join(parts) + b"]")
            text = "".join(choice["text"] for one in objects for choice in one["choices"])
            told = sum(one["usage"]["completion_tokens"] for one in objects if one.get("usage"))
            crowd.tokens += told or sum(len(one["choices"]) for one in objects) - 1  # llama.cpp tells no usage: events
            if not objects or (self._wanted is not None and text != self._wanted):
                crowd.failures.append(f"{text!r}, alone {self._wanted!r}")
        except (ValueError, KeyError, TypeError):
            crowd.failures.append(repr(b"".join(self._parts)[:300]))
        self._parts = []
        if time.monotonic() < crowd.end:
            self._ask()
        else:
            self._transport.close()


async def ask(job: dict[str, Any]) -> dict[str, Any]:
    """What the clients of a job saw."""
    crowd, begun = Crowd(job), time.monotonic()
    loop = asyncio.get_running_loop()
    for seed in range(job["clients"]):
        await loop.create_connection(lambda seed=seed: Client(crowd, seed), "127.0.0.1", job["port"])  # type: ignore[misc]
    await crowd.done.wait()
    seen = {"requests": crowd.requests, "tokens": crowd.tokens, "firsts": crowd.firsts, "failures": crowd.failures}
    return {**seen, "seconds": time.monotonic() - begun, "cpu": time.process_time()}


if __name__ == "__main__":
    json.dump(asyncio.run(ask(json.load(sys.stdin))), sys.stdout)
