"""``dsp-qnn``: the Hexagon processor of a Snapdragon through Qualcomm's provider of onnxruntime.

Device keys: ``dsp-qnn:57`` or ``dsp-qnn:galaxy-s24`` (also written with a dot, which is how tables are called) is a
chip that need not be here: Qualcomm's compiler makes its program, and a model of its units says how long that takes
(``modelled``). ``dsp-qnn`` alone is the chip of this machine, a Snapdragon with Linux or Windows (``measured``).

Models are int8 in QDQ form. As for every device, what a call costs is not in a latency.
"""

from __future__ import annotations

import platform
import tempfile
from collections import OrderedDict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from hwnas.latency_tables import DeviceRecord
from hwnas.profilers.attribution import ExecutedNode, attribute, divide
from hwnas.profilers.base import FLOOR_MS, Measurement, Model, Profiler, as_bytes
from hwnas.profilers.model_io import check_quantised, first_line, load_model, model_nodes
from hwnas.profilers.onnxruntime_model import middle
from hwnas.profilers.onnxruntime_session import OnnxRuntimeProfiler
from hwnas.profilers.protocol import Protocol
from hwnas.profilers.qnn_chips import Chip, find_chip
from hwnas.profilers.qnn_compile import LIMIT_S, check_taken, compile_model, qnn_job, write_context
from hwnas.profilers.qnn_schedule import Schedule, schedule
from hwnas.profilers.qnn_schematic import node_cycles
from hwnas.profilers.qnn_session import PACKAGE, PROVIDER, missing_package, qnn_options, session_on_qnn
from hwnas.profilers.qnn_worker import CSV
from hwnas.profilers.timing import Runner
from hwnas.spaces.errors import ConfigError, DeviceUnavailable, HwnasError, ModelError

__all__ = ["DspQnn", "OfChip", "Snapdragon", "layer_shares"]

#: schedules that are kept: a model is measured, and then divided among its kernels
_KEPT = 64


class OfChip(Profiler):
    """What the devices share whose key names a Hexagon chip: Qualcomm's compiler makes their programs here.

    Parameters
    ----------
    chip
        Qualcomm's id of the chip, or the name of a phone; see `hwnas.profilers.qnn_chips`.
    precision
        ``int8``.
    limit_s
        Seconds that compiling one model may take.

    Raises
    ------
    ConfigError
        If there is no such chip.
    """

    device_class = "dsp"
    precisions = ("int8",)

    def __init__(self, chip: str, *, precision: str | None = None, limit_s: float = LIMIT_S) -> None:
        super().__init__(precision=precision)
        self.variant = str(chip)
        self.chip: Chip = find_chip(self.variant, self.name)
        self.limit_s = limit_s

    @classmethod
    def unavailable(cls) -> str | None:
        return missing_package()

    @classmethod
    def from_qualifiers(cls, qualifiers: Sequence[str], **options: Any) -> Profiler:
        """Make the profiler of a chip.

        Raises
        ------
        ConfigError
            If there is no qualifier but the precision, more than one, or it is no chip.
        """
        chips = [qualifier for qualifier in qualifiers if qualifier not in cls.precisions]
        if not chips:
            raise ConfigError(f"{cls.name} needs a chip or a phone: write {cls.name}:57 or {cls.name}:galaxy-s24")
        if len(chips) > 1:
            raise ConfigError(f"{cls.name} takes one chip, not {' and '.join(chips)}")
        return cls(chips[0], **options)

    @property
    def key(self) -> str:
        """The name, and the chip or phone as it was given, such as ``dsp-qnn.galaxy-s24``."""
        return f"{self.name}.{self.variant}"

    def write_deployable(self, model: Model, path: Path) -> tuple[Path, ...]:
        """Write the chip's context binary, which loads without compiling, and the small ONNX file that names it.

        Raises
        ------
        ModelError
            As `measure`.
        """
        data = as_bytes(model)
        check_quantised(data, self.key)
        target = path.with_name(f"{path.stem}.{self.key}.onnx")
        return write_context(data, self.chip.soc_model, target, limit_s=self.limit_s)


