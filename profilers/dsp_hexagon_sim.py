"""``dsp-hexagon-sim``: packets of hwnas's own int8 kernels on a Hexagon v67 with HVX, counted by QEMU.

Device keys: ``dsp-hexagon-sim`` (int8 in QDQ form, one thread, one image), and ``.tvm``, where TVM generates code for
operators without a kernel, which are refused else. The kernels (``hexagon/``) are compiled by
zig and run in qemu-hexagon, each operator of a network alone, with its own weights and input; its output is compared
with onnxruntime's. Counts are exact: they repeat to the packet on any machine.

A packet takes a cycle or more, so packets over a clock are a lower bound of the time of one thread. There are no
stalls and no second thread in it, memory only if a cache is modelled, and the kernels are not Qualcomm's.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

import numpy as np

from hwnas.latency_tables import DeviceRecord
from hwnas.profilers.attribution import attribute, divide
from hwnas.profilers.base import Measurement, Model, Profiler, as_bytes
from hwnas.profilers.hexagon_generated import generator_missing, generator_version
from hwnas.profilers.hexagon_program import Cache, Counts, Program, kernels, missing, versions
from hwnas.profilers.interleave import FLOOR_MS
from hwnas.profilers.model_io import check_quantised, load_model, model_nodes
from hwnas.profilers.protocol import Protocol
from hwnas.spaces.errors import ConfigError, DeviceUnavailable, ModelError

if TYPE_CHECKING:
    from hwnas.profilers.attribution import ExecutedNode
    from hwnas.profilers.hexagon_graph import Step

__all__ = ["DspHexagonSim", "SimulatedOperator"]

#: what packets are divided by: a round number near the clocks of Hexagon v65 to v68, and no chip's own
CLOCK_MHZ = 1000.0
#: how far outputs may be off onnxruntime's, in units of the last place: it rounds in float32 and halves to even
TOLERANCE = 1


@dataclass(frozen=True)
class SimulatedOperator:
    """What one operator of a network took.

    Attributes
    ----------
    node
        The operator: its name, kind and tensors in onnxruntime's fused model.
    kernels
        Names of the kernels that computed it.
    packets, instructions, hvx
        Sums over these kernels, see `hwnas.profilers.hexagon_program.Counts`.
    misses
        The same of the modelled cache, which is empty when a kernel begins; 0 if none is modelled.
    macs
        Its multiply-accumulates.
    outputs, off
        Bytes that were compared with onnxruntime's, and those that were one off; both 0 where a kernel of the same
        kind and sizes had been run before.
    """

    node: ExecutedNode
    kernels: tuple[str, ...]
    packets: int
    instructions: int
    hvx: int
    misses: int
    macs: int
    outputs: int
    off: int


class DspHexagonSim(Profiler):
    """Counts packets in a simulated Hexagon DSP.

    Parameters
    ----------
    precision, threads, batch
        See `hwnas.profilers.base.Profiler`: int8, one thread, one image.
    tvm
        Whether TVM generates code for operators that have no kernel.
    clock_mhz
        Packets in a microsecond. A latency is packets over this, which no real device reaches.
    cache_kb
        Size of the cache whose misses are counted; 0 for none.
    miss_packets
        Packets that a miss counts like.
    """

    name = "dsp-hexagon-sim"
    device_class = "dsp"
    summary = "int8 kernels of hwnas on a Hexagon v67 with HVX, packets counted in QEMU, simulated"
    precisions = ("int8",)
    switches = ("tvm",)
    method = "simulated"
    computes = True

    def __init__(
        self,
        *,
        precision: str | None = None,
        threads: int = 1,
        batch: int = 1,
        tvm: bool = False,
        clock_mhz: float = CLOCK_MHZ,
        cache_kb: int = 0,
        miss_packets: float = 0.0,
    ) -> None:
        super().__init__(precision=precision, threads=threads, batch=batch)
        if not 1 <= clock_mhz <= 100_000:
            raise ConfigError(f"the clock of {self.name} is between 1 and 100000 MHz, not {clock_mhz}")
        if not 0 <= cache_kb <= 65_536 or not 0 <= miss_packets <= 10_000 or (miss_packets and not cache_kb):
            raise ConfigError(
                f"{self.name} takes a cache of 0 to 65536 KB, and 0 to 10000 packets a miss of it, "
                f"not {cache_kb} and {miss_packets:g}"
            )
        if tvm and (reason := generator_missing()):
            raise DeviceUnavailable(f"{self.name}.tvm is not available here: {reason}")
        self.tvm = tvm
        self.clock_mhz = float(clock_mhz)
        self.cache = Cache(cache_kb) if cache_kb else None
        self.miss_packets = float(miss_packets)
        self._known: dict[tuple[object, ...], Counts] = {}

    @classmethod
    def unavailable(cls) -> str | None:
        return missing()

    def device_record(self, protocol: Protocol | None = None) -> DeviceRecord:
        # nothing of the host: counts are the same on all
        memory = f", {self.miss_packets:g} more a miss of {self.cache.kilobytes} KB" if self.cache else ""
        return DeviceRecord(
            key=self.key,
            name=f"Hexagon v67 with HVX, simulated, one packet a cycle at {self.clock_mhz:g} MHz{memory}",
            device_class=self.device_class,
            runtime="hwnas kernels",
            runtime_version=", ".join([versions(), *([generator_version()] if self.tvm else [])]),
            precision=self.precision,
            threads=self.threads,
            batch=self.batch,
            method=self.method,
            protocol=asdict(protocol or Protocol()),
        )

    def measure(self, model: Model, protocol: Protocol | None = None) -> Measurement:
        """Packets of all operators, and what their misses count like, over the clock.

        Raises
        ------
        ModelError
            If the model is not quantised, an operator has no kernel and none is generated, or an output is wrong.
        """
        packets = sum(map(self._packets, self.simulate(model)))
        ms = max(FLOOR_MS, packets / (self.clock_mhz * 1e3))
        return Measurement(ms, ms, ms, 1, True, self.method)

    def kernel_shares(
        self, model: Model, nodes: Collection[str] | None = None, protocol: Protocol | None = None
    ) -> dict[str, float] | None:
        """Packets of each kernel over those of all, see `Profiler.kernel_shares`."""
        data = as_bytes(model)
        found = self.simulate(data)
        times = {operator.node.name: self._packets(operator) for operator in found}
        owners = attribute(model_nodes(load_model(data)), [operator.node for operator in found], nodes)
        return divide(times, owners, nodes)

    def _packets(self, operator: SimulatedOperator) -> float:
        return operator.packets + self.miss_packets * operator.misses

    def simulate(self, model: Model) -> list[SimulatedOperator]:
        """Run every operator of a quantised model, those of one kind and size once while this profiler lives.

        Raises
        ------
        ModelError
            See `measure`.
        """
        data = as_bytes(model)
        check_quantised(data, self.key)
        from hwnas.profilers.hexagon_graph import operators

        program, found = kernels(self.cache), []
        for operator in operators(data, self.tvm):
            counts, outputs, off = [], 0, 0
            for step in operator.steps:
                if (known := self._known.get(step.call.signature)) is None:
                    known, wrong = _checked(step, program, operator.node)
                    self._known[step.call.signature] = known
                    outputs, off = outputs + step.expected.size, off + wrong
                counts.append(known)
            found.append(
                SimulatedOperator(
                    node=operator.node,
                    kernels=tuple(step.call.kind for step in operator.steps),
                    packets=sum(one.packets for one in counts),
                    instructions=sum(one.instructions for one in counts),
                    hvx=sum(one.hvx for one in counts),
                    misses=sum(one.misses or 0 for one in counts),
                    macs=sum(step.call.macs for step in operator.steps),
                    outputs=outputs,
                    off=off,
                )
            )
        return found


def _checked(step: Step, program: Program, node: ExecutedNode) -> tuple[Counts, int]:
    """The counts of one kernel call, and how many of its outputs are one off onnxruntime's."""
    counts, made = step.call.run(program)
    away = np.abs(made.reshape(step.expected.shape).astype(np.int16) - step.expected)
    if away.max() > TOLERANCE:
        raise ModelError(
            f"the Hexagon kernel {step.call.kind} gives {node.op} {node.name!r} an output that is {away.max()} off "
            "onnxruntime's; please report it with the model"
        )
    return counts, int(np.count_nonzero(away))
