"""Whole networks, each divided among its kernels: what predictors of single kernels learn from.

A network is measured end to end by the shared protocol, and the runtime's own counters, where it has some, divide that
among its kernels. What a kernel costs so includes what it costs in place: layout changes, cold caches, or nothing at
all where the runtime has fused it. Each network goes to the table's raw record as soon as it is measured.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from hwnas.latency_tables import LatencyTable
from hwnas.profilers.base import Profiler, Progress
from hwnas.profilers.protocol import Protocol
from hwnas.spaces.placement import PlacedKernel, Placement, place_kernels

if TYPE_CHECKING:
    from onnx import ModelProto

    from hwnas.spaces.graph import Graph

__all__ = ["DividedNetwork", "divide_networks", "divided_networks", "lean"]

_KIND = "division"


def lean(protocol: Protocol) -> Protocol:
    """The protocol with shorter passes and no further ones: of many networks, what single ones are off averages out."""
    return replace(
        protocol.for_networks(),
        warmup_s=min(0.1, protocol.network_warmup_s),
        pass_s=min(0.08, protocol.pass_s),
        min_samples=min(5, protocol.min_samples),
        max_passes=protocol.passes,
        counter_s=min(0.25, protocol.counter_s),
    )


@dataclass(frozen=True)
class DividedNetwork:
    """A measured network.

    Attributes
    ----------
    name
        What it is called in the record.
    placement
        Its kernels in their places.
    kernel_ms
        Milliseconds of each kernel; they add up to the network's latency.
    stable
        Whether the interval of that latency was as narrow as asked.
    counted
        Whether the runtime counted what each kernel took; else all have equal parts, and only their sum says something.
    """

    name: str
    placement: Placement
    kernel_ms: tuple[float, ...]
    stable: bool
    counted: bool = True

    @property
    def latency_ms(self) -> float:
        """Milliseconds of the whole network."""
        return sum(self.kernel_ms)


def divide_networks(
    graphs: Mapping[str, Graph],
    profiler: Profiler,
    table: LatencyTable,
    *,
    protocol: Protocol | None = None,
    prepare: Callable[[ModelProto], ModelProto] | None = None,
    progress: Progress | None = None,
    deadline: float | None = None,
) -> Iterator[DividedNetwork]:
    """Measure networks in turns, divide each among its kernels, and record it.

    Parameters
    ----------
    graphs
        Networks by a name that tells them apart for good.
    profiler, table
        The device, and its table opened with `LatencyTable.create`.
    protocol
        The measuring protocol, which `lean` shortens.
    prepare
        Applied to every model first, such as a quantiser.
    progress
        Called as ``progress(done, total, text)``, counting passes.
    deadline
        Moment of `time.monotonic` after which nothing new is begun.

    """
    protocol = lean(protocol or Protocol())

    def model(graph: Graph) -> ModelProto:
        written = graph.to_onnx()
        return written if prepare is None else prepare(written)

    def opener(graph: Graph) -> Callable[[], ModelProto]:
        return lambda: model(graph)

    models = {name: opener(graph) for name, graph in graphs.items()}
    for name, found in profiler.measure_many(models, protocol, progress=progress, deadline=deadline):
        graph = graphs[name]
        shares = profiler.kernel_shares(model(graph), [node.name for node in graph.nodes], protocol)
        placement, counted = place_kernels(graph), shares is not None
        if shares is None:
            shares = {node.name: 1 / len(graph.nodes) for node in graph.nodes}
        ms = [float(f"{found.median_ms * shares.get(node.name, 0.0):.4g}") for node in graph.nodes]
        table.record(
            _KIND,
            network=name,
            stable=found.stable,
            counted=counted,
            moved=[placement.weights, placement.activations, placement.largest],
            kernels=[
                [kernel.signature, kernel.after, kernel.before, value]
                for kernel, value in zip(placement.kernels, ms, strict=True)
            ],
        )
        yield DividedNetwork(name, placement, tuple(ms), found.stable, counted)


def divided_networks(table: LatencyTable) -> list[DividedNetwork]:
    """The networks in a table's raw record, oldest first; entries that cannot be used are left out."""
    found = (_read(entry) for entry in table.records(_KIND))
    return list({network.name: network for network in found if network is not None}.values())


def _read(entry: dict[str, Any]) -> DividedNetwork | None:
    name, moved, rows = entry.get("network"), entry.get("moved"), entry.get("kernels")
    if not isinstance(name, str) or not isinstance(moved, list) or not isinstance(rows, list) or not rows:
        return None
    if len(moved) != 3 or not all(type(value) is int and value >= 0 for value in moved):
        return None
    if not all(isinstance(row, list) and len(row) == 4 and all(isinstance(t, str) for t in row[:3]) for row in rows):
        return None
    times = [row[3] for row in rows]
    if not all(isinstance(ms, float | int) and math.isfinite(ms) and ms >= 0 for ms in times) or not sum(times):
        return None
    kernels = tuple(PlacedKernel(*row[:3]) for row in rows)
    stable, counted = entry.get("stable") is True, entry.get("counted", True) is True
    return DividedNetwork(name, Placement(kernels, *moved), tuple(map(float, times)), stable, counted)