class DspQnn(OfChip):
    """Models a chip that need not be here, from the program that Qualcomm's compiler makes for it; see `OfChip`."""

    name = "dsp-qnn"
    summary = "a Snapdragon's Hexagon processor: of a chip, as in dsp-qnn:57, modelled; on a Snapdragon, measured"
    method = "modelled"
    computes = True

    def __init__(self, chip: str, *, precision: str | None = None, limit_s: float = LIMIT_S) -> None:
        super().__init__(chip, precision=precision, limit_s=limit_s)
        self._schedules: OrderedDict[bytes, Schedule] = OrderedDict()

    @classmethod
    def from_qualifiers(cls, qualifiers: Sequence[str], **options: Any) -> Profiler:
        """Make the profiler of a chip, or without one that of this machine's own.

        Raises
        ------
        ConfigError
            If a qualifier is no chip.
        DeviceUnavailable
            If there is no qualifier and this machine is no Snapdragon.
        """
        if set(qualifiers) - set(cls.precisions):
            return super().from_qualifiers(qualifiers, **options)
        if reason := Snapdragon.unavailable():
            raise DeviceUnavailable(reason)
        return Snapdragon(precision=options.get("precision"))

    def device_record(self, protocol: Protocol | None = None) -> DeviceRecord:
        """The chip and the compiler; the machine that compiles is left out, as it has no part in the numbers."""
        return DeviceRecord(
            key=self.key,
            name=str(self.chip),
            device_class=self.device_class,
            runtime=PACKAGE,
            runtime_version=version(PACKAGE),
            precision=self.precision,
            threads=self.threads,
            batch=self.batch,
            method=self.method,
            protocol={"rates_fitted": self.chip.fitted, **asdict(self.chip.rates)},
        )

    def measure(self, model: Model, protocol: Protocol | None = None) -> Measurement:
        """Compile the model, and model its latency; the same each time.

        Raises
        ------
        ModelError
            If it is not quantised, or Qualcomm's compiler does not make one program of it.
        """
        ms = max(FLOOR_MS, self.schedule(model).total_us / 1e3)
        return Measurement(ms, ms, ms, repeats=1, stable=True, method=self.method)

    def schedule(self, model: Model) -> Schedule:
        """The modelled run of the model's program."""
        data = as_bytes(model)
        check_quantised(data, self.key)
        name = sha256(data).digest()
        if name not in self._schedules:
            program = compile_model(data, self.chip.soc_model, limit_s=self.limit_s).schematic
            self._schedules[name] = schedule(program, self.chip.rates)
            while len(self._schedules) > _KEPT:
                self._schedules.popitem(last=False)
        return self._schedules[name]

    def kernel_shares(
        self, model: Model, nodes: Collection[str] | None = None, protocol: Protocol | None = None
    ) -> dict[str, float] | None:
        """Divide the modelled time among the kernels: each has what its operators do to the end.

        Raises
        ------
        ModelError
            As `measure`, and if the program's names cannot be traced back.
        """
        data = as_bytes(model)
        return layer_shares(data, self.schedule(data).layers_us(), nodes)


class Snapdragon(OnnxRuntimeProfiler):
    """Measures on the chip of this machine: a Snapdragon with Linux or Windows. Not run on one yet."""

    name = "dsp-qnn"
    device_class = "dsp"
    summary = "the Hexagon processor of this Snapdragon, measured"
    precisions = ("int8",)
    max_batch = 1
    on_cpu = False
    runtime = PACKAGE
    provider = PROVIDER
    provider_words = "Qualcomm"
    install = "install it with: pip install 'hwnas[dsp]'"

    @classmethod
    def missing(cls) -> str | None:
        """None if models can be run here, in Qualcomm's emulator at least; else one sentence saying what to install."""
        return missing_package()

    @classmethod
    def unavailable(cls) -> str | None:
        if reason := cls.missing():
            return reason
        if platform.machine().lower() not in ("aarch64", "arm64"):
            return f"this machine ({platform.machine()}) is no Snapdragon; name a chip to model, such as dsp-qnn:57"
        return None

    def hardware(self) -> str:
        return f"the Snapdragon of this machine ({platform.processor() or platform.machine()})"

    def runtime_version(self) -> str:
        return version(PACKAGE)

    def prepared(self, model: Model) -> bytes:
        data = as_bytes(model)
        check_quantised(data, self.key)
        return data

    def load(self, data: bytes) -> Runner:
        session = self._session(data)
        return self._runner(session, *self._bound(session))

    def open_reference(self, model: Model) -> Runner:
        """Load the null or the reference model; they are float32, and what is no product of floats runs on the CPU."""
        session = self._session(as_bytes(model), whole=False)
        return self._runner(session, *self._bound(session))

    def _session(
        self, data: bytes, provider_options: Mapping[str, str] | None = None, *, whole: bool = True, **settings: Any
    ) -> Any:
        """A session on this machine's chip; of which, if `whole`, nothing but the ends may be left to the CPU."""
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4
        with tempfile.TemporaryDirectory(prefix="hwnas-qnn-") as folder:
            trace = {"enable_framework_op_trace": "1", "framework_op_trace_dir": folder}
            try:
                session = session_on_qnn(data, options, qnn_options(None, **trace, **(provider_options or {})))
            except HwnasError:
                raise
            except Exception as error:  # onnxruntime's errors have no common base
                raise ModelError(f"onnxruntime cannot load the model: {first_line(error)}") from error
            if whole:
                check_taken(Path(folder), "this machine")
        return session

    def kernel_shares(
        self, model: Model, nodes: Collection[str] | None = None, protocol: Protocol | None = None
    ) -> dict[str, float] | None:
        """Divide the time of one inference among the kernels by the chip's own cycle counters.

        Raises
        ------
        ModelError
            If the model cannot be run there, or its counters cannot be traced back.
        """
        data = self.prepared(model)
        with qnn_job(data, None, runs=20) as (folder, _):
            counted = node_cycles(folder / CSV)
        return layer_shares(
            data, {name: middle(np.asarray(runs, float).tolist()) for name, runs in counted.items()}, nodes
        )


def layer_shares(data: bytes, times: Mapping[str, float], nodes: Collection[str] | None) -> dict[str, float]:
    """Shares of the layers that the compiler names, led back to the model's nodes.

    Parameters
    ----------
    data
        The serialised model.
    times
        Time or cycles of each layer.
    nodes
        See `Profiler.kernel_shares`.

    Raises
    ------
    ModelError
        If the names cannot be traced back.
    """
    executed = [ExecutedNode(name, _operator(name), (), ()) for name in times]
    return divide(times, attribute(model_nodes(load_model(data)), executed, nodes), nodes)


def _operator(name: str) -> str:
    """Of a layer that the compiler inserted, which operator it is; they are called after it."""
    return name.partition("_token_")[0] if name.startswith("Transpose_token_") else ""
