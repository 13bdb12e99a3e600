"""The price of any ONNX file on a profiled device, with its coverage and its sources."""

from __future__ import annotations

import json
import math
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from statistics import NormalDist
from typing import TYPE_CHECKING

import numpy as np

from hwnas.kernel_prices import KernelPrices
from hwnas.latency_tables import LatencyTable, find_table
from hwnas.latency_tables.device import plain_key
from hwnas.profilers import Profiler, get_profiler, missing_rows, profilers
from hwnas.spaces.errors import ConfigError, HwnasError
from hwnas.spaces.graph import Graph
from hwnas.spaces.kernel import Opaque
from hwnas.spaces.onnx_reader import load_onnx, read_onnx
from hwnas.spaces.space import Architecture, SearchSpace, get_space

if TYPE_CHECKING:
    from onnx import ModelProto

__all__ = ["Prediction", "predict"]


@dataclass(frozen=True)
class Prediction:
    """A predicted latency.

    Attributes
    ----------
    latency_ms, interval_ms
        Milliseconds of one inference, of as many images as the device takes at once, and the interval that a
        measurement lies in with probability `level`; without width where the device computes it.
    level
        Of the interval.
    coverage
        Share of the latency that rests on measurements of these very blocks or kernels, or that the device computes
        and does not guess.
    sources
        Share of the latency by source: ``measured`` (this network was), ``table``, ``learned``, ``roofline``, or the
        method of a device that computes it.
    method
        How the device's numbers came to be: ``measured``, ``modelled``, ...
    device, hardware
        Device key, and the hardware that the table was made on.
    precision
        Number format that the price holds for.
    unknown
        Operators that hwnas has no kernel for, with their number.
    """

    latency_ms: float
    interval_ms: tuple[float, float]
    level: float
    coverage: float
    sources: dict[str, float]
    method: str
    device: str
    hardware: str
    precision: str
    unknown: dict[str, int]


def predict(
    model: str | Path | bytes | ModelProto, device: str, *, tables: str | None = None, level: float = 0.9
) -> Prediction:
    """Predict the latency of an ONNX model on a device that has a table; nothing is run.

    A file that hwnas exported from a profiled space is priced by its blocks and the correction
    fitted on whole networks (or read, if this very network was measured); anything else by its
    kernels, see `hwnas.kernel_prices.KernelPrices`. A device that only computes latencies needs no
    table: it is asked.

    Parameters
    ----------
    model
        The model or its file.
    device
        Device key, such as ``cpu-onnxruntime``.
    tables
        Folder of tables.
    level
        Probability of the interval.

    Raises
    ------
    ModelError, TableError, ConfigError
        If the file is not ONNX, there is no table, or `level` is not between 0 and 1.
    """
    if not 0 < level < 1:
        raise ConfigError(f"the level of an interval is between 0 and 1, such as 0.9, not {level}")
    loaded = load_onnx(model)
    graph = read_onnx(loaded)
    if (profiler := _computing(device)) is not None:
        return _by_device(profiler, loaded, graph, level)
    table = find_table(device, tables)
    known = _known_architecture(loaded, graph)
    if known is not None and _covers(table, *known):
        return _by_blocks(*known, table, level)
    return _by_kernels(graph, table, level)


def _computing(device: str) -> Profiler | None:
    """The profiler of a device that computes latencies and is here."""
    name = plain_key(device).partition(".")[0]
    if name not in profilers.names():
        return None
    cls: type[Profiler] = profilers.get(name)
    if not cls.computes or cls.unavailable() is not None:
        return None
    profiler = get_profiler(device)
    return profiler if profiler.computes else None  # the same name may measure, where the device is


