"""``cpu-tvm``: this machine's CPU through TVM, as it compiles without tuning or with the schedules that were found.

Device keys: ``cpu-tvm`` (float32, one thread, one image), ``.tuned`` (with the records of ``hwnas tune``) and ``.b8``,
... (images at once). Untuned code is many times slower than onnxruntime's; it stands for what a compiler does for a
target that has no kernel library. TVM counts no kernels, so tables hold isolated blocks; their sum is close to the
whole, because TVM changes no layouts.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import replace
from functools import cached_property
from hashlib import sha256
from importlib.metadata import PackageNotFoundError, version
from typing import Any, ClassVar

import numpy as np

from hwnas.latency_tables import DeviceRecord, table_root
from hwnas.profilers.base import Model, RuntimeProfiler, as_bytes
from hwnas.profilers.model_io import first_line, fixed_sizes, load_model, random_input
from hwnas.profilers.protocol import Protocol
from hwnas.profilers.timing import Runner
from hwnas.profilers.tvm_compile import build, load_tvm, local_target, lowered
from hwnas.profilers.tvm_tuning import Kernel, TuningRecords, kernels_of
from hwnas.spaces.errors import DeviceUnavailable, ModelError

__all__ = ["CpuTvm", "inputs_of"]

#: compiled models that are kept: compiling takes seconds, and the protocol opens a model several times
KEPT = 512


class CpuTvm(RuntimeProfiler):
    """Measures on this machine's CPU with TVM.

    Parameters
    ----------
    precision, threads, batch
        See `hwnas.profilers.base.Profiler`.
    tuned
        Whether kernels get the schedules that ``hwnas tune`` found.
    tables
        Folder of tables, see `hwnas.latency_tables.table_root`: the records lie beside the device's table.
    """

    name = "cpu-tvm"
    device_class = "cpu"
    runtime = "tvm"
    summary = "this machine's CPU through TVM, untuned or .tuned by MetaSchedule, measured"
    switches = ("tuned",)
    _compiled: ClassVar[OrderedDict[tuple[bytes, str], Any]] = OrderedDict()

    def __init__(
        self,
        *,
        precision: str | None = None,
        threads: int = 1,
        batch: int = 1,
        tuned: bool = False,
        tables: str | None = None,
    ) -> None:
        super().__init__(precision=precision, threads=threads, batch=batch)
        self.tuned = tuned
        self._tables = tables

    @classmethod
    def unavailable(cls) -> str | None:
        try:
            version("apache-tvm")
        except PackageNotFoundError:
            return "TVM is not installed; install it with: pip install 'hwnas[tvm]'"
        return None

    def runtime_version(self) -> str:
        return version("apache-tvm")

    @cached_property
    def records(self) -> TuningRecords:
        """The tuning records beside the device's table.

        Raises
        ------
        TableError
            If there are none, or they are of another CPU or another TVM.
        """
        return TuningRecords.load(table_root(self._tables) / self.key)

    def device_record(self, protocol: Protocol | None = None) -> DeviceRecord:
        record = super().device_record(protocol)
        if not self.tuned:
            return record
        return replace(record, protocol={**record.protocol, "tuning_trials": self.records.trials})

    def load(self, data: bytes) -> Runner:
        return self._open(data, self.records if self.tuned else None)

    def open_reference(self, model: Model) -> Runner:
        """Load the null or the reference model, never tuned: drift and overhead need no schedules."""
        return self._open(as_bytes(model), None)

    def kernels(self, model: Model) -> list[Kernel]:
        """The kernels that TVM makes of a model, each once, the most costly first."""
        target = local_target(self.threads)
        return kernels_of(lowered(fixed_sizes(self.prepared(model)), target), target)

    def _open(self, data: bytes, records: TuningRecords | None) -> Runner:
        if reason := self.unavailable():
            raise DeviceUnavailable(reason)
        tvm = load_tvm()
        data = fixed_sizes(data)
        function = tvm.relax.VirtualMachine(self._compile(data, records), tvm.cpu())["main"]
        inputs = [tvm.runtime.tensor(value) for value in inputs_of(data)]

        def run() -> None:
            function(*inputs)

        try:
            run()
        except Exception as error:  # TVM's errors have no common base
            raise ModelError(f"TVM cannot run the model: {first_line(error)}") from error
        return run

    def _compile(self, data: bytes, records: TuningRecords | None = None) -> Any:
        """The compiled model, from memory if it was compiled before."""
        key = (sha256(data).digest(), "" if records is None else str(records.folder))
        if key in self._compiled:
            self._compiled.move_to_end(key)
            return self._compiled[key]
        target = local_target(self.threads)
        module = lowered(data, target)
        if records is not None:
            records.check(kernels_of(module, target), f"hwnas tune --device {self.key}")
        made = build(module, target, None if records is None else records.database)
        self._compiled[key] = made
        while len(self._compiled) > KEPT:
            self._compiled.popitem(last=False)
        return made


def inputs_of(data: bytes) -> list[np.ndarray]:
    """Fixed random inputs for a model of fixed sizes."""
    from onnx import helper

    graph = load_model(data).graph
    rng, stored = np.random.default_rng(0), {tensor.name for tensor in graph.initializer}
    found = []
    for value in graph.input:
        if value.name not in stored:
            kind = value.type.tensor_type
            shape = [dim.dim_value for dim in kind.shape.dim]
            found.append(random_input(np.dtype(helper.tensor_dtype_to_np_dtype(kind.elem_type)), shape, rng))
    return found
