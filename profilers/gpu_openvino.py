"""``gpu-openvino``: an Intel GPU through OpenVINO. Never run on one: what is tested is its logic, on OpenVINO's CPU.

Device keys: ``gpu-openvino`` (float16, what OpenVINO computes in on a GPU unless told otherwise), with ``.float32``,
``.int8`` (quantised models in QDQ form) and ``.b8``, ... (images at once). Latencies are of whole requests from this
process's memory and back to it.
"""

from __future__ import annotations

from typing import Any

from hwnas.profilers.openvino_profiler import OpenVinoProfiler

__all__ = ["GpuOpenVino"]


class GpuOpenVino(OpenVinoProfiler):
    """Measures on an Intel GPU with OpenVINO."""

    name = "gpu-openvino"
    device_class = "gpu"
    plugin = "GPU"
    summary = "an Intel GPU through OpenVINO, measured"
    precisions = ("float16", "float32", "int8")
    on_cpu = False

    @classmethod
    def unavailable(cls) -> str | None:
        if reason := super().unavailable():
            return reason
        import openvino

        seen = openvino.Core().available_devices
        if not any(name.split(".")[0] == cls.plugin for name in seen):
            return (
                f"OpenVINO finds no Intel GPU (it finds {', '.join(seen) or 'nothing'}); on Linux install the driver "
                "with: apt install intel-opencl-icd, and add yourself to the group render"
            )
        return None

    def hardware(self) -> str:
        import openvino

        return str(openvino.Core().get_property(self.plugin, "FULL_DEVICE_NAME"))

    def settings(self) -> dict[str, Any]:
        return {"NUM_STREAMS": 1, "INFERENCE_PRECISION_HINT": "f32" if self.precision == "float32" else "f16"}
