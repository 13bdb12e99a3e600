"""What the devices that OpenVINO drives have in common: one class a plug-in is left to write."""

from __future__ import annotations

import time
from abc import abstractmethod
from collections.abc import Collection, Iterable, Iterator
from importlib.metadata import PackageNotFoundError, version
from typing import Any, ClassVar

import numpy as np

from hwnas.profilers.attribution import ExecutedNode, attribute, divide
from hwnas.profilers.base import Model, RuntimeProfiler
from hwnas.profilers.model_io import first_line, load_model, model_nodes, random_input
from hwnas.profilers.protocol import Protocol
from hwnas.profilers.timing import Runner, pinned
from hwnas.spaces.errors import DeviceUnavailable, ModelError

__all__ = ["OPERATORS", "OpenVinoProfiler", "plain_name"]

#: what OpenVINO appends to the name of a node whose bias or activation it has taken in
_TAKEN_IN = "/WithoutBiases"
#: OpenVINO's layer types, by the operators that they compute
OPERATORS = {"Convolution": "Conv", "GroupConvolution": "Conv", "FullyConnected": "MatMul", "Convert": "Cast"}
#: layouts in the names of reorders: plain, and the fast one with the channels last
_PLAIN = "_abcd_"


class OpenVinoProfiler(RuntimeProfiler):
    """Measures with one of OpenVINO's plug-ins: a subclass names it and says how it is set."""

    runtime = "openvino"
    #: OpenVINO's name of the device, such as ``CPU``.
    plugin: ClassVar[str]

    @abstractmethod
    def settings(self) -> dict[str, Any]:
        """What the plug-in is told when it compiles a model."""

    @classmethod
    def unavailable(cls) -> str | None:
        try:
            version("openvino")
        except PackageNotFoundError:
            return "OpenVINO is not installed; install it with: pip install 'hwnas[openvino]'"
        return None

    def runtime_version(self) -> str:
        return version("openvino")

    # ------------------------------------------------------------------ running

    def load(self, data: bytes) -> Runner:
        return self._request(self._compile(data)).infer  # type: ignore[no-any-return]

    def _compile(self, data: bytes, **settings: Any) -> Any:
        if reason := self.unavailable():
            raise DeviceUnavailable(reason)
        import openvino

        core = openvino.Core()
        try:
            read = core.read_model(data, b"")
            if read.is_dynamic():
                sizes = {port: [1 if size.is_dynamic else size for size in port.partial_shape] for port in read.inputs}
                read.reshape(sizes)
            return core.compile_model(read, self.plugin, {**self.settings(), **settings})
        except Exception as error:  # OpenVINO's errors are RuntimeErrors of many texts
            raise ModelError(f"OpenVINO cannot compile the model: {_reason(error)}") from error

    def _request(self, compiled: Any) -> Any:
        """A request whose inputs are filled in; run once, so that a failure shows here."""
        import openvino

        request = compiled.create_infer_request()
        rng = np.random.default_rng(0)
        for port in compiled.inputs:
            kind = port.get_element_type().to_dtype()
            request.set_tensor(port, openvino.Tensor(random_input(kind, tuple(port.shape), rng)))
        try:
            request.infer()
        except Exception as error:  # OpenVINO's errors are RuntimeErrors of many texts
            raise ModelError(f"OpenVINO cannot run the model: {_reason(error)}") from error
        return request

    # ------------------------------------------------------------------ counters

    def kernel_shares(
        self, model: Model, nodes: Collection[str] | None = None, protocol: Protocol | None = None
    ) -> dict[str, float] | None:
        """Divide the time of one inference among the kernels by OpenVINO's own per-layer counters.

        They count whole microseconds, so short kernels are only seen on average.

        Parameters
        ----------
        model, nodes
            See `Profiler.kernel_shares`.
        protocol
            Says on which cores and how long to count; at least 20 inferences and at most 400.

        Raises
        ------
        ModelError
            If OpenVINO refuses the model or its counters cannot be traced back.
        """
        protocol = protocol or Protocol()
        data, seconds = self.prepared(model), protocol.counter_s
        with pinned(self.cores(protocol)):
            compiled = self._compile(data, PERF_COUNT=True)
            request = self._request(compiled)
            start, warm = time.perf_counter(), 1
            while warm < 5 or time.perf_counter() - start < seconds / 4:
                request.infer()
                warm += 1
            runs: dict[str, list[float]] = {}
            start, count = time.perf_counter(), 0
            while count < 20 or (count < 400 and time.perf_counter() - start < seconds):
                request.infer()
                counted = request.get_profiling_info()
                for layer in counted:
                    runs.setdefault(plain_name(layer.node_name), []).append(layer.real_time.total_seconds() * 1e6)
                count += 1
        times = {name: _middle(durations) for name, durations in runs.items()}
        executed = list(self.executed(compiled, counted))
        return divide(times, attribute(model_nodes(load_model(data)), executed, nodes), nodes)

    def executed(self, compiled: Any, counted: Iterable[Any]) -> Iterator[ExecutedNode]:
        """The layers that run, in order: of a compiled model, and of what its plug-in counted in one inference."""
        return _layers(compiled.get_runtime_model())


def _layers(model: Any) -> Iterator[ExecutedNode]:
    """The layers that OpenVINO runs, with the names of the given nodes where it kept them."""
    for layer in model.get_ordered_ops():
        name = layer.get_friendly_name()
        kind = str(layer.get_rt_info()["layerType"].value if "layerType" in layer.get_rt_info() else "")
        if kind == "Const":
            continue
        if kind == "Reorder":  # into the fast layout, or out of it
            kind = "ReorderInput" if _PLAIN in name and name.index(_PLAIN) < len(name) / 2 else "ReorderOutput"
        reads = tuple(plain_name(port.get_node().get_friendly_name()) for port in layer.input_values())
        yield ExecutedNode(plain_name(name), OPERATORS.get(kind, kind), reads, (plain_name(name),))


def plain_name(name: str) -> str:
    """The node of the given model that a layer, or a task of it (``layer?t_Type/...``), is named after."""
    return name.partition("?")[0].removesuffix(_TAKEN_IN)


def _middle(durations: list[float]) -> float:
    """Mean of the middle half."""
    ordered = np.sort(durations)
    quarter = len(ordered) // 4
    return float(ordered[quarter : len(ordered) - quarter].mean())


def _reason(error: Exception) -> str:
    """The last line of OpenVINO's errors says what is wrong; the lines before say where in its source."""
    lines = [line for line in str(error).strip().splitlines() if line.strip()]
    return lines[-1][:300] if lines else first_line(error)
