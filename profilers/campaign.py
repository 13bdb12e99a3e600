"""Profiling a whole search space into a latency table, in a way that survives being killed.

Two kinds of rows are made, see `hwnas.latency_tables.CONTEXTS`:

``isolated``
    Each block of the space is measured as a model of its own.
``network``
    A few dozen whole networks, chosen so that they show every block several times, are measured
    end to end; the runtime's own counters then divide each network's time among its kernels. What a
    block costs is the median over the networks that contain it. The kernels get rows as well.

Every finished pass and every divided network goes to the table's raw record at once. A run that was
killed therefore loses at most the pass it was in.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from hwnas.latency_tables import CONTEXTS, LatencyTable, NetworkRow, Row
from hwnas.latency_tables.device import now
from hwnas.profilers.base import FLOOR_MS, Measurement, Profiler, Progress, RuntimeProfiler
from hwnas.profilers.coverage import covering_networks
from hwnas.profilers.protocol import Pass, Protocol, interval
from hwnas.profilers.timing import pinned
from hwnas.spaces.errors import ConfigError, TableError

if TYPE_CHECKING:
    from onnx import ModelProto

    from hwnas.spaces.graph import Graph
    from hwnas.spaces.space import Architecture, SearchSpace

__all__ = ["Summary", "missing_rows", "network_model", "profile_space"]

#: In how many networks each block is observed.
COVER = 5
_NETWORK_SEED = 20_240

Prepare = Callable[["ModelProto"], "ModelProto"]


@dataclass(frozen=True)
class Summary:
    """What one call of `profile_space` did.

    Attributes
    ----------
    added
        Number of rows added: ``isolated``, ``network`` (blocks), ``kernels``, ``networks``.
    missing
        Number of rows that are still missing, by context, and whole ``networks``.
    unstable
        Keys of the rows added whose interval stayed wider than the protocol asks.
    seconds
        Time spent, by the keys of `missing`.
    drift
        Smallest and largest drift of the reference model that was seen.
    """

    added: dict[str, int]
    missing: dict[str, int]
    unstable: tuple[str, ...]
    seconds: dict[str, float]
    drift: tuple[float, float]

    @property
    def complete(self) -> bool:
        """Whether everything that was asked for is in the table."""
        return not any(self.missing.values())


def missing_rows(
    space: SearchSpace, table: LatencyTable, contexts: Iterable[str] = CONTEXTS
) -> dict[str, tuple[str, ...]]:
    """Signatures of the space's blocks that the table has no row for, by context."""
    return {
        context: tuple(block.signature for block in space.catalog if table.lookup(block.signature, context) is None)
        for context in contexts
    }


def network_model(space: SearchSpace, architecture: Architecture, graph: Graph | None = None) -> ModelProto:
    """The ONNX model of a whole network, which says in its metadata which one it is."""
    graph = graph or space.lower(architecture)
    notes = {"hwnas.space": space.spec, "hwnas.architecture": json.dumps([int(choice) for choice in architecture])}
    return graph.to_onnx(metadata=notes)


