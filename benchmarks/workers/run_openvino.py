"""OpenVINO by openvino-genai's LLMPipeline: its own token loop, timed by its own metrics."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import openvino
import openvino_genai as genai
from serve import serve, token_ids

GROUPS = (128, 64, 32)  # of int4: the largest that divides the width
CACHE_GB = 2


class OpenVino:
    def about(self) -> dict[str, str]:
        core = openvino.Core()
        name = core.get_property("CPU", "FULL_DEVICE_NAME")
        able = sorted(core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"))
        return {"version": f"openvino-genai {genai.__version__}", "details": f"{name}: {' '.join(able)}"}

    def prepare(self, folder: str, format: str, cache: str, threads: int) -> dict[str, Any]:
        path = Path(cache) / f"openvino-{format}"
        if not (path / "openvino_model.bin").exists():
            config = json.loads((Path(folder) / "config.json").read_text())
            width = config["hidden_size"]
            command = [str(Path(sys.executable).with_name("optimum-cli")), "export", "openvino", "--model", folder]
            command += ["--task", "text-generation-with-past", "--weight-format", format]
            if format == "int4":
                command += ["--group-size", str(next(g for g in GROUPS if width % g == 0))]
            subprocess.run([*command, str(path)], check=True, stdout=sys.stderr)
        return {"path": str(path)}

    def load(self, path: str, format: str, threads: int, context: int, settings: dict[str, str]) -> dict[str, float]:
        start = time.perf_counter()
        options: dict[str, Any] = {**({"INFERENCE_NUM_THREADS": threads} if threads else {}), **settings}
        if options.get("ATTENTION_BACKEND") == "PA":
            scheduler = genai.SchedulerConfig()
            scheduler.cache_size = CACHE_GB
            scheduler.enable_prefix_caching = False
            scheduler.max_num_batched_tokens = max(context, 512)
            options["scheduler_config"] = scheduler
        self.pipeline = genai.LLMPipeline(path, "CPU", **options)
        return {"seconds": time.perf_counter() - start}

    def _run(self, read: int, write: int) -> Any:
        options = genai.GenerationConfig()
        options.max_new_tokens, options.ignore_eos, options.do_sample = write, True, False
        options.apply_chat_template = False
        done = self.pipeline.generate(openvino.Tensor(np.array([token_ids(read)], np.int64)), options)
        assert len(done.tokens[0]) == write
        return done.perf_metrics

    def prompt(self, tokens: int) -> dict[str, float]:
        return {"seconds": self._run(tokens, 1).get_ttft().mean / 1e3, "tokens": tokens}

    def decode(self, depth: int, tokens: int) -> dict[str, float]:
        per_token = self._run(depth, tokens + 1).get_tpot().mean / 1e3
        return {"seconds": per_token * tokens, "tokens": tokens}


if __name__ == "__main__":
    serve(OpenVino())
