"""The schedule that Intel's NPU compiler plans for a network, read from the trace that it writes.

The trace is in Chrome's trace event format: complete events (``"ph": "X"``, times in microseconds) of the categories
``DMA``, ``DPU`` (the array of multipliers), ``Shave`` (the vector processors) and ``Layer``, with the engine that runs
each in metadata events, the busy times in ``taskStatistics`` and the clock in ``workpoint``. A task is named
``layer?t_Type/...``. Parts of a DPU task, its variants, are listed beside it and left out here.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from hwnas.profilers.openvino_profiler import plain_name
from hwnas.spaces.errors import ModelError

__all__ = ["Layer", "Schedule", "Task", "read_trace"]

_MAX_BYTES = 512 * 1000 * 1000
_VARIANTS = "DPU Variants"
#: the categories of tasks, by what they are called here; others that a compiler adds count as computing
_KINDS = {"DMA": "dma", "DPU": "dpu", "Shave": "shave"}
#: what OpenVINO appends to the name of the layer that a result is of
_RESULT = "/sink_port_0"
#: what the program does for itself: loads its descriptors, waits for its start
_PROGRAM = ("fetch_dma", "start_barrier_sync_dma")


@dataclass(frozen=True)
class Task:
    """One task of the schedule: its layer, ``dma``, ``dpu`` or ``shave``, its engine, start and duration in µs."""

    layer: str
    kind: str
    engine: str
    start_us: float
    duration_us: float


@dataclass(frozen=True)
class Layer:
    """A layer: name, OpenVINO's type, from its first task to the end of its last, and busy µs by kind of task.

    Tiles that compute side by side are all counted, so busy times can exceed the span.
    """

    name: str
    type: str
    start_us: float
    span_us: float
    busy_us: dict[str, float]


@dataclass(frozen=True)
class Schedule:
    """A network's planned run on an NPU.

    Attributes
    ----------
    makespan_us
        Microseconds from the start of the first task to the end of the last one.
    clock_mhz
        Clock of the NPU that the compiler plans with.
    tasks, layers
        In the order in which they start.
    """

    makespan_us: float
    clock_mhz: float
    tasks: tuple[Task, ...]
    layers: tuple[Layer, ...]

    @property
    def tiles(self) -> int:
        """Tiles that compute."""
        return len({task.engine.rpartition(" ")[0] for task in self.tasks if task.kind != "dma"})

    def exposed_us(self) -> dict[str, float]:
        """Divide the makespan among the layers: µs by layer, of what delays the end.

        Each moment belongs to the layers that compute in it, in equal parts, and where none computes to those whose
        data is moved: a transfer behind a computation is for nothing. Loading the program itself belongs to no layer.
        """
        found: dict[str, float] = {}
        for span, computing, moving in self._moments():
            for layer in (layers := computing or moving):
                found[layer] = found.get(layer, 0.0) + span / len(layers)
        return {layer: us for layer, us in found.items() if layer not in _PROGRAM}

    def _moments(self) -> Iterator[tuple[float, list[str], list[str]]]:
        """Stretches in which the same tasks run: µs, the layers that compute, the layers whose data is moved."""
        changes = [
            (time, change, task)
            for task in self.tasks
            for time, change in ((task.start_us, 1), (task.start_us + task.duration_us, -1))
        ]
        running: dict[bool, Counter[str]] = {True: Counter(), False: Counter()}
        before = 0.0
        for time, change, task in sorted(changes, key=lambda entry: entry[0]):
            if time > before:
                yield time - before, list(+running[True]), list(+running[False])
                before = time
            running[task.kind != "dma"][task.layer] += change


def read_trace(data: bytes) -> Schedule:
    """Read the compiler's ``compileTimeScheduleTrace.json``.

    Raises
    ------
    ModelError
        If it is damaged, or of another form than the compilers that this was written for give.
    """
    if len(data) > _MAX_BYTES:
        raise ModelError(f"the NPU compiler's schedule trace has {len(data)} bytes, more than {_MAX_BYTES}")
    try:
        content = json.loads(data)
        names, events = _names(content["traceEvents"]), _complete(content["traceEvents"])
        clock, stated = _number(content["workpoint"]["freq"]), _number(content["taskStatistics"]["total duration"])
        tasks = sorted(_tasks(names, events), key=lambda task: task.start_us)
        layers = sorted(_layers(events, tasks), key=lambda layer: layer.start_us)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ModelError(
            f"the NPU compiler's schedule trace is damaged, or of a compiler that hwnas does not know ({error!r:.200})"
        ) from error
    if not tasks:
        raise ModelError("the NPU compiler's schedule trace holds no tasks: the model computes nothing")
    makespan = max(task.start_us + task.duration_us for task in tasks) - tasks[0].start_us
    if abs(makespan - stated) > 1e-3 * stated + 0.01 or not makespan > 0 or not clock > 0:
        raise ModelError(
            f"the NPU compiler's schedule trace contradicts itself: its tasks last {makespan:g} us at {clock:g} MHz, "
            f"but it says {stated:g} us"
        )
    return Schedule(makespan, clock, tuple(tasks), tuple(layers))


def _number(value: Any) -> float:
    """A finite number that is not negative; raises `ValueError` for anything else."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not (math.isfinite(value) and value >= 0):
        raise ValueError(f"{value!r:.40} is not a duration, a time or a clock")
    return float(value)


def _layer_of(name: Any) -> str:
    """The node or tensor of the given model that a task or layer of the compiler is named after."""
    return plain_name(_text(name)).removesuffix(_RESULT)


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r:.40} is no name")
    return value


def _names(events: list[dict[str, Any]]) -> dict[tuple[Any, Any], str]:
    """Names of processes, by ``(pid, None)``, and of threads, by ``(pid, tid)``."""
    names = {}
    for event in events:
        if event["ph"] == "M" and event["name"] in ("process_name", "thread_name"):
            names[event["pid"], event.get("tid")] = _text(event["args"]["name"])
    return names


def _complete(events: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [event for event in events if event["ph"] == "X"]


def _tasks(names: dict[tuple[Any, Any], str], events: list[dict[str, Any]]) -> Iterator[Task]:
    for event in events:
        process, thread = names[event["pid"], None], names[event["pid"], event["tid"]]
        if event["cat"] != "Layer" and thread != _VARIANTS:
            kind = _KINDS.get(_text(event["cat"]), "other")
            engine = thread if kind == "dma" else f"{process} {thread}"
            start, duration = _number(event["ts"]), _number(event["dur"])
            yield Task(_layer_of(event["name"]), kind, engine, start, duration)


def _layers(events: list[dict[str, Any]], tasks: list[Task]) -> Iterator[Layer]:
    busy: dict[str, dict[str, float]] = {}
    for task in tasks:
        kinds = busy.setdefault(task.layer, {})
        kinds[task.kind] = kinds.get(task.kind, 0.0) + task.duration_us
    for event in events:
        if event["cat"] == "Layer":
            name = _layer_of(event["name"])
            kind = _text(event["args"]["Layer type"])
            yield Layer(name, kind, _number(event["ts"]), _number(event["dur"]), busy.get(name, {}))