def profile_space(
    space: SearchSpace,
    profiler: Profiler,
    table: LatencyTable,
    *,
    contexts: Sequence[str] | None = None,
    networks: int = 0,
    cover: int = COVER,
    protocol: Protocol | None = None,
    budget_s: float | None = None,
    progress: Progress | None = None,
    prepare: Prepare | None = None,
    seed: int = 0,
) -> Summary:
    """Measure what `table` lacks of `space`; call it again to go on after a kill or an exhausted budget.

    Parameters
    ----------
    space
        The search space.
    profiler
        The device.
    table
        Where rows go, opened with `LatencyTable.create`.
    contexts
        ``isolated``, ``network`` or both; None takes all that the device can give.
    networks
        How many random networks the table shall hold end to end, for correcting sums of blocks.
    cover
        In how many networks each block is observed for its ``network`` row.
    protocol
        The measuring protocol.
    budget_s
        Seconds after which nothing new is begun; None takes the time it needs.
    progress
        Called as ``progress(done, total, text)``, counting passes.
    prepare
        Applied to every model before it is measured, such as a quantiser.
    seed
        Seed of the random networks and of the covering ones.

    Raises
    ------
    ConfigError
        If a context is unknown or the device cannot give it.
    TableError
        If the table belongs to another device, is read-only, or another run is adding to it.
    """
    counts_kernels = type(profiler).kernel_shares is not Profiler.kernel_shares
    if contexts is None:
        contexts = CONTEXTS if counts_kernels else ("isolated",)
    for context in contexts:
        if context not in CONTEXTS:
            raise ConfigError(f"there is no context {context!r}; choose isolated or network")
        if context == "network" and not counts_kernels:
            raise ConfigError(f"{profiler.key} has no kernel counters, so it cannot give network rows; use isolated")
    if networks < 0 or cover < 1 or (budget_s is not None and not budget_s > 0):
        raise ConfigError("profiling needs networks >= 0, cover >= 1 and a budget above zero seconds")
    protocol = protocol or Protocol()
    if differences := table.device.differences(profiler.device_record(protocol)):
        raise TableError(f"the table in {table.path} is of another device: {'; '.join(differences)}")
    if budget_s is not None:
        # groups that take longer than the budget would all be left unfinished
        protocol = replace(protocol, interleave_s=min(protocol.interleave_s, budget_s / 4))
    with table.writing():
        campaign = _Campaign(space, profiler, table, protocol, prepare, seed, budget_s, progress)
        campaign.set_reference()
        jobs: dict[str, Callable[[], None]] = {}
        if "isolated" in contexts:
            jobs["isolated"] = campaign.isolated
        if "network" in contexts:
            jobs["network"] = lambda: campaign.in_context(cover)
        if networks:
            jobs["networks"] = lambda: campaign.whole_networks(networks)
        campaign.expect("isolated", len(missing_rows(space, table, ["isolated"])["isolated"]))
        campaign.expect("network", len(campaign.networks_to_divide(cover)))
        campaign.expect("networks", len(campaign.networks_to_measure(networks)))
        campaign.run(jobs)
        missing = {name: len(rows) for name, rows in missing_rows(space, table, contexts).items()}
        if networks:
            missing["networks"] = len(campaign.networks_to_measure(networks))
    return campaign.summary(missing)


class _Log:
    """Keeps passes in the table's raw record (a `PassLog`); those of models without a row are read back."""

    def __init__(self, table: LatencyTable, protocol: Protocol) -> None:
        self._table = table
        self._protocol = protocol.fingerprint
        self._earlier: dict[str, list[Pass]] | None = None

    def earlier(self, key: str) -> list[Pass]:
        if self._earlier is None:
            self._earlier = {}
            for entry in self._table.records("pass"):
                if entry.get("protocol") == self._protocol and (result := Pass.from_json(entry)):
                    self._earlier.setdefault(str(entry.get("model")), []).append(result)
        return self._earlier.get(key, [])

    def add(self, key: str, result: Pass) -> None:
        self._table.record("pass", model=key, protocol=self._protocol, **result.to_json())


