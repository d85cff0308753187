"""OpenVINO on an encoder: in float32, in bfloat16 by its hint, or in int8 after NNCF's calibration on the texts."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import openvino
from numpy.typing import NDArray
from serve import serve
from texts import Texts, padded, to_onnx
from tokenizers import Tokenizer

CALIBRATION_TEXTS = 128


class OpenVino:
    def about(self) -> dict[str, str]:
        return {"version": f"openvino {openvino.__version__}", "details": ""}

    def prepare(self, folder: str, format: str, cache: str, threads: int) -> dict[str, Any]:
        plain, quantised = Path(cache) / "encoder.onnx", Path(cache) / "openvino-int8.xml"
        if not plain.exists():
            to_onnx(folder, plain)
        if format == "int8" and not quantised.exists():
            openvino.save_model(_calibrated(plain, Path(folder), Path(cache)), quantised)
        return {"path": f"{quantised if format == 'int8' else plain}:{folder}"}

    def load(self, path: str, format: str, threads: int, context: int, settings: dict[str, str]) -> dict[str, float]:
        start = time.perf_counter()
        graph, folder = path.split(":")
        options = {"INFERENCE_NUM_THREADS": threads, "PERFORMANCE_HINT": "LATENCY"}
        options["INFERENCE_PRECISION_HINT"] = "bf16" if format == "bfloat16" else "f32"
        compiled = openvino.Core().compile_model(graph, "CPU", options)
        request = compiled.create_infer_request()

        def encode(inputs: dict[str, NDArray[np.int64]]) -> NDArray[np.float32]:
            found: NDArray[np.float32] = request.infer(inputs)[0]
            return found

        self.texts = Texts(Path(folder), settings, encode)
        return {"seconds": time.perf_counter() - start}

    def embed(self, name: str) -> dict[str, float]:
        return self.texts.embed(name)


def _calibrated(plain: Path, folder: Path, cache: Path) -> Any:
    import nncf

    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.enable_truncation(128)
    texts = json.loads((cache / "texts.json").read_text())["thousand"][:CALIBRATION_TEXTS]
    rows = [padded([encoding.ids]) for encoding in tokenizer.encode_batch(texts)]
    model = openvino.Core().read_model(plain)
    return nncf.quantize(model, nncf.Dataset(rows), model_type=nncf.ModelType.TRANSFORMER)


if __name__ == "__main__":
    serve(OpenVino())
