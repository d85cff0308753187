"""fastlm by its public API, timed by its own clock in C, sampling and text included."""

from __future__ import annotations

import time
from itertools import pairwise
from pathlib import Path
from typing import Any

from checkpoint import Folder
from serve import NotAvailable, serve, token_ids

import fastlm
from fastlm.describe import describe

WRITE = {"temperature": 0, "ignore_eos": True}


class Fastlm:
    def __init__(self) -> None:
        self.start: Any = None  # a session at the depth where decoding starts
        self.adapter: str | None = None  # of that session
        self.model: Any = None
        self.prompts = 0  # read so far: each is another one, or the cache of prefixes would know it
        self.adapters: list[str] = []  # names

    def about(self) -> dict[str, str]:
        facts = describe(self.model)
        return {"version": f"fastlm {fastlm.__version__}", "details": f"{facts['isa']}, KV {facts['kv_dtype']}"}

    def prepare(self, folder: str, format: str, cache: str, threads: int) -> dict[str, Any]:
        return {"path": folder}

    def load(self, path: str, format: str, threads: int, context: int, settings: dict[str, str]) -> dict[str, float]:
        start = time.perf_counter()
        try:
            self.model = fastlm.load(path, dtype=format, threads=threads or None)
        except fastlm.UnsupportedError as error:
            raise NotAvailable(str(error)) from None
        seconds = time.perf_counter() - start
        memory = self.model.memory()
        read = memory["weight_bytes"] * Folder(Path(path)).share_per_token()
        facts = {"seconds": seconds, "bytes_per_token": read, "kv_bytes_per_token": memory["kv_bytes_per_token"]}
        return {**facts, "threads": describe(self.model)["threads"]}

    def adapt(self, folder: str, adapters: list[str], cache: str) -> dict[str, int]:
        for path in adapters:
            self.model.load_adapter(path, path)
        self.adapters = adapters
        return {"adapters": len(adapters)}

    def _ids(self, n: int) -> list[int]:
        self.prompts += 1
        return token_ids(n, self.prompts)

    def prompt(self, tokens: int) -> dict[str, float]:
        ids = self._ids(tokens)
        start = time.perf_counter()
        done = self.model.generate(ids, max_tokens=1, **WRITE)
        seconds = time.perf_counter() - start
        assert done.usage.cached_tokens == 0
        return {"seconds": seconds, "tokens": tokens}

    def decode(self, depth: int, tokens: int, adapted: bool = False) -> dict[str, float]:
        adapter = self.adapters[0] if adapted else None
        with self._session(depth, adapter) as session:
            done = session.generate([42], max_tokens=tokens + 1, adapter=adapter, **WRITE)
        assert len(done.token_ids) == tokens + 1
        return {"seconds": done.timings.decode_seconds, "tokens": tokens}

    def gaps(self, depth: int, tokens: int) -> dict[str, Any]:
        with self._session(depth) as session:
            pieces = session.stream([42], max_tokens=tokens + 1, **WRITE)
            at = [time.perf_counter() for piece in pieces if piece.token_ids]
        return {"seconds": at[-1] - at[0], "tokens": tokens, "gaps": [b - a for a, b in pairwise(at)]}

    def _session(self, depth: int, adapter: str | None = None) -> Any:
        """A sequence of so many tokens."""
        if self.start is None or (len(self.start), self.adapter) != (depth, adapter):
            self.start, self.adapter = self.model.session(), adapter
            self.start.generate(self._ids(depth), max_tokens=1, adapter=adapter, **WRITE)
            self.start.rewind(len(self.start) - depth)
        return self.start.fork()

    def batch(self, lengths: list[int], tokens: int, adapted: bool = False) -> dict[str, float]:
        """adapted: each sequence with an adapter of its own."""
        read = self._batch_seconds(lengths, 1, adapted)
        return {"seconds": self._batch_seconds(lengths, tokens + 1, adapted) - read, "tokens": tokens * len(lengths)}

    def translate(self, sources: int, source: int, beams: int, tokens: int) -> dict[str, float]:
        ids = [self._ids(source) for _ in range(sources)]
        start = time.perf_counter()
        done = self.model.batch(ids, num_beams=beams, max_tokens=tokens, **WRITE)
        seconds = time.perf_counter() - start
        assert all(len(d.token_ids) == tokens for d in done)
        return {"seconds": seconds, "tokens": sources * tokens}

    def _batch_seconds(self, lengths: list[int], tokens: int, adapted: bool) -> float:
        names = self.adapters if adapted else [None] * len(lengths)
        prompts = [fastlm.Request(self._ids(n), adapter=name) for n, name in zip(lengths, names, strict=True)]
        start = time.perf_counter()
        done = self.model.batch(prompts, max_tokens=tokens, **WRITE)
        seconds = time.perf_counter() - start
        assert all(len(d.token_ids) == tokens and d.usage.cached_tokens == 0 for d in done)
        return seconds


if __name__ == "__main__":
    serve(Fastlm())
