"""CTranslate2: its Generator, where the prompt's state is cached, so that decoding is timed alone; its Translator."""

from __future__ import annotations

import json
import tempfile
import time
from pathlib import Path
from typing import Any

import ctranslate2
from serve import NotAvailable, serve, token_ids


class CTranslate2:
    def about(self) -> dict[str, str]:
        able = sorted(ctranslate2.get_supported_compute_types("cpu"))
        return {"version": f"ctranslate2 {ctranslate2.__version__}", "details": " ".join(able)}

    def prepare(self, folder: str, format: str, cache: str, threads: int) -> dict[str, Any]:
        stored = format.split("_")[0]
        path = Path(cache) / f"ctranslate2-{stored}"
        if not (path / "model.bin").exists():
            with tempfile.TemporaryDirectory() as scratch:
                converter = ctranslate2.converters.TransformersConverter(_with_tokenizer(Path(folder), Path(scratch)))
                converter.convert(str(path), quantization=stored, force=True)
        return {"path": str(path)}

    def load(self, path: str, format: str, threads: int, context: int, settings: dict[str, str]) -> dict[str, float]:
        if format not in ctranslate2.get_supported_compute_types("cpu"):
            raise NotAvailable(f"ctranslate2 does not compute in {format} on this processor")
        start = time.perf_counter()
        kind = ctranslate2.Translator if _is_translator(Path(path)) else ctranslate2.Generator
        self.generator = kind(path, "cpu", compute_type=format, intra_threads=threads)
        return {"seconds": time.perf_counter() - start}

    def _seconds(self, prompts: list[list[str]], write: int, **options: Any) -> float:
        options |= {"max_length": write, "min_length": write, "include_prompt_in_result": False}
        start = time.perf_counter()
        done = self.generator.generate_batch(prompts, sampling_topk=1, **options)
        seconds = time.perf_counter() - start
        assert all(len(d.sequences_ids[0]) == write for d in done)
        return seconds

    def prompt(self, tokens: int) -> dict[str, float]:
        return {"seconds": self._seconds([_words(tokens)], 1), "tokens": tokens}

    def decode(self, depth: int, tokens: int) -> dict[str, float]:
        past = {"static_prompt": _words(depth), "cache_static_prompt": True}
        self._seconds([["t42"]], 1, **past)
        return {"seconds": self._seconds([["t42"]], tokens, **past), "tokens": tokens}

    def batch(self, lengths: list[int], tokens: int) -> dict[str, float]:
        prompts = [_words(n) for n in lengths]
        read = self._seconds(prompts, 1)
        return {"seconds": self._seconds(prompts, tokens + 1) - read, "tokens": tokens * len(lengths)}

    def translate(self, sources: int, source: int, beams: int, tokens: int) -> dict[str, float]:
        words = [[f"t{i}" for i in token_ids(source, seed)] for seed in range(sources)]
        lengths = {"min_decoding_length": tokens, "max_decoding_length": tokens}
        start = time.perf_counter()
        done = self.generator.translate_batch(words, beam_size=beams, **lengths)
        seconds = time.perf_counter() - start
        assert all(len(d.hypotheses[0]) == tokens for d in done)
        return {"seconds": seconds, "tokens": sources * tokens}


def _is_translator(path: Path) -> bool:
    return "decoder_start_token" in json.loads((path / "config.json").read_text())


def _words(n: int) -> list[str]:
    return [f"t{i}" for i in token_ids(n)]


def _with_tokenizer(folder: Path, scratch: Path) -> str:
    """The checkpoint with a tokenizer of words t0, t1, ...: the converter wants one."""
    config = json.loads((folder / "config.json").read_text())
    pad = config.get("pad_token_id")
    words = {"<pad>" if i == pad else f"t{i}": i for i in range(config["vocab_size"])}
    model = {"type": "WordLevel", "vocab": words, "unk_token": "t0"}
    (scratch / "tokenizer.json").write_text(json.dumps({"version": "1.0", "added_tokens": [], "model": model}))
    names = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "t1", "eos_token": "t2", "unk_token": "t0"}
    if pad is not None:
        names["pad_token"] = "<pad>"
    (scratch / "tokenizer_config.json").write_text(json.dumps(names))
    for name in ("config.json", "model.safetensors"):
        (scratch / name).symlink_to((folder / name).resolve())
    return str(scratch)


if __name__ == "__main__":
    serve(CTranslate2())
