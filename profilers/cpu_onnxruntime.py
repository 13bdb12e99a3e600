"""``cpu-onnxruntime``: this machine's CPU through onnxruntime, all optimisations on.

Device keys: ``cpu-onnxruntime`` (float32, one thread, one image), with ``.int8`` (quantised models in QDQ form),
``.t2``, ``.t4``, ... (threads) and ``.b8``, ... (images at once). A model is run through an IO binding, which leaves
out the allocation of the result; calling an empty model still takes about two microseconds, which are subtracted.
"""

from __future__ import annotations

import json
import os
import tempfile
import time
from collections.abc import Collection
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np

from hwnas.profilers.attribution import attribute, divide
from hwnas.profilers.base import Model, RuntimeProfiler
from hwnas.profilers.model_io import first_line, load_model, model_nodes, random_input
from hwnas.profilers.protocol import Protocol
from hwnas.profilers.timing import Runner, pinned
from hwnas.spaces.errors import DeviceUnavailable, ModelError

__all__ = ["CpuOnnxRuntime"]

_DISTRIBUTIONS = ("onnxruntime", "onnxruntime-openvino", "onnxruntime-gpu", "onnxruntime-webgpu")
_MAX_PROFILE_BYTES = 256 * 1000 * 1000
#: The profiler writes whole microseconds, rounded down.
_ROUNDED_DOWN_US = 0.5


class CpuOnnxRuntime(RuntimeProfiler):
    """Measures on this machine's CPU with onnxruntime."""

    name = "cpu-onnxruntime"
    device_class = "cpu"
    runtime = "onnxruntime"
    summary = "this machine's CPU through onnxruntime, measured"
    precisions = ("float32", "int8")
    max_threads = max(1, os.cpu_count() or 1)

    @classmethod
    def unavailable(cls) -> str | None:
        try:
            import onnxruntime
        except ImportError as error:
            return f"onnxruntime cannot be imported ({error}); install it with: pip install onnxruntime"
        if "CPUExecutionProvider" not in onnxruntime.get_available_providers():
            return "this build of onnxruntime has no CPU provider; install it with: pip install onnxruntime"
        return None

    def runtime_version(self) -> str:
        """The installed version, with the distribution's name if it is another build than plain onnxruntime."""
        for distribution in _DISTRIBUTIONS:
            try:
                found = version(distribution)
            except PackageNotFoundError:
                continue
            return found if distribution == "onnxruntime" else f"{found} ({distribution})"
        import onnxruntime

        return str(onnxruntime.__version__)

    # ------------------------------------------------------------------ running

    def load(self, data: bytes) -> Runner:
        return self._runner(self._session(data))

    def _session(self, data: bytes, **settings: Any) -> Any:
        if reason := self.unavailable():
            raise DeviceUnavailable(reason)
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = self.threads
        options.inter_op_num_threads = 1
        options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
        options.log_severity_level = 4
        # worker threads may spin within a run, as in deployment, but not between runs:
        # there the workers of other open models would take the cores of the one being measured
        options.add_session_config_entry("session.force_spinning_stop", "1")
        for name, value in settings.items():
            setattr(options, name, value)
        try:
            return onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime's errors have no common base
            raise ModelError(f"onnxruntime cannot load the model: {first_line(error)}") from error

    def _runner(self, session: Any) -> Runner:
        """Bind fixed inputs and let onnxruntime keep the outputs."""
        binding = session.io_binding()
        rng = np.random.default_rng(0)
        kept = []  # the binding refers to these arrays without owning them
        for port in session.get_inputs():
            shape = [size if isinstance(size, int) and size > 0 else 1 for size in port.shape]
            if port.type not in _KINDS:
                reason = "which cannot be filled in; use a float or integer tensor"
                raise ModelError(f"the input {port.name!r} is {port.type}, {reason}")
            kept.append(random_input(_KINDS[port.type], shape, rng))
            binding.bind_cpu_input(port.name, kept[-1])
        for port in session.get_outputs():
            binding.bind_output(port.name, "cpu")

        def run(session: Any = session, binding: Any = binding, kept: Any = kept) -> None:  # noqa: ARG001
            session.run_with_iobinding(binding)

        try:
            run()
        except Exception as error:  # onnxruntime's errors have no common base
            raise ModelError(f"onnxruntime cannot run the model: {first_line(error)}") from error
        return run

    # ------------------------------------------------------------------ counters

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
        import onnx

        protocol = protocol or Protocol()
        data, seconds = self.prepared(model), protocol.counter_s
        given = load_model(data)
        with tempfile.TemporaryDirectory(prefix="hwnas-") as folder, pinned(self.cores(protocol)):
            optimised = Path(folder) / "optimised.onnx"
            session = self._session(
                data,
                enable_profiling=True,
                profile_file_prefix=str(Path(folder) / "profile"),
                optimized_model_filepath=str(optimised),
            )
            run = self._runner(session)
            start, warm = time.perf_counter(), 1
            while warm < 5 or time.perf_counter() - start < seconds / 4:
                run()
                warm += 1
            start, count = time.perf_counter(), 0
            while count < 20 or (count < 400 and time.perf_counter() - start < seconds):
                run()
                count += 1
            times = _kernel_times(Path(session.end_profiling()), skip=warm)
            executed = list(model_nodes(onnx.load_model(optimised, load_external_data=False)))
        return divide(times, attribute(model_nodes(given), executed, nodes), nodes)


def _kernel_times(path: Path, *, skip: int) -> dict[str, float]:
    """Microseconds of each executed node in an onnxruntime profile: the mean of the middle half of its runs."""
    if path.stat().st_size > _MAX_PROFILE_BYTES:
        raise ModelError(f"onnxruntime's profile is larger than {_MAX_PROFILE_BYTES // 1_000_000} MB")
    try:
        events = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError, RecursionError) as error:
        raise ModelError(f"onnxruntime's profile cannot be read: {error}") from error
    runs: dict[str, list[float]] = {}
    for event in events if isinstance(events, list) else []:
        if not isinstance(event, dict) or event.get("cat") != "Node":
            continue
        name, duration = event.get("name"), event.get("dur")
        if isinstance(name, str) and name.endswith("_kernel_time") and isinstance(duration, int) and duration >= 0:
            runs.setdefault(name.removesuffix("_kernel_time"), []).append(duration + _ROUNDED_DOWN_US)
    times = {}
    for name, durations in runs.items():
        ordered = np.sort(durations[skip:])
        quarter = len(ordered) // 4
        if len(ordered):
            times[name] = float(ordered[quarter : len(ordered) - quarter].mean())
    if not times:
        raise ModelError("onnxruntime counted no kernel of the model; it may be empty after optimisation")
    return times


_KINDS = {
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
    "tensor(double)": np.float64,
    "tensor(int8)": np.int8,
    "tensor(uint8)": np.uint8,
    "tensor(int32)": np.int32,
    "tensor(int64)": np.int64,
    "tensor(bool)": np.bool_,
}
