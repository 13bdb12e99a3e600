"""``cpu-onnxruntime``: this machine's CPU through onnxruntime, all optimisations on.

Device keys: ``cpu-onnxruntime`` (float32, one thread, one image), with ``.int8`` (quantised models in QDQ form),
``.t2``, ``.t4``, ... (threads) and ``.b8``, ... (images at once). A model is run through an IO binding, which leaves
out the allocation of the result; calling an empty model still takes about two microseconds, which are subtracted.
"""

from __future__ import annotations

import os
from collections.abc import Collection

from hwnas.profilers.base import Model
from hwnas.profilers.model_io import model_nodes
from hwnas.profilers.onnxruntime_model import kernel_times
from hwnas.profilers.onnxruntime_session import OnnxRuntimeProfiler
from hwnas.profilers.protocol import Protocol

__all__ = ["CpuOnnxRuntime"]


class CpuOnnxRuntime(OnnxRuntimeProfiler):
    """Measures on this machine's CPU with onnxruntime."""

    name = "cpu-onnxruntime"
    device_class = "cpu"
    summary = "this machine's CPU through onnxruntime, measured"
    precisions = ("float32", "int8")
    max_threads = max(1, os.cpu_count() or 1)
    provider = "CPUExecutionProvider"
    provider_words = "CPU"
    install = "install it with: pip install onnxruntime"

    def kernel_shares(
        self, model: Model, nodes: Collection[str] | None = None, protocol: Protocol | None = None
    ) -> dict[str, float] | None:
        """Divide the time of one inference among the kernels by onnxruntime's own per-node counters.

        The counters lengthen a run by 10 to 50 %, so their shares are used and never their times.

        Parameters
        ----------
        model
            The model.
        nodes
            Names to divide the time among, see `Profiler.kernel_shares`.
        protocol
            Says on which cores and how long to count; at least 20 inferences and at most 400.

        Raises
        ------
        ModelError
            If onnxruntime refuses the model or its counters cannot be read.
        """
        return self._divided(
            model,
            nodes,
            protocol,
            lambda events, _, skip: kernel_times(events, skip),
            lambda optimised, _: model_nodes(optimised),
        )
