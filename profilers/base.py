"""What a profiler is. A new device is one class: subclass `RuntimeProfiler` if it runs models, else `Profiler`."""

from __future__ import annotations

import re
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Hashable, Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, TypeAlias, TypeVar

from hwnas.latency_tables import DeviceRecord, host_facts
from hwnas.profilers.interleave import FLOOR_MS, Measurement, PassLog, Progress, interleave
from hwnas.profilers.model_io import check_quantised, with_batch
from hwnas.profilers.protocol import Pass, Protocol
from hwnas.profilers.reference import Anchor, anchor_model, null_model
from hwnas.profilers.timing import Runner, choose_cores, pinned, time_pass
from hwnas.spaces.errors import ConfigError, ModelError

if TYPE_CHECKING:
    from onnx import ModelProto

__all__ = ["FLOOR_MS", "Measurement", "Model", "PassLog", "Profiler", "Progress", "RuntimeProfiler", "as_bytes"]

#: An ONNX model, or its serialised bytes.
Model: TypeAlias = "ModelProto | bytes"
#: A model, or what makes it when it is needed.
ModelSource: TypeAlias = "ModelProto | bytes | Callable[[], ModelProto | bytes]"
Key = TypeVar("Key", bound=Hashable)

_MAX_MODEL_BYTES = 2**31 - 1
#: qualifiers of a device key that are numbers, and what they say
_NUMBERS = {"threads": re.compile(r"t([1-9]\d{0,3})"), "batch": re.compile(r"b([1-9]\d{0,3})")}


def as_bytes(model: ModelSource) -> bytes:
    """The serialised model.

    Raises
    ------
    ModelError
        If it is no model, or too large for one file.
    """
    made = model() if callable(model) else model
    try:
        data = made if isinstance(made, bytes) else made.SerializeToString()
    except (AttributeError, ValueError) as error:
        raise ModelError(f"cannot serialise the model of type {type(made).__name__}: {error}") from error
    if not 0 < len(data) <= _MAX_MODEL_BYTES:
        raise ModelError(f"the model has {len(data)} bytes; an ONNX file has between 1 byte and 2 GB")
    return data


