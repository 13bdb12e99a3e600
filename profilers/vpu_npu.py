"""``vpu-npu3720``, ``vpu-npu4000``, ``vpu-npu5010``: Intel's NPUs as Intel's own compiler estimates them, without one.

Device keys: the name (float16, what an NPU computes in unless told otherwise), with ``.int8`` (quantised models in QDQ
form). The compiler plans every transfer and computation of a network, with times from Intel's cost model; a latency is
the length of that plan. The numbers are therefore ``vendor-estimate``, and the same at each call.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection
from functools import cached_property
from hashlib import sha256
from typing import ClassVar

from hwnas.latency_tables import DeviceRecord
from hwnas.profilers.attribution import ExecutedNode, attribute, divide
from hwnas.profilers.base import FLOOR_MS, Measurement, Model, Profiler, as_bytes
from hwnas.profilers.model_io import check_quantised, load_model, model_nodes
from hwnas.profilers.npu_compiler import LIMIT_S, compiler_missing, find_compiler
from hwnas.profilers.npu_trace import Schedule
from hwnas.profilers.openvino_profiler import OPERATORS
from hwnas.profilers.protocol import Protocol
from hwnas.profilers.reference import anchor_model
from hwnas.spaces.errors import ConfigError

__all__ = ["VpuNpu", "VpuNpu3720", "VpuNpu4000", "VpuNpu5010"]

#: schedules kept: a network's latency and how it divides come of one run of the compiler
_KEPT = 8


class VpuNpu(Profiler):
    """Estimates with Intel's NPU compiler; a subclass names the NPU.

    Parameters
    ----------
    precision
        ``float16`` or ``int8``.
    limit_s
        Seconds that the compiler may take for one network.
    """

    device_class = "vpu"
    precisions = ("float16", "int8")
    method = "vendor-estimate"
    computes = True
    #: What the compiler calls the NPU.
    platform: ClassVar[str]
    #: The processors that it is part of.
    processors: ClassVar[str]

    def __init__(
        self, *, precision: str | None = None, threads: int = 1, batch: int = 1, limit_s: float = LIMIT_S
    ) -> None:
        super().__init__(precision=precision, threads=threads, batch=batch)
        if not limit_s > 0:
            raise ConfigError(f"the NPU compiler needs more than {limit_s:g} seconds; set limit_s to 300, say")
        self.limit_s = limit_s
        self._compiler = find_compiler()
        self._schedules: OrderedDict[bytes, Schedule] = OrderedDict()

    @classmethod
    def unavailable(cls) -> str | None:
        return compiler_missing()

    def schedule(self, model: Model) -> Schedule:
        """What the compiler plans for a model: its tasks, layers, makespan and clock.

        Raises
        ------
        ModelError
            If it is no model, not quantised though the device is ``.int8``, or the compiler refuses it.
        DeviceUnavailable
            If the compiler cannot be started.
        """
        data = as_bytes(model)
        if self.precision == "int8":
            check_quantised(data, self.key)
        return self._compiled(data)

    def _compiled(self, data: bytes) -> Schedule:
        key = sha256(data).digest()
        if key not in self._schedules:
            load_model(data)  # the compiler's own words about what is no model are of no use
            self._schedules[key] = self._compiler.schedule(data, self.platform, self.limit_s)
            while len(self._schedules) > _KEPT:
                self._schedules.popitem(last=False)
        return self._schedules[key]

    @cached_property
    def _reference(self) -> Schedule:
        """The schedule of the reference model, for the clock; it is float32 whatever the device key says."""
        return self._compiled(as_bytes(anchor_model()))

    def device_record(self, protocol: Protocol | None = None) -> DeviceRecord:
        """The record says what the NPU is; nothing of the machine that compiled, because no number depends on it.

        Instead of a measuring protocol, which an estimate has none of, it holds the clock and the number of tiles.
        """
        clock, tiles = self._reference.clock_mhz, self._reference.tiles
        return DeviceRecord(
            key=self.key,
            name=f"Intel {self.platform} ({self.processors}) at {clock:g} MHz",
            device_class=self.device_class,
            runtime="openvino-npu-compiler",
            runtime_version=self._compiler.version,
            precision=self.precision,
            threads=self.threads,
            batch=self.batch,
            method=self.method,
            host={"cpu": "Intel NPU", "machine": self.platform},
            protocol={"clock_mhz": clock, "tiles": tiles},
        )

    def measure(self, model: Model, protocol: Protocol | None = None) -> Measurement:
        """The makespan of the model's schedule; repeating it would change nothing, so the interval is a point.

        Raises
        ------
        ModelError, DeviceUnavailable
            See `schedule`.
        """
        ms = max(FLOOR_MS, self.schedule(model).makespan_us / 1e3)
        return Measurement(ms, ms, ms, repeats=1, stable=True, method=self.method, samples=(ms,))

    def kernel_shares(
        self, model: Model, nodes: Collection[str] | None = None, protocol: Protocol | None = None
    ) -> dict[str, float] | None:
        """Divide the makespan among the kernels, see `Schedule.exposed_us` and `Profiler.kernel_shares`."""
        data = as_bytes(model)
        schedule = self.schedule(data)
        executed = [
            ExecutedNode(layer.name, OPERATORS.get(layer.type, layer.type), (), (layer.name,))
            for layer in schedule.layers
        ]
        return divide(schedule.exposed_us(), attribute(model_nodes(load_model(data)), executed, nodes), nodes)


class VpuNpu3720(VpuNpu):
    """The NPU of Meteor Lake and Arrow Lake."""

    name = "vpu-npu3720"
    platform = "NPU3720"
    processors = "Meteor Lake"
    summary = "Intel's NPU 3720 (Meteor Lake) by the estimate of Intel's compiler"


class VpuNpu4000(VpuNpu):
    """The NPU of Lunar Lake."""

    name = "vpu-npu4000"
    platform = "NPU4000"
    processors = "Lunar Lake"
    summary = "Intel's NPU 4000 (Lunar Lake) by the estimate of Intel's compiler"


class VpuNpu5010(VpuNpu):
    """The NPU of Panther Lake."""

    name = "vpu-npu5010"
    platform = "NPU5010"
    processors = "Panther Lake"
    summary = "Intel's NPU 5010 (Panther Lake) by the estimate of Intel's compiler"
