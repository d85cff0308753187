"""llama2.c: a `run` binary that the user has built; the figure is the one that it prints (its clock: milliseconds)."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

from checkpoint import to_llama2c
from serve import NotAvailable, serve


class Llama2c:
    def about(self) -> dict[str, str]:
        return {"version": "llama2.c", "details": "its mean speed from the first token on"}

    def prepare(self, folder: str, format: str, cache: str, threads: int) -> dict[str, Any]:
        model, words = Path(cache) / "llama2c.bin", Path(cache) / "llama2c-tokenizer.bin"
        if not model.exists():
            to_llama2c(Path(folder), model, words)
        return {"path": str(model)}

    def load(self, path: str, format: str, threads: int, context: int, settings: dict[str, str]) -> dict[str, float]:
        words = Path(path).with_name("llama2c-tokenizer.bin")
        self.command = [sys.argv[1], path, "-z", str(words), "-t", "0", "-i", ""]
        self.environment = {**os.environ, **({"OMP_NUM_THREADS": str(threads)} if threads else {})}
        return {}

    def decode(self, depth: int, tokens: int) -> dict[str, float]:
        command = [*self.command, "-n", str(depth + tokens)]
        done = subprocess.run(command, capture_output=True, check=True, env=self.environment)
        found = re.search(rb"tok/s: ([0-9.]+)", done.stderr)
        if not found:
            raise NotAvailable(done.stderr.decode(errors="replace"))
        return {"seconds": tokens / float(found.group(1)), "tokens": tokens}


if __name__ == "__main__":
    serve(Llama2c())
