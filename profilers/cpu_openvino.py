"""``cpu-openvino``: this machine's CPU through OpenVINO.

Device keys: ``cpu-openvino`` (float32, one thread), with ``.bf16`` (OpenVINO's own default on CPUs that have it, so
what `compile_model` does unless told otherwise), ``.int8`` (quantised models in QDQ form), ``.t2``, ``.t4``, ...
(threads) and ``.b8``, ... (images at once). The precision hint is always set: without it the number format would
depend on the CPU.
"""

from __future__ import annotations

import os
from typing import Any

from hwnas.profilers.openvino_profiler import OpenVinoProfiler

__all__ = ["CpuOpenVino"]


class CpuOpenVino(OpenVinoProfiler):
    """Measures on this machine's CPU with OpenVINO."""

    name = "cpu-openvino"
    device_class = "cpu"
    plugin = "CPU"
    summary = "this machine's CPU through OpenVINO, measured"
    precisions = ("float32", "bf16", "int8")
    max_threads = max(1, os.cpu_count() or 1)

    def settings(self) -> dict[str, Any]:
        return {
            "INFERENCE_NUM_THREADS": self.threads,
            "NUM_STREAMS": 1,
            "INFERENCE_PRECISION_HINT": "bf16" if self.precision == "bf16" else "f32",
            # the protocol pins: OpenVINO's own pinning would undo that
            "ENABLE_CPU_PINNING": False,
        }
