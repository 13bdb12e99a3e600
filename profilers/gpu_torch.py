"""``gpu-torch``: an NVIDIA GPU through torch, timed by CUDA's own events.

Device keys: ``gpu-torch`` (float32, without TF32), with ``.float16`` (weights and activations) and ``.b8``, ... (images
at once). The model is built in torch from its ONNX file, batch norms folded as they are there. A latency is the time on
the GPU between two events, of the faster of two ways: kernels launched one by one, or replayed as a CUDA graph.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from hwnas.profilers.base import RuntimeProfiler
from hwnas.profilers.gpu_cuda import cuda_device, faster
from hwnas.profilers.model_io import first_line, random_input
from hwnas.profilers.timing import Runner
from hwnas.spaces.errors import DeviceUnavailable, ModelError
from hwnas.spaces.graph import Graph

__all__ = ["GpuTorch"]

#: Runs before a graph is recorded, in which libraries choose their kernels.
_WARM = 3


class GpuTorch(RuntimeProfiler):
    """Measures on an NVIDIA GPU with torch."""

    name = "gpu-torch"
    device_class = "gpu"
    runtime = "torch"
    summary = "an NVIDIA GPU through torch, measured by CUDA events"
    precisions = ("float32", "float16")
    on_cpu = False
    #: Where torch computes.
    device: ClassVar[str] = "cuda"

    @classmethod
    def unavailable(cls) -> str | None:
        # importing torch takes seconds, and listing devices must not
        found = find_spec("torch")
        if found is None or found.origin is None:
            return "torch is not installed; install it with: pip install torch"
        if not list((Path(found.origin).parent / "lib").glob("*torch_cuda*")):
            return "this build of torch has no CUDA; install one that has, see pytorch.org"
        if cuda_device() is None:
            return "there is no NVIDIA GPU, or its driver does not find it (nvidia-smi says more); install both"
        return None

    def runtime_version(self) -> str:
        return version("torch")

    def hardware(self) -> str:
        """Name of the GPU."""
        return cuda_device() or "no NVIDIA GPU"

    def load(self, data: bytes) -> Runner:
        if reason := self.unavailable():
            raise DeviceUnavailable(reason)
        import torch

        graph = Graph.from_onnx(data)
        if len(graph.outputs) != 1:
            raise ModelError(f"{self.name} runs models with one output, not {len(graph.outputs)}")
        # torch's own default rounds the inputs of convolutions to 19 bits
        torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
        kind = getattr(torch, self.precision)
        module = graph.to_module().eval().to(self.device, kind)
        rng = np.random.default_rng(0)
        arrays = [random_input(np.float32, shape, rng) for shape in graph.inputs.values()]
        inputs = [torch.from_numpy(array).to(self.device, kind) for array in arrays]

        @torch.inference_mode()
        def launch() -> None:
            module(*inputs)

        try:
            plain = _Timed(launch, torch.cuda)
            for _ in range(_WARM):
                plain()
        except RuntimeError as error:
            raise ModelError(f"torch cannot run the model: {first_line(error)}") from error
        try:
            recorded = _recorded(launch, torch.cuda)
        except RuntimeError:  # it cannot be recorded: a step waits for the GPU, say
            return plain
        return faster(plain, _Timed(recorded.replay, torch.cuda, launch))


def _recorded(launch: Callable[[], None], cuda: Any) -> Any:
    """What `launch` enqueues, as a CUDA graph; recorded off the default stream, as CUDA asks."""
    side = cuda.Stream()
    side.wait_stream(cuda.current_stream())
    with cuda.stream(side):
        for _ in range(_WARM):
            launch()
    cuda.current_stream().wait_stream(side)
    recorded = cuda.CUDAGraph()
    with cuda.graph(recorded):
        launch()
    return recorded


class _Timed:
    """Runs what `launch` enqueues, and has CUDA count its time; `owner` holds what a recorded graph reads."""

    def __init__(self, launch: Callable[[], None], cuda: Any, owner: Any = None) -> None:
        self._launch, self._cuda, self._owner = launch, cuda, owner

    def __call__(self) -> None:
        self._launch()
        self._cuda.synchronize()

    def device_ms(self, calls: int) -> float:
        """Milliseconds of one of so many calls in a row, by events on the stream before and after them."""
        start, end = (self._cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        for _ in range(calls):
            self._launch()
        end.record()
        end.synchronize()
        return float(start.elapsed_time(end)) / calls
