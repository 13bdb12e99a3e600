"""A new device is one class: what it is, and how it runs a model. The shared protocol does the timing."""

from __future__ import annotations

from dataclasses import asdict
from importlib.metadata import version

import numpy as np

from hwnas.latency_tables import DeviceRecord, host_facts
from hwnas.profilers.base import Model, RuntimeProfiler, as_bytes
from hwnas.profilers.protocol import Protocol
from hwnas.profilers.timing import Runner
from hwnas.spaces import ModelError

__all__ = ["CpuOnnxReference"]


class CpuOnnxReference(RuntimeProfiler):
    """Measures ONNX's reference evaluator: plain numpy, slow, and everywhere."""

    name = "cpu-onnxreference"
    device_class = "cpu"
    summary = "onnx's reference evaluator in numpy, measured"

    def device_record(self, protocol: Protocol | None = None) -> DeviceRecord:
        facts = host_facts()
        return DeviceRecord(
            key=self.key,
            name=str(facts["cpu"]),
            device_class=self.device_class,
            runtime="onnx-reference",
            runtime_version=version("onnx"),
            precision=self.precision,
            threads=self.threads,
            batch=1,
            method=self.method,
            host=facts,
            protocol=asdict(protocol or Protocol()),
        )

    def open(self, model: Model) -> Runner:
        import onnx
        from onnx.reference import ReferenceEvaluator

        try:
            loaded = onnx.load_model_from_string(as_bytes(model))
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
