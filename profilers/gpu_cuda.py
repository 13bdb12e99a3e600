"""``gpu-cuda``: an NVIDIA GPU through onnxruntime's CUDA provider.

Device keys: ``gpu-cuda`` (float32), with ``.tf32`` (onnxruntime's own default on GPUs that have it: products of 19-bit
numbers) and ``.b8``, ... (images at once). Inputs and outputs stay on the GPU. A latency is the wall time of a run that
waits for its result, of the faster of two ways: kernels launched one by one, or all at once as a CUDA graph.
"""

from __future__ import annotations

import ctypes
import time
from collections.abc import Mapping
from contextlib import redirect_stdout
from io import StringIO
from typing import Any

from hwnas.profilers.model_io import first_line
from hwnas.profilers.onnxruntime_session import OnnxRuntimeProfiler
from hwnas.profilers.timing import Runner
from hwnas.spaces.errors import ModelError

__all__ = ["GpuCuda", "cuda_device", "faster"]

#: Seconds of trying each of two ways.
_TRIAL_S = 0.05


class GpuCuda(OnnxRuntimeProfiler):
    """Measures on an NVIDIA GPU with onnxruntime's CUDA provider."""

    name = "gpu-cuda"
    device_class = "gpu"
    summary = "an NVIDIA GPU through onnxruntime's CUDA provider, measured"
    precisions = ("float32", "tf32")
    on_cpu = False
    provider = "CUDAExecutionProvider"
    provider_words = "CUDA"
    install = (
        "make a virtual environment for it, because it replaces onnxruntime, and there: "
        "pip uninstall onnxruntime && pip install 'onnxruntime-gpu[cuda,cudnn]'"
    )
    no_device = (
        "install CUDA and cuDNN with: pip install 'onnxruntime-gpu[cuda,cudnn]', and a driver new enough for them",
        "CUDA driver version is insufficient",
    )
    memory = "cuda"

    @classmethod
    def missing(cls) -> str | None:
        """None if there is a provider, a driver and a GPU; else one sentence saying what to install or plug in."""
        if reason := super().missing():
            return reason
        if cuda_device() is None:
            return "there is no NVIDIA GPU, or its driver does not find it (nvidia-smi says more); install both"
        return None

    def hardware(self) -> str:
        """Name of the GPU."""
        return cuda_device() or "no NVIDIA GPU"

    def load(self, data: bytes) -> Runner:
        session = self._session(data)
        binding, kept = self._bound(session)
        plain = self._runner(session, binding, kept)
        try:
            # a graph needs its tensors at fixed places: those that the run before has made
            recorded = self._session(data, {"enable_cuda_graph": "1"})
            graph = self._runner(recorded, *self._bound(recorded, binding.get_outputs()))
        except ModelError:  # it cannot be recorded: a node on the CPU, say, or control flow
            return plain
        return faster(plain, graph)

    def _session(self, data: bytes, provider_options: Mapping[str, str] | None = None, **settings: Any) -> Any:
        if self.missing() is None:
            _preload()
        options = {"use_tf32": "1" if self.precision == "tf32" else "0", **(provider_options or {})}
        return super()._session(data, options, **settings)

    def _runner(self, session: Any, binding: Any, kept: list[Any]) -> Runner:
        def run(session: Any = session, binding: Any = binding, kept: Any = kept) -> None:  # noqa: ARG001
            session.run_with_iobinding(binding)
            binding.synchronize_outputs()

        try:
            for _ in range(3):  # the first runs tune and record
                run()
        except Exception as error:  # onnxruntime's errors have no common base
            raise ModelError(f"onnxruntime cannot run the model: {first_line(error)}") from error
        return run


def faster(*ways: Runner, seconds: float = _TRIAL_S) -> Runner:
    """The way whose quickest of some calls is the quickest; each is tried for `seconds`, at least five times."""

    def quickest(runner: Runner) -> float:
        times: list[float] = []
        start = time.perf_counter()
        while len(times) < 5 or time.perf_counter() - start < seconds:
            before = time.perf_counter()
            runner()
            times.append(time.perf_counter() - before)
        return min(times)

    return min(ways, key=quickest)


def cuda_device() -> str | None:
    """Name of the first GPU that NVIDIA's driver finds; None without a driver or GPU."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return None
    device, name = ctypes.c_int(), ctypes.create_string_buffer(256)
    if driver.cuInit(0) or driver.cuDeviceGet(ctypes.byref(device), 0) or driver.cuDeviceGetName(name, 256, device):
        return None
    return name.value.decode("utf-8", "replace")


def _preload() -> None:
    """Have onnxruntime load CUDA from pip's packages; what it prints if they are not there is said by the session."""
    import onnxruntime

    if hasattr(onnxruntime, "preload_dlls"):
        with redirect_stdout(StringIO()):
            onnxruntime.preload_dlls()