class Profiler(ABC):
    """Gives the latency of ONNX models on one device.

    The call order is: ``unavailable()``, then the constructor, then any number of ``measure`` or
    ``measure_many``. Estimators (a vendor's cost model, a replayed table) implement `measure`;
    what runs models subclasses `RuntimeProfiler` instead.

    Parameters
    ----------
    precision
        Number format that the device computes in; one of `precisions`.
    threads
        Threads of one inference, at most `max_threads`.
    batch
        Images of one inference, at most `max_batch`; latencies are of all of them together.

    Raises
    ------
    ConfigError
        If the device does not have that precision, or takes fewer threads or images.
    """

    #: Registered name, ``<class>-<runtime>``.
    name: ClassVar[str]
    #: ``cpu``, ``gpu``, ``dsp``, ``vpu``, ...
    device_class: ClassVar[str]
    #: One line saying what is measured.
    summary: ClassVar[str]
    #: Number formats, the default first.
    precisions: ClassVar[tuple[str, ...]] = ("float32",)
    #: Most threads that one inference may use; 1 where threads mean nothing.
    max_threads: ClassVar[int] = 1
    #: Most images that one inference may take.
    max_batch: ClassVar[int] = 1
    #: Qualifiers that switch something on: parameters of the constructor that are true or false.
    switches: ClassVar[tuple[str, ...]] = ()
    #: How the latencies come to be, see `hwnas.latency_tables.METHODS`.
    method: str = "measured"
    #: Whether `measure` computes the latency of any model and runs none, so that nothing needs to be predicted.
    computes: ClassVar[bool] = False

    def __init__(self, *, precision: str | None = None, threads: int = 1, batch: int = 1) -> None:
        self.precision = self.precisions[0] if precision is None else precision
        self.threads = threads
        self.batch = batch
        if self.precision not in self.precisions:
            raise ConfigError(f"{self.name} measures {' and '.join(self.precisions)}, not {self.precision}")
        if not 1 <= threads <= self.max_threads:
            most = "one thread" if self.max_threads == 1 else f"1 to {self.max_threads} threads"
            raise ConfigError(f"{self.name} takes {most}, not {threads}")
        if not 1 <= batch <= self.max_batch:
            most = "one image" if self.max_batch == 1 else f"1 to {self.max_batch} images"
            raise ConfigError(f"{self.name} takes {most} at once, not {batch}")

    @classmethod
    def is_qualifier(cls, text: str) -> bool:
        """Whether a part of a device key is a precision, a switch, or a number of threads or images."""
        return text in (*cls.precisions, *cls.switches) or any(form.fullmatch(text) for form in _NUMBERS.values())

    @classmethod
    def from_qualifiers(cls, qualifiers: Sequence[str], **options: Any) -> Profiler:
        """Make the profiler that a device key names.

        Parameters
        ----------
        qualifiers
            What follows the name in the key, such as ``["int8", "t2", "b8"]``.
        options
            Passed to the constructor.

        Raises
        ------
        ConfigError
            If a qualifier is unknown or given twice.
        """
        settings: dict[str, Any] = {}
        for qualifier in qualifiers:
            found = {kind: match for kind, form in _NUMBERS.items() if (match := form.fullmatch(qualifier))}
            if not cls.is_qualifier(qualifier):
                raise ConfigError(
                    f"{cls.name} has no qualifier {qualifier!r}; it takes {', '.join((*cls.precisions, *cls.switches))}"
                    + (", t2, t4, ... for threads" if cls.max_threads > 1 else "")
                    + (", b2, b4, ... for images at once" if cls.max_batch > 1 else "")
                )
            plain = (qualifier, True) if qualifier in cls.switches else ("precision", qualifier)
            name, value = next(((kind, int(match[1])) for kind, match in found.items()), plain)
            if name in settings:
                raise ConfigError(f"the {name} of {cls.name} is given twice: {'.'.join(qualifiers)}")
            settings[name] = value
        return cls(**{**settings, **options})

    @property
    def file_precision(self) -> str:
        """Number format of the files that it takes: bfloat16, say, is what a runtime makes of a float32 file."""
        return "int8" if self.precision == "int8" else "float32"

    @property
    def key(self) -> str:
        """Device key: the name, and what differs from its defaults (``cpu-onnxruntime.int8.t2.b8``)."""
        parts = [self.name]
        if self.precision != self.precisions[0]:
            parts.append(self.precision)
        parts += [switch for switch in self.switches if getattr(self, switch)]
        if self.threads > 1:
            parts.append(f"t{self.threads}")
        if self.batch > 1:
            parts.append(f"b{self.batch}")
        return ".".join(parts)

    @classmethod
    def unavailable(cls) -> str | None:
        """None if the device can be used here; else one sentence saying what to install or plug in."""
        return None

    @abstractmethod
    def device_record(self, protocol: Protocol | None = None) -> DeviceRecord:
        """The hardware, runtime and protocol, as kept with a table."""

    @abstractmethod
    def measure(self, model: Model, protocol: Protocol | None = None) -> Measurement:
        """Latency of one model; raises `ModelError` if the device cannot take it."""

    def measure_many(
        self,
        models: Mapping[Key, ModelSource],
        protocol: Protocol | None = None,
        *,
        progress: Progress | None = None,
        log: PassLog[Key] | None = None,
        deadline: float | None = None,
    ) -> Iterator[tuple[Key, Measurement]]:
        """Latencies of many models, in the order in which they become ready.

        Parameters
        ----------
        models
            Models by key; a callable is called when its model is needed.
        protocol
            The measuring protocol.
        progress
            Called as ``progress(done, total, text)``.
        log
            Keeps finished passes, so that a killed run goes on.
        deadline
            Value of `time.monotonic` after which nothing new is begun.
        """
        for done, (key, model) in enumerate(models.items(), start=1):
            if deadline is not None and time.monotonic() >= deadline:
                return
            result = self.measure(as_bytes(model), protocol)
            if progress is not None:
                progress(done, len(models), str(key))
            yield key, result

    def write_deployable(self, model: Model, path: Path) -> tuple[Path, ...]:
        """Write what this device loads instead of an ONNX file, beside `path`.

        Parameters
        ----------
        model
            The model, in `file_precision`.
        path
            The ONNX file; what is written is called after it and the device.

        Returns
        -------
        tuple of Path
            The files.

        Raises
        ------
        ConfigError
            If the device loads ONNX files as they are.
        ModelError
            If it does not take the model.
        """
        raise ConfigError(f"{self.name} loads ONNX files as they are; there is nothing to compile for it")

    def kernel_shares(
        self,
        model: Model,
        nodes: Collection[str] | None = None,
        protocol: Protocol | None = None,
    ) -> dict[str, float] | None:
        """How the time of one inference divides among kernels, where the runtime counts it.

        Parameters
        ----------
        model
            The model.
        nodes
            Names to divide the time among; a node of the model called ``name`` or ``name/part``
            belongs to ``name``. None takes the model's own nodes.
        protocol
            Says how long to count and on which cores.

        Returns
        -------
        dict or None
            Shares by name, which sum to 1; None if the runtime has no such counters.
        """
        return None


