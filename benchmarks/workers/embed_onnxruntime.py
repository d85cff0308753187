"""ONNX Runtime on an encoder: its graph optimised for BERT where that helps, in float32 or with int8 matrices."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import onnxruntime
from onnx import TensorProto
from onnxruntime.quantization import QuantType, quantize_dynamic
from onnxruntime.transformers.optimizer import optimize_model
from serve import serve
from texts import Texts, to_onnx


class OnnxRuntime:
    def about(self) -> dict[str, str]:
        return {"version": f"onnxruntime {onnxruntime.__version__}", "details": ""}

    def prepare(self, folder: str, format: str, cache: str, threads: int) -> dict[str, Any]:
        plain, fused = Path(cache) / "encoder.onnx", Path(cache) / "encoder-fused.onnx"
        if not plain.exists():
            to_onnx(folder, plain)
        if not fused.exists():
            optimize_model(str(plain), model_type="bert").save_model_to_file(str(fused))
        out = {"float32": fused, "int8": Path(cache) / "encoder-int8.onnx"}[format]
        if not out.exists():
            types = {"DefaultTensorType": TensorProto.FLOAT}  # fused operators are unknown to the shape inference
            quantize_dynamic(str(fused), str(out), weight_type=QuantType.QInt8, per_channel=True, extra_options=types)
        return {"path": f"{out}:{folder}"}

    def load(self, path: str, format: str, threads: int, context: int, settings: dict[str, str]) -> dict[str, float]:
        start = time.perf_counter()
        graph, folder = path.split(":")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
        self.texts = Texts(Path(folder), settings, lambda inputs: session.run(["hidden"], inputs)[0])
        return {"seconds": time.perf_counter() - start}

    def embed(self, name: str) -> dict[str, float]:
        return self.texts.embed(name)


if __name__ == "__main__":
    serve(OnnxRuntime())
