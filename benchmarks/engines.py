"""Engines side by side: each decodes `n` tokens after a short prompt and says how long that took."""

from __future__ import annotations

import re
import subprocess
import time
from pathlib import Path
from typing import Any, Protocol

PROMPT = [1] + [(7 * i + 3) % 500 for i in range(15)]


class Engine(Protocol):
    name: str

    def decode(self, n: int) -> float:
        """Tokens per second of n greedy steps."""


class Fastlm:
    """This library, through its public API; the clock is ours, around the whole call but for the prompt."""

    def __init__(self, folder: Path, dtype: str, threads: int | None, prompt: list[int] = PROMPT) -> None:
        import fastlm

        self.model = fastlm.load(str(folder), dtype=dtype, threads=threads)
        self.name = f"fastlm {fastlm.__version__} {dtype}"
        self.prompt = prompt

    def decode(self, n: int) -> float:
        first = self._seconds(1)
        return (n - 1) / (self._seconds(n) - first)

    def _seconds(self, n: int) -> float:
        start = time.perf_counter()
        done = self.model.generate(self.prompt, max_tokens=n, ignore_eos=True, temperature=0)
        seconds = time.perf_counter() - start
        assert len(done.token_ids) == n
        return seconds


class LlamaCpp:
    """llama.cpp through llama-cpp-python's C bindings: one llama_decode per token, logits computed, none read."""

    def __init__(self, gguf: Path, kind: str, threads: int) -> None:
        import llama_cpp

        self.lib: Any = llama_cpp
        self.name = f"llama.cpp (llama-cpp-python {llama_cpp.__version__}) {kind}"
        self.quiet = llama_cpp.llama_log_callback(lambda *_: None)
        llama_cpp.llama_log_set(self.quiet, None)
        llama_cpp.llama_backend_init()
        params = llama_cpp.llama_model_default_params()
        params.n_gpu_layers = 0
        self.model = llama_cpp.llama_model_load_from_file(str(gguf).encode(), params)
        options = llama_cpp.llama_context_default_params()
        options.n_ctx, options.n_batch, options.no_perf = 512, 32, True
        options.n_threads = options.n_threads_batch = threads
        self.context = llama_cpp.llama_init_from_model(self.model, options)
        if not self.context:
            raise RuntimeError(f"llama.cpp cannot run {gguf}")
        self.one = (llama_cpp.llama_token * 1)(42)

    def decode(self, n: int) -> float:
        lib = self.lib
        lib.llama_memory_clear(lib.llama_get_memory(self.context), False)
        prompt = (lib.llama_token * len(PROMPT))(*PROMPT)
        lib.llama_decode(self.context, lib.llama_batch_get_one(prompt, len(PROMPT)))
        lib.llama_synchronize(self.context)
        batch = lib.llama_batch_get_one(self.one, 1)
        start = time.perf_counter()
        for _ in range(n):
            if lib.llama_decode(self.context, batch):
                raise RuntimeError("llama_decode failed")
        lib.llama_get_logits(self.context)
        return n / (time.perf_counter() - start)


class Llama2c:
    """A `run` binary of llama2.c that the user has built; the figure is the one it prints (clock: milliseconds)."""

    def __init__(self, binary: Path, model: Path, tokenizer: Path) -> None:
        self.name = f"llama2.c ({binary.name})"
        self.command = [str(binary), str(model), "-z", str(tokenizer), "-t", "0", "-i", ""]

    def decode(self, n: int) -> float:
        done = subprocess.run([*self.command, "-n", str(n + 1)], capture_output=True, check=True)
        found = re.search(rb"tok/s: ([0-9.]+)", done.stderr)
        if not found:
            raise RuntimeError(done.stderr.decode(errors="replace"))
        return float(found.group(1))
