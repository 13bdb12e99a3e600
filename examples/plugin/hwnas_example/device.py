"""A new device is one class: what it is, and how it runs a model. The shared protocol does the timing."""

from __future__ import annotations

from importlib.metadata import version

import numpy as np

from hwnas.profilers.base import RuntimeProfiler
from hwnas.profilers.timing import Runner
from hwnas.spaces import ModelError

__all__ = ["CpuOnnxReference"]


class CpuOnnxReference(RuntimeProfiler):
    """Measures ONNX's reference evaluator: plain numpy, slow, and everywhere."""

    name = "cpu-onnxreference"
    device_class = "cpu"
    runtime = "onnx-reference"
    summary = "onnx's reference evaluator in numpy, measured"

    def runtime_version(self) -> str:
        return version("onnx")

    def load(self, data: bytes) -> Runner:
        import onnx
        from onnx.reference import ReferenceEvaluator

        try:
            loaded = onnx.load_model_from_string(data)
            session = ReferenceEvaluator(loaded)
        except Exception as error:  # protobuf's errors have no common base
            raise ModelError(f"onnx's reference evaluator cannot load the model: {error}") from error
        rng, feeds = np.random.default_rng(0), {}
        for port in loaded.graph.input:
            shape = [axis.dim_value or 1 for axis in port.type.tensor_type.shape.dim]
            feeds[port.name] = rng.standard_normal(shape, dtype=np.float32)

        def run() -> None:
            session.run(None, feeds)

        return run
