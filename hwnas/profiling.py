"""Profiling a space on a device: the first step of the main job."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace

from hwnas.latency_tables import LatencyTable, table_root
from hwnas.profilers import Protocol, get_profiler, profile_space
from hwnas.quantize import preparation
from hwnas.spaces.errors import ConfigError
from hwnas.spaces.space import SearchSpace, get_space

__all__ = ["ProfileSummary", "profile", "space_for"]

#: Whole networks that the correction of a table's sums is fitted on.
NETWORKS, QUICK_NETWORKS = 60, 24


@dataclass(frozen=True)
class ProfileSummary:
    """What one call of `profile` did.

    Attributes
    ----------
    device, space, table
        Device key, space spec, and the table's folder.
    method
        How the numbers came to be: ``measured``, ``modelled``, ...
    measured, networks
        Block rows and whole networks added by this call.
    skipped
        Block rows that were there already.
    missing
        Rows and networks that are still missing, because the time budget ran out.
    unstable
        Rows added whose interval stayed wider than asked.
    seconds
        Time spent.
    drift
        Largest deviation of the reference model from its level when the table was begun, as a share.
    """

    device: str
    space: str
    table: str
    method: str
    measured: int
    skipped: int
    missing: int
    unstable: int
    networks: int
    seconds: float
    drift: float


def space_for(space: str, data: str | None = None, data_root: str | None = None) -> SearchSpace:
    """The space, with resolution, channels and classes of the data set where `space` does not set them.

    Raises
    ------
    ConfigError, DataError
        If the space or the data set does not exist.
    """
    if data is None:
        return get_space(space)
    from hwnas.data import load_data

    found = load_data(data, root=data_root)
    return get_space(space, resolution=found.resolution, channels=found.channels, classes=found.classes)


def profile(
    device: str,
    space: str,
    *,
    data: str | None = None,
    data_root: str | None = None,
    threads: int | None = None,
    context: str | None = None,
    networks: int | None = None,
    repeat_until: float = 0.02,
    quick: bool = False,
    budget_s: float | None = None,
    tables: str | None = None,
    engine: str = "local",
    address: str | None = None,
    progress: Callable[[float, float, str], None] | None = None,
) -> ProfileSummary:
    """Measure the blocks of a space on a device, and whole networks to correct their sums.

    What the table has already is kept, so calling it again goes on after a kill or a used-up budget.

    Parameters
    ----------
    device
        Device key, such as ``cpu-onnxruntime`` or ``cpu-onnxruntime.int8``.
    space, data, data_root
        Space spec, and the data set that gives its resolution, channels and classes.
    threads
        Threads of one inference; part of the device's key.
    context
        ``isolated`` measures blocks alone, ``network`` inside whole networks; ``both`` is the default.
    networks
        Whole networks in the table after this call.
    repeat_until
        Repeat until half of the interval of each median is within this share of it.
    quick
        The shorter protocol, for trying things out.
    budget_s
        Seconds after which nothing new is begun.
    tables
        Folder of tables.
    engine, address
        ``ray`` has the node of a Ray cluster that owns the device measure, see `hwnas.ray_profiling`.
    progress
        Called as ``progress(done, total, text)``.

    Raises
    ------
    ConfigError, DeviceUnavailable, TableError
        If the device or space does not exist, the device is not here, or the table is another machine's.
    """
    if engine != "local":
        if engine != "ray":
            raise ConfigError(f"there is no engine {engine!r}; choose one of local, ray")
        from hwnas.ray_profiling import profile_on_cluster

        options = {
            "space": space,
            "data": data,
            "data_root": data_root,
            "threads": threads,
            "context": context,
            "networks": networks,
            "repeat_until": repeat_until,
            "quick": quick,
        }
        return profile_on_cluster(device, options, address, budget_s, tables, progress)
    if address is not None:
        raise ConfigError(f"the address {address} is of a Ray cluster; use the engine ray, or leave it out")
    if not 0 < repeat_until < 1:
        raise ConfigError(f"repeat_until is a share between 0 and 1, such as 0.02, not {repeat_until}")
    chosen = space_for(space, data, data_root)
    profiler = get_profiler(device, tables=tables, **({} if threads is None else {"threads": threads}))
    protocol = replace(Protocol.quick() if quick else Protocol(), repeat_until=repeat_until)
    table = LatencyTable.create(table_root(tables) / profiler.key, profiler.device_record(protocol))
    contexts = (context,) if context and context != "both" else None
    if networks is None:
        networks = QUICK_NETWORKS if quick else NETWORKS
    start = time.monotonic()
    summary = profile_space(
        chosen,
        profiler,
        table,
        contexts=contexts,
        networks=networks,
        protocol=protocol,
        budget_s=budget_s,
        progress=progress,
        prepare=preparation(profiler.file_precision),
    )
    measured = summary.added.get("isolated", 0) + summary.added.get("network", 0)
    present = len(chosen.catalog) * len(set(summary.missing) - {"networks"})
    missing = sum(summary.missing.values())
    blocks_missing = missing - summary.missing.get("networks", 0)
    return ProfileSummary(
        device=profiler.key,
        space=chosen.spec,
        table=str(table.path),
        method=profiler.method,
        measured=measured,
        skipped=max(0, present - measured - blocks_missing),
        missing=missing,
        unstable=len(summary.unstable),
        networks=summary.added.get("networks", 0),
        seconds=time.monotonic() - start,
        drift=max(abs(value - 1) for value in summary.drift),
    )
