"""How long a compiled program takes on a Hexagon tensor processor: a model of its units, nothing measured.

The compiler fixes which unit runs what, and in which order. The model replays that order: one queue of transfers, one
matrix unit (driven by the main thread up to Hexagon v79, by a queue of its own from v81 on), four vector threads; an
operator starts when its unit is free and its inputs are ready.
What an operator takes is bytes or products over a rate.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from hwnas.profilers.qnn_schematic import Operator, Schematic

__all__ = ["Rates", "Schedule", "schedule"]


@dataclass(frozen=True)
class Rates:
    """The constants of the model for one chip; bytes and products are per microsecond.

    Attributes
    ----------
    dma_bytes
        Main memory, through the transfer engine.
    hmx_macs
        Padded products of the matrix unit.
    hvx_bytes
        Bytes that one vector thread reads and writes.
    division_bytes
        The same of a division, which published latencies say is slower on most chips.
    operator_us
        What beginning a transfer or an operator of the matrix unit costs.
    threads
        Vector threads.
    call_us
        What beginning an inference costs; of use where whole latencies are compared, see `Schedule`.
    """

    dma_bytes: float
    hmx_macs: float
    hvx_bytes: float
    division_bytes: float
    operator_us: float
    threads: int = 4
    call_us: float = 0.0


@dataclass(frozen=True)
class Schedule:
    """What the model says of a program.

    Attributes
    ----------
    total_us
        From the first transfer to the last, without `Rates.call_us`.
    parts_us
        The same, by layer: how far each pushed the end; sums to `total_us`.
    work_us
        How long each unit worked, ``dma``, ``hmx`` and ``hvx`` (all threads together), by layer.
    critical
        How much of what a rate of `Rates` counts pushed the end, by its name: bytes, products, operators
        (``operator_us``). Divided by the rates they sum to `total_us`, but for waiting.
    forced
        Operators that were begun without waiting, because the program's order and its graph disagree.
    """

    total_us: float
    parts_us: dict[str, float]
    work_us: dict[str, dict[str, float]]
    critical: dict[str, float]
    forced: int

    @property
    def busy_us(self) -> dict[str, float]:
        """How long each unit worked."""
        return {unit: sum(work.values()) for unit, work in self.work_us.items()}

    def layers_us(self) -> dict[str, float]:
        """`total_us` by layer: half by how far each pushed the end, half by how long the units worked for it.

        What is hidden behind other work pushes nothing, and would be free by the first half alone.
        """
        work: dict[str, float] = {}
        for of_unit in self.work_us.values():
            for name, took in of_unit.items():
                work[name] = work.get(name, 0.0) + took
        scale = self.total_us / total if (total := sum(work.values())) else 0.0
        return {name: 0.5 * (self.parts_us.get(name, 0.0) + scale * took) for name, took in work.items()}


def _amounts(operator: Operator) -> dict[str, float]:
    """How much of what each rate counts an operator takes."""
    if operator.unit == "dma":
        return {"dma_bytes": operator.ddr_bytes, "operator_us": 1}
    if operator.unit == "hmx":
        return {"hmx_macs": operator.macs, "operator_us": 1}
    divides = operator.kind.startswith("q::Div")
    return {"division_bytes" if divides else "hvx_bytes": operator.vtcm_bytes + operator.ddr_bytes}


class _Ready:
    """When the inputs of an operator are ready; operators that are in no list are views, ready with their inputs."""

    def __init__(self, program: Schematic) -> None:
        self._operators = program.operators
        self._listed = {n for n in program.issued if program.operators[n].unit}
        self.done: dict[int, float] = {}
        self._views: dict[int, float] = {}

    def at(self, operator: Operator) -> float | None:
        """The time, or None if an input has not been computed."""
        latest = 0.0
        for number in operator.reads:
            found = self._time(number)
            if found is None:
                return None
            latest = max(latest, found)
        return latest

    def _time(self, number: int) -> float | None:
        if number in self._listed:
            return self.done.get(number)
        # depth first without recursion: chains of views can be thousands long; a cycle counts as ready
        stack, entered = [number], set()
        while stack:
            top = stack[-1]
            if top in self._views:
                stack.pop()
                continue
            operator = self._operators.get(top)
            reads = operator.reads if operator else ()
            pending = [n for n in reads if n not in self._listed and n not in self._views and n not in entered]
            entered.add(top)
            if pending:
                stack += pending
                continue
            times = [self.done.get(n) if n in self._listed else self._views.get(n, 0.0) for n in reads]
            if None in times:
                return None
            self._views[top] = max((time for time in times if time is not None), default=0.0)
            stack.pop()
        return self._views[number]


def schedule(program: Schematic, rates: Rates) -> Schedule:
    """Replay a compiled program.

    Parameters
    ----------
    program
        From `hwnas.profilers.qnn_schematic.read_schematic`.
    rates
        Of the chip, see `hwnas.profilers.qnn_chips`.
    """
    ready = _Ready(program)
    threads = [0.0] * rates.threads
    #: until when the main thread, the transfer engine and the matrix unit are taken
    taken = {"main": 0.0, "dma": 0.0, "hmx": 0.0}
    work: dict[str, dict[str, float]] = {"dma": {}, "hmx": {}, "hvx": {}}
    ends: list[tuple[float, float, int]] = []
    #: microseconds of one unit of each amount
    costs: dict[str, float] = {
        name: 1 / getattr(rates, name) for name in ("dma_bytes", "hmx_macs", "hvx_bytes", "division_bytes")
    }
    costs["operator_us"] = rates.operator_us
    forced = 0

    def finish(number: int, start: float, unit: str) -> float:
        """Occupy a unit from `start` on, and return until when."""
        operator = program.operators[number]
        took = sum(costs[name] * amount for name, amount in _amounts(operator).items())
        work[unit][operator.name] = work[unit].get(operator.name, 0.0) + took
        ready.done[number] = start + took
        ends.append((start + took, took, number))
        return start + took

    def begin(number: int, inputs: float, on_main: bool) -> None:
        """Give an operator to its unit. The main thread does not wait for a transfer that it began."""
        unit = program.operators[number].unit
        if on_main:
            inputs = max(inputs, taken["main"])
        if unit == "hvx" and not on_main:
            thread = min(range(rates.threads), key=threads.__getitem__)
            threads[thread] = finish(number, max(threads[thread], inputs), unit)
            return
        end = finish(number, max(taken.get(unit, 0.0), inputs), unit)
        if unit != "hvx":
            taken[unit] = end
        if on_main and unit != "dma":
            taken["main"] = end

    queues = [
        deque(number for number in numbers if program.operators[number].unit)
        for numbers in (program.main, program.matrix, program.vector, program.elementwise)
    ]
    while any(queues):
        moved = False
        for place, queue in enumerate(queues):
            while queue and (inputs := ready.at(program.operators[queue[0]])) is not None:
                begin(queue.popleft(), inputs, place == 0)
                moved = True
        if not moved:
            # tiles of one tensor are one operator in the graph but several in the queues: let the first one go
            forced += 1
            place = next(place for place, queue in enumerate(queues) if queue)
            begin(queues[place].popleft(), 0.0, place == 0)
    parts: dict[str, float] = {}
    critical = dict.fromkeys(costs, 0.0)
    front = 0.0
    for end, took, number in sorted(ends):
        if end > front:
            operator = program.operators[number]
            parts[operator.name] = parts.get(operator.name, 0.0) + end - front
            share = min(1.0, (end - front) / took) if took else 1.0
            for name, amount in _amounts(operator).items():
                critical[name] += share * amount
            front = end
    return Schedule(front, parts, work, critical, forced)
