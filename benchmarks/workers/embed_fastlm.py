"""fastlm on an encoder, by its public API."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

from serve import serve

import fastlm


class Fastlm:
    def about(self) -> dict[str, str]:
        return {"version": f"fastlm {fastlm.__version__}", "details": ""}

    def prepare(self, folder: str, format: str, cache: str, threads: int) -> dict[str, Any]:
        return {"path": folder}

    def load(self, path: str, format: str, threads: int, context: int, settings: dict[str, str]) -> dict[str, float]:
        start = time.perf_counter()
        self.model = fastlm.load(path, dtype=format, threads=threads or None)
        self.texts: dict[str, list[str]] = json.loads(Path(settings["texts"]).read_text())
        return {"seconds": time.perf_counter() - start}

    def embed(self, name: str) -> dict[str, float]:
        texts = self.texts[name]
        start = time.perf_counter()
        self.model.embed(texts, pooling="mean", normalize=True, truncate=True)
        return {"seconds": time.perf_counter() - start, "tokens": len(texts)}


if __name__ == "__main__":
    serve(Fastlm())
