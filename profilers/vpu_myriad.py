"""``vpu-myriad``: an Intel Myriad X (a Neural Compute Stick 2) through OpenVINO 2021.4, in an old Python of its own.

Never run on a stick: what is tested is its logic, with the same worker on that OpenVINO's CPU.

Device keys: ``vpu-myriad`` (float16, all that it computes in) and ``.b2``, ... (images at once). The environment
variable ``HWNAS_MYRIAD_PYTHON`` names a Python that has ``openvino==2021.4.2``. Latencies are of whole requests from
the worker's memory and back to it, by the worker's clock.
"""

from __future__ import annotations

import os
import tempfile
import weakref
from collections import deque
from collections.abc import Collection, Hashable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import numpy as np

from hwnas.profilers.attribution import ExecutedNode, attribute, divide
from hwnas.profilers.base import Measurement, Model, ModelSource, PassLog, Progress, RuntimeProfiler
from hwnas.profilers.model_io import fixed_sizes, load_model, model_nodes
from hwnas.profilers.protocol import Protocol
from hwnas.profilers.timing import Runner
from hwnas.profilers.worker_process import WorkerProcess
from hwnas.spaces.errors import DeviceUnavailable, ModelError

__all__ = ["VpuMyriad"]

Key = TypeVar("Key", bound=Hashable)

PYTHON = "HWNAS_MYRIAD_PYTHON"
#: A stick is started and a network compiled for it in a few seconds.
LIMIT_S = 120.0
_WORKER = Path(__file__).with_name("myriad_worker.py")
_INSTALL = (
    "make an environment of Python 3.7 to 3.9 with: uv venv --python 3.8 myriad && uv pip install --python "
    f"myriad/bin/python openvino==2021.4.2, then: export {PYTHON}=$PWD/myriad/bin/python"
)
_PLUG_IN = "plug in the stick, with libusb-1.0-0 and, unless you are root, Intel's udev rules for it installed"
#: ONNX operator sets after this one change operators that OpenVINO 2021.4, whose own last one is 13, would misread
_OPSET = 17
#: A Myriad X holds about ten networks; the reference model and the empty one are two of them.
_OPEN = 6
#: layers that only hold numbers
_NO_WORK = ("Const", "Input", "Output", "Parameter", "Result")
#: OpenVINO's layer types, by the operators that they compute
_OPERATORS = {"Convolution": "Conv", "GroupConvolution": "Conv", "FullyConnected": "MatMul"}