@dataclass
class _Campaign:
    space: SearchSpace
    profiler: Profiler
    table: LatencyTable
    protocol: Protocol
    prepare: Prepare | None
    seed: int
    budget_s: float | None
    progress: Progress | None
    added: dict[str, int] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    unstable: list[str] = field(default_factory=list)
    drifts: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.deadline = None if self.budget_s is None else time.monotonic() + self.budget_s
        self._expected: dict[str, int] = {}
        self._done = 0

    def set_reference(self) -> None:
        """Measure drift against the level that the table began with, not the one of this run."""
        if not isinstance(self.profiler, RuntimeProfiler):
            return
        anchor = self.profiler.anchor
        for entry in self.table.records("reference"):
            level = entry.get("anchor_ms")
            if isinstance(level, float) and math.isfinite(level) and level > 0:
                anchor.reference_ms = level
                return
        with pinned(self.profiler.cores(self.protocol)):
            anchor.reference_ms = anchor.level(self.protocol)
        overhead = self.profiler.overhead_ms(self.protocol)
        self.table.record("reference", anchor_ms=anchor.reference_ms, overhead_ms=overhead)

    # ------------------------------------------------------------------ running

    def expect(self, job: str, models: int) -> None:
        self._expected[job] = models * self.protocol.passes

    def run(self, jobs: dict[str, Callable[[], None]]) -> None:
        self._expected = {name: self._expected[name] for name in jobs}
        for name, job in jobs.items():
            self._expected.pop(name)
            start = time.monotonic()
            job()
            self.seconds[name] = time.monotonic() - start

    def late(self) -> bool:
        return self.deadline is not None and time.monotonic() >= self.deadline

    def measure(
        self, models: dict[str, Callable[[], ModelProto]], protocol: Protocol, done: Callable[[str, Measurement], None]
    ) -> None:
        if not models:
            return
        reached = 0

        def report(count: int, total: int, text: str) -> None:
            nonlocal reached
            reached = count
            if self.progress is not None:
                self.progress(self._done + count, self._done + total + sum(self._expected.values()), text)

        results = self.profiler.measure_many(
            models, protocol, progress=report, log=_Log(self.table, protocol), deadline=self.deadline
        )
        for key, result in results:
            self.drifts.append(result.drift)
            done(key, result)
        self._done += reached

    def prepared(self, model: ModelProto) -> ModelProto:
        return model if self.prepare is None else self.prepare(model)

    def keep(self, job: str, row: Row | NetworkRow, key: str) -> None:
        """Append a row and count it."""
        if isinstance(row, Row):
            self.table.add(row)
        else:
            self.table.add_network(row)
        self.added[job] = self.added.get(job, 0) + 1
        if not row.stable:
            self.unstable.append(key)

    def network_key(self, architecture: Architecture) -> str:
        return f"{self.space.spec} {list(architecture)}"

    # ------------------------------------------------------------------ isolated blocks

    def isolated(self) -> None:
        """Measure every block that has no row as a model of its own."""
        blocks = {block.signature: block for block in self.space.catalog}

        def opener(block: Graph) -> Callable[[], ModelProto]:
            return lambda: self.prepared(block.to_onnx())

        models = {
            f"{signature} isolated": opener(blocks[signature])
            for signature in missing_rows(self.space, self.table, ["isolated"])["isolated"]
        }

        def done(key: str, result: Measurement) -> None:
            signature = key.removesuffix(" isolated")
            self.keep("isolated", Row(signature, "isolated", *_timing(result)), signature)

        self.measure(models, self.protocol, done)

    # ------------------------------------------------------------------ whole networks

    def _whole(self, architectures: Iterable[Architecture]) -> dict[str, Callable[[], ModelProto]]:
        def opener(architecture: Architecture) -> Callable[[], ModelProto]:
            return lambda: self.prepared(network_model(self.space, architecture))

        return {self.network_key(architecture): opener(architecture) for architecture in architectures}

    def networks_to_measure(self, count: int) -> list[Architecture]:
        """The random networks that are still missing, of `count`; always the same ones for a seed."""
        present = {row.architecture for row in self.table.networks if row.space == self.space.spec}
        rng = np.random.default_rng([_NETWORK_SEED, self.seed])
        count = min(count, self.space.size)
        drawn: dict[Architecture, None] = {}
        for _ in range(1000):
            if len(drawn) >= count:
                break
            drawn.update(dict.fromkeys(tuple(row) for row in self.space.sample(count, rng).tolist()))
        absent = [architecture for architecture in list(drawn)[:count] if architecture not in present]
        return absent[: max(0, count - len(present))]

    def whole_networks(self, count: int) -> None:
        """Measure random networks end to end."""
        architectures = {self.network_key(a): a for a in self.networks_to_measure(count)}

        def done(key: str, result: Measurement) -> None:
            row = NetworkRow(self.space.spec, architectures[key], *_timing(result))
            self.keep("networks", row, key)

        self.measure(self._whole(architectures.values()), self.protocol.for_networks(), done)

    # ------------------------------------------------------------------ blocks in context

    @cached_property
    def divided(self) -> dict[Architecture, dict[str, Any]]:
        """Networks of this space whose time was divided among their nodes, from the raw record."""
        found: dict[Architecture, dict[str, Any]] = {}
        for entry in self.table.records("shares"):
            if entry.get("space") == self.space.spec and _valid_shares(entry):
                found[tuple(entry["architecture"])] = entry
        return found

    def networks_to_divide(self, cover: int) -> list[Architecture]:
        """Networks that have yet to be observed, so that each missing block occurs in `cover` of them."""
        missing = set(missing_rows(self.space, self.table, ["network"])["network"])
        need = np.array([cover if block.signature in missing else 0 for block in self.space.catalog])
        if not need.any():
            return []
        if self.divided:
            need -= (self.space.counts(np.array(list(self.divided))) > 0).sum(axis=0)
        return covering_networks(self.space, need, seed=self.seed, avoid=self.divided)

    def in_context(self, cover: int) -> None:
        """Divide whole networks among their blocks until each block was seen in `cover` of them, then make rows."""
        wanted = self.networks_to_divide(cover)
        architectures = {self.network_key(architecture): architecture for architecture in wanted}

        def done(key: str, result: Measurement) -> None:
            if not self.late():
                self._divide(architectures[key], result)

        self.measure(self._whole(wanted), self.protocol.for_networks(), done)
        if self.networks_to_divide(cover):
            return  # out of time; what was observed is kept for the next run
        self._rows_in_context()

    def _divide(self, architecture: Architecture, result: Measurement) -> None:
        graph = self.space.lower(architecture)
        model = self.prepared(network_model(self.space, architecture, graph))
        shares = self.profiler.kernel_shares(model, [node.name for node in graph.nodes], self.protocol)
        if shares is None:
            raise ConfigError(f"{self.profiler.key} gave no kernel counters, so it cannot give network rows")
        entry: dict[str, Any] = {
            "space": self.space.spec,
            "architecture": list(architecture),
            "wall_ms": result.median_ms,
            "stable": result.stable,
            "shares": {name: float(f"{share:.4g}") for name, share in shares.items()},
        }
        self.table.record("shares", **entry)
        self.divided[architecture] = entry

    def _rows_in_context(self) -> None:
        blocks: dict[str, list[tuple[float, bool]]] = {}
        kernels: dict[str, list[tuple[float, bool]]] = {}
        for architecture, entry in self.divided.items():
            graph = self.space.lower(architecture)
            wall, stable, shares = entry["wall_ms"], bool(entry.get("stable")), entry["shares"]
            for parts, found in ((graph.blocks, blocks), (graph.kernels, kernels)):
                for part in parts:
                    share = sum(shares.get(node.name, 0.0) for node in part.nodes)
                    found.setdefault(part.signature, []).append((wall * share, stable))
        catalog = {block.signature for block in self.space.catalog}
        for job, found in (("network", blocks), ("kernels", kernels)):
            for signature, observed in found.items():
                wanted = job == "kernels" or signature in catalog
                if wanted and self.table.lookup(signature, "network") is None:
                    self.keep(job, self._row_in_context(signature, observed), signature)

    def _row_in_context(self, signature: str, observed: list[tuple[float, bool]]) -> Row:
        # a kernel that was fused into its neighbour costs nothing of its own: the least latency there is
        low, median, high = (max(FLOOR_MS, value) for value in interval([ms for ms, _ in observed]))
        steady = sum(stable for _, stable in observed)
        stable = 2 * steady >= len(observed)
        return Row(signature, "network", median, low, high, len(observed), stable, self.profiler.method, now())

    # ------------------------------------------------------------------ the end

    def summary(self, missing: dict[str, int]) -> Summary:
        drift = (min(self.drifts), max(self.drifts)) if self.drifts else (1.0, 1.0)
        return Summary(dict(self.added), missing, tuple(self.unstable), dict(self.seconds), drift)


def _timing(result: Measurement) -> tuple[float, float, float, int, bool, str, str]:
    return (
        result.median_ms,
        result.low_ms,
        result.high_ms,
        result.repeats,
        result.stable,
        result.method,
        now(),
    )


def _valid_shares(entry: dict[str, Any]) -> bool:
    """Whether a record read from a file holds an architecture, a latency, and shares that can be used."""
    architecture, wall, shares = entry.get("architecture"), entry.get("wall_ms"), entry.get("shares")
    return (
        isinstance(architecture, list)
        and all(type(choice) is int for choice in architecture)
        and isinstance(wall, float | int)
        and math.isfinite(wall)
        and wall > 0
        and isinstance(shares, dict)
        and all(isinstance(share, float | int) and 0 <= share <= 1 for share in shares.values())
    )
