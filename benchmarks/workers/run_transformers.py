"""transformers on torch: the model called directly, one forward pass a step, with its cache of keys and values."""

from __future__ import annotations

import time
from typing import Any

import torch
import transformers
from serve import serve, token_ids


class Transformers:
    def about(self) -> dict[str, str]:
        return {"version": f"transformers {transformers.__version__}, torch {torch.__version__}", "details": "eager"}

    def prepare(self, folder: str, format: str, cache: str, threads: int) -> dict[str, Any]:
        return {"path": folder}

    def load(self, path: str, format: str, threads: int, context: int, settings: dict[str, str]) -> dict[str, float]:
        if threads:
            torch.set_num_threads(threads)
        torch.set_grad_enabled(False)
        start = time.perf_counter()
        dtype = getattr(torch, format)
        self.model = transformers.AutoModelForCausalLM.from_pretrained(path, dtype=dtype).eval()
        return {"seconds": time.perf_counter() - start}

    def _read(self, n: int) -> Any:
        """The cache after n tokens; logits of the last one only."""
        return self.model(torch.tensor([token_ids(n)]), use_cache=True, logits_to_keep=1).past_key_values

    def prompt(self, tokens: int) -> dict[str, float]:
        start = time.perf_counter()
        self._read(tokens)
        return {"seconds": time.perf_counter() - start, "tokens": tokens}

    def decode(self, depth: int, tokens: int) -> dict[str, float]:
        past, one = self._read(depth), torch.tensor([[42]])
        start = time.perf_counter()
        for _ in range(tokens):
            past = self.model(one, past_key_values=past, use_cache=True).past_key_values
        return {"seconds": time.perf_counter() - start, "tokens": tokens}


if __name__ == "__main__":
    serve(Transformers())
