"""llama.cpp by the C interface that llama-cpp-python exposes: llama_decode in a loop.

Logits are computed, but the next token is always the same: its speed here is without any sampling.
"""

from __future__ import annotations

import ctypes
import os
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import llama_cpp as lib
import numpy as np
from checkpoint import adapter_to_gguf, to_gguf
from serve import NotAvailable, serve, token_ids

FILE_TYPES = {"F32": 0, "F16": 1, "BF16": 32, "Q8_0": 7, "Q4_0": 2, "Q4_K_M": 15}  # enum llama_ftype
WRITTEN = ("F32", "F16", "BF16")  # by the gguf package; the others are quantised from F16 by llama.cpp itself
SEQUENCES, SEQUENCE_CONTEXT, CHUNK = 8, 512, 512  # of a batch; tokens per call that reads a prompt
FLASH = {"on": 1, "off": 0, "auto": -1}


def default_threads() -> int:
    """As llama.cpp's own programs count (common.cpp): physical cores, whatever affinity or quota leave of them.

    The C library by itself would take 4 on any machine, and llama-cpp-python half of the processors.
    """
    topology = Path("/sys/devices/system/cpu").glob("cpu[0-9]*/topology/thread_siblings")
    cores = len({path.read_text() for path in topology})
    processors = os.cpu_count() or 1
    return cores or (processors if processors <= 4 else processors // 2)


class LlamaCpp:
    def __init__(self) -> None:
        self.quiet = lib.llama_log_callback(lambda *_: None)
        lib.llama_log_set(self.quiet, None)
        lib.llama_backend_init()
        self.depth = -1  # tokens in the single sequence's memory
        self.many: Any = None
        self.adapters: Any = None
        self.adapted = False  # the tokens in the single sequence's memory

    def about(self) -> dict[str, str]:
        details = lib.llama_print_system_info().decode()
        return {"version": f"llama-cpp-python {lib.__version__}", "details": details.strip(" |")}

    def prepare(self, folder: str, format: str, cache: str, threads: int) -> dict[str, Any]:
        path = Path(cache) / f"{format}.gguf"
        part = path.with_suffix(".part")
        if not path.exists():
            if format in WRITTEN:
                to_gguf(Path(folder), part, format)
            else:
                source = self.prepare(folder, "F16", cache, threads)["path"]
                options = lib.llama_model_quantize_default_params()
                options.nthread, options.ftype = threads, FILE_TYPES[format]
                if lib.llama_model_quantize(source.encode(), str(part).encode(), options):
                    raise NotAvailable(f"llama_model_quantize cannot write {format}")
            part.replace(path)
        return {"path": str(path)}

    def load(self, path: str, format: str, threads: int, context: int, settings: dict[str, str]) -> dict[str, float]:
        start = time.perf_counter()
        options = lib.llama_model_default_params()
        options.n_gpu_layers = 0
        options.use_extra_bufts = settings.get("repack", "on") == "on"
        self.model = lib.llama_model_load_from_file(path.encode(), options)
        if not self.model:
            raise NotAvailable(f"llama.cpp cannot load {format}")
        self.threads, self.flash = threads or default_threads(), FLASH[settings.get("flash", "auto")]
        self.one = self._context(context, 1)
        return {"seconds": time.perf_counter() - start, "threads": self.threads}

    def adapt(self, folder: str, adapters: list[str], cache: str) -> dict[str, int]:
        """The first one: its contexts have one adapter for all sequences."""
        path = Path(cache) / "adapter.gguf"
        if not path.exists():
            part = adapter_to_gguf(Path(folder), Path(adapters[0]), path.with_suffix(".part"))
            part.replace(path)
        adapter = lib.llama_adapter_lora_init(self.model, str(path).encode())
        if not adapter:
            raise NotAvailable("llama.cpp cannot load the adapter")
        self.adapters = (lib.llama_adapter_lora_p_ctypes * 1)(adapter)
        return {"adapters": 1}

    def _switch(self, context: Any, adapted: bool) -> None:
        scales = (ctypes.c_float * 1)(1.0)
        if lib.llama_set_adapters_lora(context, self.adapters, int(adapted), scales):
            raise NotAvailable("llama.cpp refuses the adapter")

    def _context(self, tokens: int, sequences: int) -> Any:
        options = lib.llama_context_default_params()
        options.n_ctx, options.n_seq_max, options.no_perf = tokens, sequences, True
        options.n_batch = options.n_ubatch = CHUNK
        options.n_threads = options.n_threads_batch = self.threads
        options.flash_attn_type = self.flash
        context = lib.llama_init_from_model(self.model, options)
        if not context:
            raise NotAvailable("llama.cpp refuses this context")
        return context

    def _read(self, n: int) -> None:
        """Read n tokens into the emptied single sequence; logits of the last one only."""
        lib.llama_memory_clear(lib.llama_get_memory(self.one), False)
        ids = token_ids(n)
        for at in range(0, n, CHUNK):
            part = ids[at : at + CHUNK]
            tokens = (lib.llama_token * len(part))(*part)  # the batch only points at them
            self._step(self.one, lib.llama_batch_get_one(tokens, len(part)))
        lib.llama_synchronize(self.one)

    @staticmethod
    def _step(context: Any, batch: Any) -> None:
        if lib.llama_decode(context, batch):
            raise RuntimeError("llama_decode failed")

    def prompt(self, tokens: int) -> dict[str, float]:
        self.depth = -1
        start = time.perf_counter()
        self._read(tokens)
        lib.llama_get_logits_ith(self.one, -1)
        return {"seconds": time.perf_counter() - start, "tokens": tokens}

    def decode(self, depth: int, tokens: int, adapted: bool = False) -> dict[str, float]:
        if self.adapted != adapted:
            self._switch(self.one, adapted)
            self.adapted, self.depth = adapted, -1
        if self.depth == depth:
            lib.llama_memory_seq_rm(lib.llama_get_memory(self.one), 0, depth, -1)
        else:
            self._read(depth)
            self.depth = depth
        token = (lib.llama_token * 1)(42)
        batch = lib.llama_batch_get_one(token, 1)
        start = time.perf_counter()
        for _ in range(tokens):
            self._step(self.one, batch)
        lib.llama_synchronize(self.one)
        return {"seconds": time.perf_counter() - start, "tokens": tokens}

    def gaps(self, depth: int, tokens: int) -> dict[str, Any]:
        self.decode(depth, 1)
        token = (lib.llama_token * 1)(42)
        batch = lib.llama_batch_get_one(token, 1)
        at = [time.perf_counter()]
        for _ in range(tokens):
            self._step(self.one, batch)
            lib.llama_synchronize(self.one)
            at.append(time.perf_counter())
        return {"seconds": at[-1] - at[0], "tokens": tokens, "gaps": [b - a for a, b in pairwise(at)]}

    def batch(self, lengths: list[int], tokens: int, adapted: bool = False) -> dict[str, float]:
        """adapted: all with the same adapter."""
        if self.many is None:
            self.many = self._context(SEQUENCES * SEQUENCE_CONTEXT, SEQUENCES)
        if self.adapters is not None:
            self._switch(self.many, adapted)
        context, n = self.many, len(lengths)
        lib.llama_memory_clear(lib.llama_get_memory(context), False)
        for sequence, length in enumerate(lengths):
            batch = _filled(token_ids(length), range(length), [sequence] * length)
            self._step(context, batch)
            lib.llama_batch_free(batch)
        batch = _filled([42] * n, lengths, range(n))
        at = np.ctypeslib.as_array(batch.pos, (n,))
        lib.llama_synchronize(context)
        start = time.perf_counter()
        for _ in range(tokens):
            self._step(context, batch)
            at += 1
        lib.llama_synchronize(context)
        seconds = time.perf_counter() - start
        lib.llama_batch_free(batch)
        return {"seconds": seconds, "tokens": tokens * n}


def _filled(ids: Any, positions: Any, sequences: Any) -> Any:
    """A llama_batch of tokens, each with logits where it is the last one of its sequence."""
    n = len(ids)
    batch = lib.llama_batch_init(n, 0, 1)
    batch.n_tokens = n
    for i, (token, at, sequence) in enumerate(zip(ids, positions, sequences, strict=True)):
        batch.token[i], batch.pos[i], batch.n_seq_id[i] = token, at, 1
        batch.seq_id[i][0] = sequence
        batch.logits[i] = i + 1 == n or sequences[i + 1] != sequence
    return batch


if __name__ == "__main__":
    serve(LlamaCpp())
