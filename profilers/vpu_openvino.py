"""``vpu-openvino``: an Intel NPU through OpenVINO. Never run on one: what is tested is its logic, on OpenVINO's CPU.

Device keys: ``vpu-openvino`` (float16, what an NPU computes in), with ``.int8`` (quantised models in QDQ form) and
``.b8``, ... (images at once). Latencies are of whole requests from this process's memory and back to it.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from hwnas.profilers.attribution import ExecutedNode
from hwnas.profilers.npu_compiler import own_library
from hwnas.profilers.openvino_profiler import OPERATORS, OpenVinoProfiler, plain_name

__all__ = ["VpuOpenVino"]

_DRIVER = "https://github.com/intel/linux-npu-driver/releases"
_WINDOWS = "install Intel's NPU driver for Windows, and see whether the device manager lists Intel AI Boost"


class VpuOpenVino(OpenVinoProfiler):
    """Measures on an Intel NPU with OpenVINO."""

    name = "vpu-openvino"
    device_class = "vpu"
    plugin = "NPU"
    summary = "an Intel NPU through OpenVINO, measured"
    precisions = ("float16", "int8")
    on_cpu = False
    #: Where Linux shows NPUs.
    nodes: Path = Path("/dev/accel")

    @classmethod
    def unavailable(cls) -> str | None:
        if reason := super().unavailable():
            return reason
        import openvino

        seen = openvino.Core().available_devices
        if any(name.split(".")[0] == cls.plugin for name in seen):
            return None
        return f"OpenVINO finds no Intel NPU (it finds {', '.join(seen) or 'nothing'}): {cls._lacking()}"

    @classmethod
    def _lacking(cls) -> str:
        """What the machine lacks, as far as that shows."""
        if not sys.platform.startswith("linux"):
            return _WINDOWS
        found = sorted(cls.nodes.glob("accel*"))
        if not found:
            return (
                f"there is no {cls.nodes}/accel0, so no NPU or no kernel driver; it takes an Intel Core Ultra and "
                "Linux 6.6 or newer with the module intel_vpu (try: modprobe intel_vpu)"
            )
        if not any(os.access(node, os.R_OK | os.W_OK) for node in found):
            return f"{found[0]} is closed to you; add yourself to its group (usermod -aG render USER), then log in anew"
        return (
            f"{found[0]} is there, but not Intel's driver beside it; install the packages intel-fw-npu, "
            f"intel-level-zero-npu and intel-driver-compiler-npu of {_DRIVER}, and the package libze1"
        )

    def hardware(self) -> str:
        return str(self._property("FULL_DEVICE_NAME"))

    def runtime_version(self) -> str:
        """OpenVINO's version and the driver's: latencies depend on both."""
        return f"{super().runtime_version()}, driver {self._property('NPU_DRIVER_VERSION')}"

    def _property(self, name: str) -> Any:
        import openvino

        return openvino.Core().get_property(self.plugin, name)

    def settings(self) -> dict[str, Any]:
        # the Linux wheel has no compiler of its own; then the driver's compiles
        return {"PERFORMANCE_HINT": "LATENCY", "NPU_COMPILER_TYPE": "PLUGIN" if own_library() else "DRIVER"}

    def executed(self, compiled: Any, counted: Iterable[Any]) -> Iterator[ExecutedNode]:
        """The layers that the NPU counts: its plug-in does not show the model that it runs."""
        for layer in counted:
            name = plain_name(layer.node_name)
            yield ExecutedNode(name, OPERATORS.get(layer.node_type, layer.node_type), (), (name,))
