"""One model in onnxruntime: its session, inputs bound to it, a run, and the counted times of its kernels.

It keeps to Python 3.8 and to what onnxruntime 1.16 has: it also runs on boards, see `hwnas.profilers.ssh_agent`.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Callable  # noqa: UP035 - the other one cannot be subscripted in Python 3.8

import numpy as np

from hwnas.profilers.model_io import first_line, random_input
from hwnas.spaces.errors import ModelError

__all__ = ["ROUNDED_DOWN_US", "bind", "count_kernels", "kernel_times", "make_runner", "middle", "open_session"]

#: The profiler writes whole microseconds, rounded down.
ROUNDED_DOWN_US = 0.5
_MAX_PROFILE_BYTES = 256 * 1000 * 1000
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


def open_session(
    data: bytes,
    provider: str,
    *,
    threads: int = 1,
    provider_options: Mapping[str, str] | None = None,
    settings: Mapping[str, Any] | None = None,
) -> Any:
    """A session on one provider with all optimisations on.

    Parameters
    ----------
    data
        The serialised model.
    provider, provider_options
        As onnxruntime calls them.
    threads
        Threads of one inference.
    settings
        Attributes of onnxruntime's ``SessionOptions`` that differ from the usual.

    Raises
    ------
    Exception
        Whatever onnxruntime raises: its errors have no common base.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.log_severity_level = 4
    # worker threads may spin within a run, as in deployment, but not between runs:
    # there the workers of other open models would take the cores of the one being measured
    options.add_session_config_entry("session.force_spinning_stop", "1")
    for name, value in (settings or {}).items():
        setattr(options, name, value)
    providers = [(provider, dict(provider_options or {}))]
    return onnxruntime.InferenceSession(data, options, providers=providers, enable_fallback=0)


def bind(session: Any, memory: str | None = None, outputs: Sequence[Any] | None = None) -> tuple[Any, list[Any]]:
    """Bind fixed inputs, and outputs that onnxruntime keeps or that are given.

    Parameters
    ----------
    session
        The model.
    memory
        Where inputs and outputs lie, as onnxruntime calls it; None for arrays of numpy.
    outputs
        Values of onnxruntime to write into.

    Returns
    -------
    tuple
        The binding, and what it refers to without owning it.

    Raises
    ------
    ModelError
        If an input is of a kind that cannot be filled in.
    """
    import onnxruntime

    binding = session.io_binding()
    rng = np.random.default_rng(0)
    kept: list[Any] = []
    for port in session.get_inputs():
        shape = [size if isinstance(size, int) and size > 0 else 1 for size in port.shape]
        if port.type not in _KINDS:
            reason = "which cannot be filled in; use a float or integer tensor"
            raise ModelError(f"the input {port.name!r} is {port.type}, {reason}")
        array = random_input(_KINDS[port.type], shape, rng)
        if memory is None:
            kept.append(array)
            binding.bind_cpu_input(port.name, array)
        else:
            kept.append(onnxruntime.OrtValue.ortvalue_from_numpy(array, memory, 0))
            binding.bind_ortvalue_input(port.name, kept[-1])
    for index, port in enumerate(session.get_outputs()):
        if outputs is None:
            binding.bind_output(port.name, memory or "cpu")
        else:
            kept.append(outputs[index])
            binding.bind_ortvalue_output(port.name, outputs[index])
    return binding, kept


def make_runner(session: Any, binding: Any, kept: list[Any]) -> Callable[[], None]:
    """What runs a bound session; run once, so that a failure shows here.

    Raises
    ------
    ModelError
        If onnxruntime cannot run the model.
    """

    def run(session: Any = session, binding: Any = binding, kept: Any = kept) -> None:  # noqa: ARG001
        session.run_with_iobinding(binding)

    try:
        run()
    except Exception as error:  # onnxruntime's errors have no common base
        raise ModelError(f"onnxruntime cannot run the model: {first_line(error)}") from error
    return run


# ---------------------------------------------------------------------- counters


def count_kernels(session: Any, run: Callable[[], object], seconds: float) -> tuple[list[dict[str, Any]], int, int]:
    """Run a session that profiles, and read its profile.

    Parameters
    ----------
    session
        A session with ``enable_profiling``.
    run
        What runs it, from `make_runner`.
    seconds
        How long to count: at least 20 inferences and at most 400, after a quarter of that to warm up.

    Returns
    -------
    tuple
        The profile's events that have a name and a duration, the number of runs in it, and how many of them to skip.

    Raises
    ------
    ModelError
        If the profile cannot be read.
    """
    start, warm = time.perf_counter(), 1
    while warm < 5 or time.perf_counter() - start < seconds / 4:
        run()
        warm += 1
    start, count = time.perf_counter(), 0
    while count < 20 or (count < 400 and time.perf_counter() - start < seconds):
        run()
        count += 1
    return _events(Path(session.end_profiling())), warm + count, warm


def kernel_times(events: list[dict[str, Any]], skip: int) -> dict[str, float]:
    """Microseconds of each node that the CPU ran: the mean of the middle half of its runs after the first `skip`."""
    ending = "_kernel_time"
    durations: dict[str, list[float]] = {}
    for event in events:
        name = event["name"]
        if event.get("cat") == "Node" and name.endswith(ending):
            durations.setdefault(name[: -len(ending)], []).append(event["dur"] + ROUNDED_DOWN_US)
    return {name: middle(found[skip:]) for name, found in durations.items() if len(found) > skip}


def middle(durations: Sequence[float]) -> float:
    """Mean of the middle half."""
    ordered = np.sort(durations)
    quarter = len(ordered) // 4
    return float(ordered[quarter : len(ordered) - quarter].mean())


def _events(path: Path) -> list[dict[str, Any]]:
    if path.stat().st_size > _MAX_PROFILE_BYTES:
        raise ModelError(f"onnxruntime's profile is larger than {_MAX_PROFILE_BYTES // 1_000_000} MB")
    try:
        events = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError, RecursionError) as error:
        raise ModelError(f"onnxruntime's profile cannot be read: {error}") from error
    return [
        event
        for event in (events if isinstance(events, list) else [])
        if isinstance(event, dict)
        and isinstance(event.get("name"), str)
        and isinstance(event.get("dur"), int)
        and event["dur"] >= 0
    ]
