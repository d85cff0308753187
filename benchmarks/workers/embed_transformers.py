"""transformers on torch, as sentence-transformers runs an encoder."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from numpy.typing import NDArray
from serve import serve
from texts import Texts


class Transformers:
    def about(self) -> dict[str, str]:
        return {"version": f"transformers {transformers.__version__}, torch {torch.__version__}", "details": "sdpa"}

    def prepare(self, folder: str, format: str, cache: str, threads: int) -> dict[str, Any]:
        return {"path": folder}

    def load(self, path: str, format: str, threads: int, context: int, settings: dict[str, str]) -> dict[str, float]:
        torch.set_num_threads(threads)
        torch.set_grad_enabled(False)
        start = time.perf_counter()
        kind = {"dtype": getattr(torch, format), "attn_implementation": "sdpa"}
        model = transformers.AutoModel.from_pretrained(path, **kind).eval()

        def encode(inputs: dict[str, NDArray[np.int64]]) -> NDArray[np.float32]:
            tensors = {name: torch.from_numpy(array) for name, array in inputs.items()}
            found: NDArray[np.float32] = model(**tensors).last_hidden_state.float().numpy()
            return found

        self.texts = Texts(Path(path), settings, encode)
        return {"seconds": time.perf_counter() - start}

    def embed(self, name: str) -> dict[str, float]:
        return self.texts.embed(name)


if __name__ == "__main__":
    serve(Transformers())