class VpuMyriad(RuntimeProfiler):
    """Measures on a Myriad X with OpenVINO 2021.4.

    Parameters
    ----------
    precision, threads, batch
        See `Profiler`.
    python
        The Python that has OpenVINO 2021.4; by default what ``HWNAS_MYRIAD_PYTHON`` names.
    """

    name = "vpu-myriad"
    device_class = "vpu"
    runtime = "openvino"
    summary = "an Intel Myriad X (NCS2) through OpenVINO 2021.4, measured"
    precisions = ("float16",)
    on_cpu = False
    #: OpenVINO's name of the device.
    plugin: ClassVar[str] = "MYRIAD"
    #: One inference at a time, with all of its vector processors: by default two share them.
    settings: ClassVar[dict[str, str]] = {"MYRIAD_THROUGHPUT_STREAMS": "1"}

    def __init__(
        self, *, precision: str | None = None, threads: int = 1, batch: int = 1, python: str | None = None
    ) -> None:
        super().__init__(precision=precision, threads=threads, batch=batch)
        self.python = python
        self._worker: _Worker | None = None

    @classmethod
    def unavailable(cls, python: str | None = None) -> str | None:
        """None if a Myriad X can be used with this Python; else one sentence saying what to install or plug in."""
        try:
            facts = _facts(_started(python), cls.plugin)
        except DeviceUnavailable as error:
            return str(error)
        if not facts["name"]:
            return f"OpenVINO finds no Myriad X (it finds {', '.join(facts['devices']) or 'nothing'}); {_PLUG_IN}"
        return None

    # ------------------------------------------------------------------ what it is

    def runtime_version(self) -> str:
        return str(_facts(self._running(), self.plugin)["openvino"]).split("-")[0]

    def hardware(self) -> str:
        return str(_facts(self._running(), self.plugin)["name"])

    # ------------------------------------------------------------------ running

    def load(self, data: bytes) -> Runner:
        return _Loaded(self, data)

    def measure_many(
        self,
        models: Mapping[Key, ModelSource],
        protocol: Protocol | None = None,
        *,
        progress: Progress | None = None,
        log: PassLog[Key] | None = None,
        deadline: float | None = None,
    ) -> Iterator[tuple[Key, Measurement]]:
        """Latencies of many models, see `RuntimeProfiler`; as many in turns as the device holds."""
        settings = protocol or Protocol()
        together = (_OPEN + 0.5) * settings.passes * max(1e-3, settings.warmup_s + settings.pass_s)
        settings = replace(
            settings,
            open_models=min(_OPEN, settings.open_models),
            interleave_s=min(together, settings.interleave_s),
        )
        return super().measure_many(models, settings, progress=progress, log=log, deadline=deadline)

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
            If OpenVINO refuses the model or the arrays.
        """
        loaded = _Loaded(self, self.prepared(model))
        with tempfile.TemporaryDirectory(prefix="hwnas-") as folder:
            given, found = Path(folder) / "inputs.npz", Path(folder) / "outputs.npz"
            save: Any = np.savez  # its type takes no names of arrays
            save(given, **feeds)
            loaded.ask("outputs", inputs=str(given), outputs=str(found))
            with np.load(found, allow_pickle=False) as arrays:
                return [arrays[output.name] for output in load_model(loaded.data).graph.output]

    def kernel_shares(
        self, model: Model, nodes: Collection[str] | None = None, protocol: Protocol | None = None
    ) -> dict[str, float] | None:
        """Divide the time of one inference among the kernels by the device's own counters of layers.

        Parameters
        ----------
        model, nodes
            See `Profiler.kernel_shares`.
        protocol
            Says how long to count; at least 20 inferences and at most 400.

        Raises
        ------
        ModelError
            If OpenVINO refuses the model or its counters cannot be traced back.
        """
        loaded = _Loaded(self, self.prepared(model), {"PERF_COUNT": "YES"})
        shortest = min(loaded.device_ms(1) for _ in range(5))
        calls = round((protocol or Protocol()).counter_s * 1e3 / max(shortest, 1e-3))
        layers = loaded.ask("layers", calls=min(400, max(20, calls)))["layers"]
        times, executed = {}, []
        for layer in layers:
            if layer["type"] not in _NO_WORK:
                times[layer["name"]] = float(np.median(layer["us"])) if layer["us"] else 0.0
                kind = _OPERATORS.get(layer["type"], layer["type"])
                # what it was made of stands for what it writes: the last of these is its output
                executed.append(ExecutedNode(layer["name"], kind, tuple(layer["reads"]), tuple(layer["of"])))
        return divide(times, attribute(model_nodes(load_model(loaded.data)), executed, nodes), nodes)

    # ------------------------------------------------------------------ the worker

    def _running(self) -> _Worker:
        if self._worker is None or not self._worker.alive:
            self._worker = _started(self.python)
        return self._worker


class _Worker(WorkerProcess):
    """The process, and the handles of models that it may close."""

    def __init__(self, python: str) -> None:
        # isolated: variables and folders that are meant for this Python are not for that one
        super().__init__([python, "-I", str(_WORKER)], LIMIT_S)
        self.dropped: deque[int] = deque()

    def ask(self, question: Mapping[str, Any]) -> dict[str, Any]:
        drop = [self.dropped.popleft() for _ in range(len(self.dropped))]
        return super().ask({**question, "drop": drop})


class _Loaded:
    """One model in the worker, loaded again if the worker had to be replaced."""

    def __init__(self, owner: VpuMyriad, data: bytes, settings: Mapping[str, str] | None = None) -> None:
        self.data = fixed_sizes(_readable(data))
        self._owner, self._settings = owner, {**owner.settings, **(settings or {})}
        self._load()

    def _load(self) -> None:
        self._worker = self._owner._running()
        with tempfile.TemporaryDirectory(prefix="hwnas-") as folder:
            file = Path(folder) / "model.onnx"
            file.write_bytes(self.data)
            asked = {"do": "load", "model": str(file), "device": self._owner.plugin, "settings": self._settings}
            self._handle = int(_answer(self._worker, asked, "take")["handle"])
        weakref.finalize(self, self._worker.dropped.append, self._handle)

    def ask(self, do: str, **details: Any) -> dict[str, Any]:
        if not self._worker.alive:
            self._load()
        return _answer(self._worker, {"do": do, "handle": self._handle, **details}, "run")

    def __call__(self) -> None:
        self.device_ms(1)

    def device_ms(self, calls: int) -> float:
        """Milliseconds an inference, by the worker's clock: the way to the worker does not count."""
        return float(self.ask("time", calls=calls)["ms"])


def _answer(worker: _Worker, asked: Mapping[str, Any], verb: str) -> dict[str, Any]:
    answer = worker.ask(asked)
    if "error" in answer:
        lines = [line for line in str(answer["error"]).splitlines() if line.strip()]
        raise ModelError(f"OpenVINO 2021.4 cannot {verb} the model: {lines[-1].strip()[:300]}")
    return answer


def _readable(data: bytes) -> bytes:
    """The model, if OpenVINO 2021.4 would not misread it."""
    opset = max((entry.version for entry in load_model(data).opset_import if not entry.domain), default=1)
    if opset > _OPSET:
        raise ModelError(f"vpu-myriad reads ONNX up to operator set {_OPSET}, not {opset}; export the model with that")
    return data


def _started(python: str | None) -> _Worker:
    """A worker whose Python has OpenVINO 2021.4; raises `DeviceUnavailable` with what is missing."""
    found = python or os.environ.get(PYTHON, "")
    if not found:
        raise DeviceUnavailable(f"{PYTHON} is not set; {_INSTALL}; and {_PLUG_IN}")
    worker = _Worker(found)
    try:
        answer = worker.ask({"do": "facts", "device": ""})
    except ModelError as error:
        raise DeviceUnavailable(f"{found} does not run the worker ({error}); {_INSTALL}") from error
    if "error" in answer:
        raise DeviceUnavailable(f"{found} has no OpenVINO 2021.4 ({answer['error']}); {_INSTALL}")
    if not str(answer["openvino"]).startswith("2021."):
        raise DeviceUnavailable(f"{found} has OpenVINO {answer['openvino']}, which drives no Myriad X; {_INSTALL}")
    return worker


def _facts(worker: _Worker, plugin: str) -> dict[str, Any]:
    return _answer(worker, {"do": "facts", "device": plugin}, "describe")