def _by_device(profiler: Profiler, model: ModelProto, graph: Graph, level: float) -> Prediction:
    unknown = {node.name: node.kernel.type for node in graph.nodes if isinstance(node.kernel, Opaque)}
    ms = profiler.measure(model).median_ms
    shares = profiler.kernel_shares(model) or {}
    record = profiler.device_record()
    return Prediction(
        latency_ms=ms,
        interval_ms=(ms, ms),
        level=level,
        coverage=1 - sum(shares.get(name, 0.0) for name in unknown),
        sources={profiler.method: 1.0},
        method=profiler.method,
        device=profiler.key,
        hardware=record.name,
        precision=profiler.precision,
        unknown=dict(Counter(unknown.values())),
    )


def _covers(table: LatencyTable, space: SearchSpace, architecture: Architecture) -> bool:
    """Whether the table holds this very network, every block of its space in one context, or enough whole networks."""
    from hwnas.network_prices import enough_networks

    known = table.network(space.spec, architecture) is not None
    return known or not all(missing_rows(space, table).values()) or bool(enough_networks(space, table))


def _known_architecture(model: ModelProto, graph: Graph) -> tuple[SearchSpace, Architecture] | None:
    """The space and architecture that the file says it is of, if its kernels bear that out."""
    notes = {entry.key: entry.value for entry in model.metadata_props}
    try:
        space = get_space(notes["hwnas.space"])
        architecture = space.validate(json.loads(notes["hwnas.architecture"]))
    except (KeyError, ValueError, HwnasError):
        return None
    # the file itself decides: a stale note on an edited network must not be believed
    found, expected = _products(graph), _products(space.lower(architecture))
    return (space, architecture) if found == expected else None


def _products(graph: Graph) -> Counter[tuple[int, str]]:
    """What a network computes, whatever its precision: quantisation moves activations, but no product."""
    return Counter((kernel.macs, str([*kernel.inputs.values()])) for kernel in graph.kernels if kernel.macs)


def _by_blocks(space: SearchSpace, architecture: Architecture, table: LatencyTable, level: float) -> Prediction:
    from hwnas.network_prices import NetworkPrices, price_model

    measured = table.network(space.spec, architecture)
    if measured is not None:
        interval = (measured.low_ms, measured.high_ms)
        return _prediction(table, measured.median_ms, interval, level, {"measured": 1.0}, {})
    prices = price_model(space, table)
    source = "learned" if isinstance(prices, NetworkPrices) else "table"
    row = np.array([architecture])
    low, high = (float(end[0]) for end in prices.interval(row, level))
    return _prediction(table, float(prices.predict(row)[0]), (low, high), level, {source: 1.0}, {})


def _by_kernels(graph: Graph, table: LatencyTable, level: float) -> Prediction:
    prices = KernelPrices(table)
    found = prices.price(graph)
    total = sum(price.ms for price in found)
    sources: dict[str, float] = {}
    for price in found:
        sources[price.source] = sources.get(price.source, 0.0) + price.ms / total
    z = NormalDist().inv_cdf(0.5 + level / 2)
    below, above = [], []
    for source, share in sources.items():
        factors = prices.learned_interval(level) if source == "learned" else None
        if factors is not None:
            below.append(share * total * max(0.0, 1 - factors[0]))
            above.append(share * total * max(0.0, factors[1] - 1))
        else:  # errors of a family point the same way in all of its kernels, so they are not averaged out
            width = z * sum(price.ms * price.error for price in found if price.source == source)
            below.append(width)
            above.append(width)
    interval = (max(0.0, total - math.hypot(*below)), total + math.hypot(*above))
    unknown = Counter(node.kernel.type for node in graph.nodes if isinstance(node.kernel, Opaque))
    return _prediction(table, total, interval, level, sources, dict(unknown))


def _prediction(
    table: LatencyTable,
    ms: float,
    interval: tuple[float, float],
    level: float,
    sources: dict[str, float],
    unknown: dict[str, int],
) -> Prediction:
    return Prediction(
        latency_ms=ms,
        interval_ms=interval,
        level=level,
        coverage=min(1.0, sources.get("measured", 0.0) + sources.get("table", 0.0)),
        sources=sources,
        method=table.device.method,
        device=table.device.key,
        hardware=table.device.name,
        precision=table.device.precision,
        unknown=unknown,
    )
