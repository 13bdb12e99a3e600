"""Profiling a device for any network: networks drawn from a prior of real ones.

A predictor is fitted again and again on what was measured. How far it was off on each network before it learned from
it is an honest learning curve, and printed as the work goes on. If asked for, every other network is the one of a few
on which its boosters disagree most (active sampling); by what was measured that is no better than random networks, and
worse in int8, because doubt chooses odd ones (``docs/benchmarks.md``).
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np

from hwnas.kernel_predictor import KernelPredictor
from hwnas.latency_tables import LatencyTable, table_root
from hwnas.profilers import Protocol, get_profiler
from hwnas.profilers.division import DividedNetwork, divide_networks, divided_networks
from hwnas.quantize import preparation
from hwnas.spaces.errors import ConfigError
from hwnas.spaces.graph import Graph
from hwnas.spaces.placement import place_kernels
from hwnas.spaces.prior import prior_network

__all__ = ["PREDICTOR_FILE", "KernelProfile", "LearningPoint", "load_predictor", "profile_kernels"]

#: of a table's folder: the predictor that was fitted on its record
PREDICTOR_FILE = "kernels.json"
#: networks measured unless told otherwise, and at random first
NETWORKS, RANDOM = 240, 16
#: networks measured between two fits: so many, or this share of those that there are
BATCH, SHARE = 8, 0.15
#: networks drawn for each one that is measured
CANDIDATES = 8
_SEED = 31_415


@dataclass(frozen=True)
class LearningPoint:
    """How good the predictor was when `networks` networks with `kernels` different kernels were measured.

    `within_10` is the share of the next networks, which it had not seen, that it predicted within 10 %, and
    `mean_error` their mean relative error.
    """

    networks: int
    kernels: int
    within_10: float
    mean_error: float

    def __str__(self) -> str:
        return (
            f"{self.networks} networks, {self.kernels} kernels: of the next ones {self.within_10:.0%} were predicted "
            f"within 10 %, mean error {self.mean_error:.1%}"
        )


@dataclass(frozen=True)
class KernelProfile:
    """What one call of `profile_kernels` did.

    Attributes
    ----------
    device, table
        Device key, and the table's folder.
    method
        How the numbers came to be: ``measured``, ``modelled``, ...
    measured, networks, kernels
        Networks measured by this call, those in the table, and different kernels in them.
    missing
        Networks that are still missing, because the time budget ran out.
    curve
        How good predictions were as the work went on.
    interval_90
        Factors on a predicted latency between which 90 % of measurements lie.
    seconds
        Time spent.
    """

    device: str
    table: str
    method: str
    measured: int
    networks: int
    kernels: int
    missing: int
    curve: tuple[LearningPoint, ...]
    interval_90: tuple[float, float] | None
    seconds: float


def profile_kernels(
    device: str,
    *,
    threads: int | None = None,
    networks: int = NETWORKS,
    active: bool = False,
    quick: bool = False,
    budget_s: float | None = None,
    tables: str | None = None,
    progress: Callable[[float, float, str], None] | None = None,
    report: Callable[[LearningPoint], None] | None = None,
) -> KernelProfile:
    """Measure networks of many kinds on a device, and fit the predictor that prices any network with them.

    What the table has already is kept, so calling it again goes on after a kill or a used-up budget.

    Parameters
    ----------
    device, threads, quick, tables, progress
        See `hwnas.profile`.
    networks
        Networks in the table after this call.
    active
        Whether every other network is one that the predictor is in doubt about; all are random otherwise.
    budget_s
        Seconds after which nothing new is begun.
    report
        Called after each batch.

    Raises
    ------
    ConfigError, DeviceUnavailable, TableError
        If the device does not exist or is not here, or the table is another machine's.
    """
    if networks < 2:
        raise ConfigError(f"predictors of kernels learn from two networks or more, not {networks}")
    start = time.monotonic()
    deadline = None if budget_s is None else start + budget_s
    profiler = get_profiler(device, tables=tables, **({} if threads is None else {"threads": threads}))
    protocol = Protocol.quick() if quick else Protocol()
    table = LatencyTable.create(table_root(tables) / profiler.key, profiler.device_record(protocol))
    curve: list[LearningPoint] = []
    with table.writing():
        known = divided_networks(table)
        before = len(known)
        predictor: KernelPredictor | None = None
        while len(known) < networks and (deadline is None or time.monotonic() < deadline):
            if len(known) >= 2:
                predictor = KernelPredictor.fit(known, calibrate=False)
            guided = active and len(known) >= RANDOM
            size = min(max(BATCH, round(SHARE * len(known))), networks - len(known))
            batch = _next(known, size, predictor if guided else None)
            done = len(known)

            def count(part: float, total: float, text: str, done: int = done, size: int = size) -> None:
                if progress is not None:
                    progress(done - before + size * part / total, networks - before, text)

            found = list(
                divide_networks(
                    batch,
                    profiler,
                    table,
                    protocol=protocol,
                    prepare=preparation(profiler.file_precision),
                    progress=count,
                    deadline=deadline,
                )
            )
            if predictor is not None and found:
                curve.append(_point(known, found, predictor))
                if report is not None:
                    report(curve[-1])
            known += found
        interval = None if len(known) < 2 else _fitted(table, known).interval(0.9)
    return KernelProfile(
        device=profiler.key,
        table=str(table.path),
        method=profiler.method,
        measured=len(known) - before,
        networks=len(known),
        kernels=_kernels(known),
        missing=max(0, networks - len(known)),
        curve=tuple(curve),
        interval_90=interval,
        seconds=time.monotonic() - start,
    )


def load_predictor(table: LatencyTable) -> KernelPredictor | None:
    """The predictor of a table; None if its device was not profiled for any network."""
    file = Path(table.path) / PREDICTOR_FILE
    return _load(file, file.stat().st_mtime_ns) if file.exists() else None


@lru_cache(maxsize=8)
def _load(file: Path, written: int) -> KernelPredictor:  # noqa: ARG001 - a file that was written anew is read anew
    """Read a predictor once: its trees take half a second."""
    return KernelPredictor.load(file)[0]


def _fitted(table: LatencyTable, known: list[DividedNetwork]) -> KernelPredictor:
    """The predictor of all networks of a table, fitted if that has not been done."""
    file = table.path / PREDICTOR_FILE
    if file.exists():
        found, notes = KernelPredictor.load(file)
        if notes.get("networks") == len(known):
            return found
    fitted = KernelPredictor.fit(known)
    fitted.save(file, networks=len(known), device=table.device.key)
    return fitted


def _next(known: list[DividedNetwork], count: int, predictor: KernelPredictor | None) -> dict[str, Graph]:
    """The networks to measure next, by name: in turn, or in every other place, of a few, the one most in doubt.

    Doubt alone would only choose odd ones, and networks as they come are what has to be predicted.
    """
    names = (network.name.removeprefix("prior ") for network in known)
    begun = 1 + max((int(name) for name in names if name.isdigit()), default=-1)

    def draw(number: int) -> Graph:
        return prior_network(np.random.default_rng([_SEED, number]))

    if predictor is None:
        return {f"prior {number}": draw(number) for number in range(begun, begun + count)}
    chosen = {}
    for place in range(count):
        block = range(begun + place * CANDIDATES, begun + (place + 1) * CANDIDATES)
        graphs = {number: draw(number) for number in (block if place % 2 else block[:1])}
        doubt = {number: predictor.doubt(place_kernels(graph)) for number, graph in graphs.items() if place % 2}
        best = max(doubt, key=doubt.__getitem__, default=block[0])
        chosen[f"prior {best}"] = graphs[best]
    return chosen


def _kernels(networks: list[DividedNetwork]) -> int:
    return len({kernel.signature for network in networks for kernel in network.placement.kernels})


def _point(known: list[DividedNetwork], found: list[DividedNetwork], predictor: KernelPredictor) -> LearningPoint:
    errors = np.array([abs(predictor.latency(network.placement) / network.latency_ms - 1) for network in found])
    return LearningPoint(len(known), _kernels(known), float((errors <= 0.1).mean()), float(errors.mean()))
