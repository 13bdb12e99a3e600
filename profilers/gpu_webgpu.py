"""``gpu-webgpu``: a GPU through onnxruntime's WebGPU provider, which reaches it by Vulkan.

Device keys: ``gpu-webgpu`` (float32, one image) and ``.b8``, ... (images at once). A latency is that of a synchronous
call: only a result in the CPU's memory is waited for, so the copies of input and output are in it.

An adapter that is a program on the CPU (SwiftShader, llvmpipe) computes the same numbers as a GPU, so `outputs` and
`open` take it, but how long it takes says nothing about any GPU: no latency and no share is given.
"""

from __future__ import annotations

from collections.abc import Collection, Hashable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from hwnas.profilers.attribution import ExecutedNode
from hwnas.profilers.base import Measurement, Model, ModelSource, PassLog, Progress
from hwnas.profilers.model_io import model_nodes
from hwnas.profilers.onnxruntime_model import middle
from hwnas.profilers.onnxruntime_session import OnnxRuntimeProfiler
from hwnas.profilers.protocol import Protocol
from hwnas.profilers.vulkan import adapters
from hwnas.spaces.errors import DeviceUnavailable

if TYPE_CHECKING:
    from onnx import ModelProto

__all__ = ["GpuWebGpu"]

Key = TypeVar("Key", bound=Hashable)

#: permutations of the layout changes that onnxruntime inserts, and what `attribute` calls these
_LAYOUTS = {(0, 2, 3, 1): "ReorderInput", (0, 3, 1, 2): "ReorderOutput"}


class GpuWebGpu(OnnxRuntimeProfiler):
    """Measures on a GPU with onnxruntime's WebGPU provider."""

    name = "gpu-webgpu"
    device_class = "gpu"
    summary = "a GPU through onnxruntime's WebGPU provider, measured"
    on_cpu = False
    provider = "WebGpuExecutionProvider"
    provider_words = "WebGPU"
    install = (
        "make a virtual environment for it, because it replaces onnxruntime, and there: "
        "pip uninstall onnxruntime && pip install onnxruntime-webgpu"
    )
    no_device = ("install a Vulkan driver that it takes", "Failed to get a WebGPU adapter")

    @classmethod
    def missing(cls) -> str | None:
        """None if models can be run here, on a software adapter at least; else one sentence saying what to install."""
        if reason := super().missing():
            return reason
        if not adapters():
            return "Vulkan finds no adapter; install libvulkan1 and the Vulkan driver of the GPU"
        return None

    @classmethod
    def refusal(cls) -> str | None:
        """None if what computes is a GPU for certain; else one sentence saying why no latency is given."""
        software = [adapter.name for adapter in adapters() if adapter.software]
        if not software:
            return None
        if len(software) == len(adapters()):
            return f"the adapter is {software[0]}, a program on the CPU, whose latencies mean nothing; use a GPU"
        return (
            f"onnxruntime does not say whether it takes the GPU or {software[0]}, a program on the CPU; "
            "set VK_DRIVER_FILES to the GPU's own file of /usr/share/vulkan/icd.d"
        )

    @classmethod
    def unavailable(cls) -> str | None:
        return cls.missing() or cls.refusal()

    def hardware(self) -> str:
        """Name of the adapter; of all, if there are several, as onnxruntime does not say which one it takes."""
        return " or ".join(adapter.name for adapter in adapters())

    def _require_gpu(self) -> None:
        if reason := self.refusal():
            raise DeviceUnavailable(f"{self.name} gives no latencies here: {reason}")

    def overhead_ms(self, protocol: Protocol | None = None) -> float:
        """What calling the runtime costs, milliseconds; raises `DeviceUnavailable` on a software adapter."""
        self._require_gpu()
        return super().overhead_ms(protocol)

    def measure_many(
        self,
        models: Mapping[Key, ModelSource],
        protocol: Protocol | None = None,
        *,
        progress: Progress | None = None,
        log: PassLog[Key] | None = None,
        deadline: float | None = None,
    ) -> Iterator[tuple[Key, Measurement]]:
        """Latencies of many models, see `RuntimeProfiler`; raises `DeviceUnavailable` on a software adapter."""
        self._require_gpu()
        return super().measure_many(models, protocol, progress=progress, log=log, deadline=deadline)

    def kernel_shares(
        self, model: Model, nodes: Collection[str] | None = None, protocol: Protocol | None = None
    ) -> dict[str, float] | None:
        """Divide the time of one inference among the kernels by the GPU's own time stamps.

        Parameters
        ----------
        model, nodes
            See `Profiler.kernel_shares`.
        protocol
            Says how long to count; at least 20 inferences and at most 400.

        Raises
        ------
        DeviceUnavailable
            On a software adapter.
        ModelError
            If onnxruntime refuses the model or its counters cannot be read.
        """
        self._require_gpu()
        return self._divided(model, nodes, protocol, _program_times, _executed)


def _program_times(events: list[dict[str, Any]], runs: int, skip: int) -> dict[str, float]:
    """Time of each executed node on the GPU: of all its programs, the mean of the middle half of the counted runs.

    Events of kind ``Api`` are programs, called ``node&operator&program``; what runs only once is not of the inference.
    """
    durations: dict[str, list[float]] = {}
    for event in events:
        if event.get("cat") == "Api" and event["name"].count("&") >= 2:
            durations.setdefault(event["name"].rsplit("&", 2)[0], []).append(event["dur"])
    times = {}
    for name, found in durations.items():
        if programs := len(found) // runs:
            counted = found[len(found) - programs * (runs - skip) :]
            times[name] = middle(np.reshape(counted, (-1, programs)).sum(axis=1).tolist())
    return times


def _executed(optimised: ModelProto, given: ModelProto) -> Iterable[ExecutedNode]:
    """The nodes that run; changes of layout that the given model does not have are marked as such."""
    names = {node.name for node in model_nodes(given)}
    for proto, node in zip(optimised.graph.node, model_nodes(optimised), strict=True):
        order = next((tuple(found.ints) for found in proto.attribute if found.name == "perm"), ())
        change = _LAYOUTS.get(order) if node.op == "Transpose" and node.name not in names else None
        yield ExecutedNode(node.name, change or node.op, node.inputs, node.outputs)