class RuntimeProfiler(Profiler):
    """A profiler that runs the model: subclasses load it, the shared protocol does the timing.

    A subclass implements `load` and `runtime_version`, and `unavailable` if something can be missing; `hardware` if it
    is not the CPU that computes.
    """

    #: The software that runs the models.
    runtime: ClassVar[str]
    max_batch = 1024
    #: Whether the calling thread computes; false where it waits for an accelerator.
    on_cpu: ClassVar[bool] = True

    def __init__(self, *, precision: str | None = None, threads: int = 1, batch: int = 1) -> None:
        super().__init__(precision=precision, threads=threads, batch=batch)
        #: Follows the drift of the machine; its ``reference_ms`` is the level that counts as none.
        self.anchor = Anchor(self._time_anchor)
        self._overhead: float | None = None

    @abstractmethod
    def load(self, data: bytes) -> Runner:
        """Load a serialised model; each call of the result is one inference on fixed random input.

        Raises
        ------
        ModelError
            If the runtime refuses the model.
        """

    @abstractmethod
    def runtime_version(self) -> str:
        """Version of the runtime."""

    def hardware(self) -> str:
        """What computes, in words."""
        return str(host_facts()["cpu"])

    def device_record(self, protocol: Protocol | None = None) -> DeviceRecord:
        protocol = protocol or Protocol()
        return DeviceRecord(
            key=self.key,
            name=self.hardware(),
            device_class=self.device_class,
            runtime=self.runtime,
            runtime_version=self.runtime_version(),
            precision=self.precision,
            threads=self.threads,
            batch=self.batch,
            method=self.method,
            host=host_facts(),
            protocol={**asdict(protocol), "pinned_to": list(self.cores(protocol) or ())},
        )

    def prepared(self, model: Model) -> bytes:
        """The serialised model as this device takes it: with its batch.

        Raises
        ------
        ModelError
            If it is no model, or the device is ``.int8`` and the model is not quantised.
        """
        data = as_bytes(model)
        if self.precision == "int8":
            check_quantised(data, self.key)
        return data if self.batch == 1 else with_batch(data, self.batch)

    def open(self, model: Model) -> Runner:
        """Load a model with this device's batch; see `load` and `prepared`."""
        return self.load(self.prepared(model))

    def open_reference(self, model: Model) -> Runner:
        """Load the null or the reference model, which are float32 and of one image whatever the device key says."""
        return self.load(as_bytes(model))

    def cores(self, protocol: Protocol) -> tuple[int, ...] | None:
        """The cores that measuring is pinned to; None if it is not."""
        if not protocol.pin or not self.on_cpu:
            return None
        return protocol.cores or choose_cores(self.threads)

    def _time(self, runner: Runner, protocol: Protocol, anchor_ms: float | None = None) -> Pass:
        return time_pass(runner, protocol, threads=self.threads, on_cpu=self.on_cpu, anchor_ms=anchor_ms)

    @cached_property
    def _anchor_runner(self) -> Runner:
        return self.open_reference(anchor_model())

    def _time_anchor(self, protocol: Protocol) -> Pass:
        short = replace(protocol, warmup_s=min(0.01, protocol.warmup_s), pass_s=min(0.04, protocol.pass_s))
        return self._time(self._anchor_runner, short)

    def overhead_ms(self, protocol: Protocol | None = None) -> float:
        """What calling the runtime costs, milliseconds; measured once and subtracted from every latency."""
        if self._overhead is None:
            protocol = protocol or Protocol()
            protocol = replace(protocol, warmup_s=min(0.02, protocol.warmup_s), pass_s=min(0.05, protocol.pass_s))
            with pinned(self.cores(protocol)):
                runner = self.open_reference(null_model())
                self._overhead = min(self._time(runner, protocol).value_ms for _ in range(3))
        return self._overhead

    def measure(self, model: Model, protocol: Protocol | None = None) -> Measurement:
        """Latency of one model by the shared protocol."""
        return next(result for _, result in self.measure_many({"model": model}, protocol))

    def measure_many(
        self,
        models: Mapping[Key, ModelSource],
        protocol: Protocol | None = None,
        *,
        progress: Progress | None = None,
        log: PassLog[Key] | None = None,
        deadline: float | None = None,
    ) -> Iterator[tuple[Key, Measurement]]:
        """Latencies of many models in interleaved passes, see `hwnas.profilers.interleave.interleave`."""
        settings = protocol or Protocol()

        def opener(source: ModelSource) -> Callable[[], Runner]:
            return lambda: self.open(as_bytes(source))

        return interleave(
            {key: opener(source) for key, source in models.items()},
            lambda runner, anchor_ms: self._time(runner, settings, anchor_ms),
            settings,
            method=self.method,
            anchor=self.anchor,
            overhead_ms=self.overhead_ms(settings),
            cores=self.cores(settings),
            progress=progress,
            log=log,
            deadline=deadline,
        )
