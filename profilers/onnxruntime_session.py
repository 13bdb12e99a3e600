"""What the devices of onnxruntime share: a session on one provider, inputs bound to it, and its profile."""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from hwnas.profilers.attribution import ExecutedNode, attribute, divide
from hwnas.profilers.base import Model, RuntimeProfiler
from hwnas.profilers.model_io import first_line, load_model, model_nodes, random_input
from hwnas.profilers.protocol import Protocol
from hwnas.profilers.timing import Runner, pinned
from hwnas.spaces.errors import DeviceUnavailable, ModelError

if TYPE_CHECKING:
    from onnx import ModelProto

__all__ = ["OnnxRuntimeProfiler", "middle"]

_DISTRIBUTIONS = ("onnxruntime", "onnxruntime-openvino", "onnxruntime-gpu", "onnxruntime-webgpu")
_MAX_PROFILE_BYTES = 256 * 1000 * 1000


class OnnxRuntimeProfiler(RuntimeProfiler):
    """Runs models through one provider of onnxruntime; a session that fell back to another one is refused.

    A subclass names the provider, and adds what else can be missing to `missing`.
    """

    runtime = "onnxruntime"
    #: The provider that must compute, as onnxruntime calls it.
    provider: ClassVar[str]
    #: The same in words.
    provider_words: ClassVar[str]
    #: What to do if the installed onnxruntime does not have it.
    install: ClassVar[str]
    #: What to do if it is there but finds no device, and what onnxruntime's error says then.
    no_device: ClassVar[tuple[str, str]] = ("", "")
    #: Where inputs and outputs lie, as onnxruntime calls it; None for arrays of numpy.
    memory: ClassVar[str | None] = None

    @classmethod
    def missing(cls) -> str | None:
        """None if models can be run here; else one sentence saying what to install or plug in."""
        try:
            import onnxruntime
        except ImportError as error:
            return f"onnxruntime cannot be imported ({error}); {cls.install}"
        if cls.provider not in onnxruntime.get_available_providers():
            return f"this build of onnxruntime has no {cls.provider_words} provider; {cls.install}"
        return None

    @classmethod
    def unavailable(cls) -> str | None:
        return cls.missing()

    def runtime_version(self) -> str:
        """The installed version, with the distribution's name if it is another build than plain onnxruntime."""
        import onnxruntime

        for distribution in _DISTRIBUTIONS:
            try:
                found = version(distribution)
            except PackageNotFoundError:
                continue
            if found == onnxruntime.__version__:
                return found if distribution == "onnxruntime" else f"{found} ({distribution})"
        return str(onnxruntime.__version__)

    # ------------------------------------------------------------------ running

    def load(self, data: bytes) -> Runner:
        session = self._session(data)
        return self._runner(session, *self._bound(session))

    def outputs(self, model: Model, feeds: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        """What the model computes on this device, in the order of its outputs.

        Parameters
        ----------
        model
            The model; it gets this device's batch.
        feeds
            Arrays by name of the input.

        Raises
        ------
        ModelError
            If onnxruntime refuses the model or the arrays.
        """
        session = self._session(self.prepared(model))
        try:
            return list(session.run(None, dict(feeds)))
        except Exception as error:  # onnxruntime's errors have no common base
            raise ModelError(f"onnxruntime cannot run the model: {first_line(error)}") from error

    def _session(self, data: bytes, provider_options: Mapping[str, str] | None = None, **settings: Any) -> Any:
        if reason := self.missing():
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
        providers = [(self.provider, dict(provider_options or {}))]
        mend, sign = self.no_device
        try:
            session = onnxruntime.InferenceSession(data, options, providers=providers, enable_fallback=0)
        except Exception as error:  # onnxruntime's errors have no common base
            if sign and sign in str(error):
                raise DeviceUnavailable(f"the {self.provider_words} provider finds no device; {mend}") from error
            raise ModelError(f"onnxruntime cannot load the model: {first_line(error)}") from error
        # not every provider that cannot be used is an error: some are silently left out
        if (used := session.get_providers()[0]) != self.provider:
            raise DeviceUnavailable(f"onnxruntime gave up the {self.provider_words} provider for {used}; {mend}")
        return session

    def _bound(self, session: Any, outputs: Sequence[Any] | None = None) -> tuple[Any, list[Any]]:
        """Fixed inputs, and outputs that onnxruntime keeps or that are given: the binding, and what it refers to."""
        import onnxruntime

        binding = session.io_binding()
        rng = np.random.default_rng(0)
        kept: list[Any] = []  # the binding refers to these without owning them
        for port in session.get_inputs():
            shape = [size if isinstance(size, int) and size > 0 else 1 for size in port.shape]
            if port.type not in _KINDS:
                reason = "which cannot be filled in; use a float or integer tensor"
                raise ModelError(f"the input {port.name!r} is {port.type}, {reason}")
            array = random_input(_KINDS[port.type], shape, rng)
            if self.memory is None:
                kept.append(array)
                binding.bind_cpu_input(port.name, array)
            else:
                kept.append(onnxruntime.OrtValue.ortvalue_from_numpy(array, self.memory, 0))
                binding.bind_ortvalue_input(port.name, kept[-1])
        for index, port in enumerate(session.get_outputs()):
            if outputs is None:
                binding.bind_output(port.name, self.memory or "cpu")
            else:
                kept.append(outputs[index])
                binding.bind_ortvalue_output(port.name, outputs[index])
        return binding, kept

    def _runner(self, session: Any, binding: Any, kept: list[Any]) -> Runner:
        """What runs a bound session; run once, so that a failure shows here."""

        def run(session: Any = session, binding: Any = binding, kept: Any = kept) -> None:  # noqa: ARG001
            session.run_with_iobinding(binding)

        try:
            run()
        except Exception as error:  # onnxruntime's errors have no common base
            raise ModelError(f"onnxruntime cannot run the model: {first_line(error)}") from error
        return run

    # ------------------------------------------------------------------ counters

    def _divided(
        self,
        model: Model,
        nodes: Collection[str] | None,
        protocol: Protocol | None,
        times: Callable[[list[dict[str, Any]], int, int], dict[str, float]],
        executed: Callable[[ModelProto, ModelProto], Iterable[ExecutedNode]],
    ) -> dict[str, float]:
        """Divide the time of one inference among the kernels by onnxruntime's profile.

        Parameters
        ----------
        model, nodes, protocol
            See `Profiler.kernel_shares`; at least 20 inferences are counted and at most 400.
        times
            From the events of a profile, the number of runs in it and of those before counting: the time of each
            executed node.
        executed
            The executed nodes, from the model as optimised and as given.

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
            run = self._runner(session, *self._bound(session))
            start, warm = time.perf_counter(), 1
            while warm < 5 or time.perf_counter() - start < seconds / 4:
                run()
                warm += 1
            start, count = time.perf_counter(), 0
            while count < 20 or (count < 400 and time.perf_counter() - start < seconds):
                run()
                count += 1
            counted = times(_events(Path(session.end_profiling())), warm + count, warm)
            nodes_run = list(executed(onnx.load_model(optimised, load_external_data=False), given))
        if not counted:
            raise ModelError("onnxruntime counted no kernel of the model; it may be empty after optimisation")
        return divide(counted, attribute(model_nodes(given), nodes_run, nodes), nodes)


def middle(durations: Sequence[float]) -> float:
    """Mean of the middle half."""
    ordered = np.sort(durations)
    quarter = len(ordered) // 4
    return float(ordered[quarter : len(ordered) - quarter].mean())


def _events(path: Path) -> list[dict[str, Any]]:
    """The events of an onnxruntime profile that have a name and a duration."""
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
