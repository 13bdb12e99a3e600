"""Profiling through Ray: the node that owns the device measures, the driver writes the table.

The campaign is that of `hwnas.profile`, run at the owner on a copy of the table, a stretch of time after the other.
After each the rows that were added come back and are appended here. A node that is lost costs at most one stretch.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from hwnas.latency_tables import table_root
from hwnas.latency_tables.device import check_key
from hwnas.profiling import ProfileSummary
from hwnas.ray_engine import RayCluster, answer_of
from hwnas.ray_tasks import TABLE_FILES, describe, profile_part, task
from hwnas.spaces.errors import TableError
from hwnas.spaces.files import atomic_write, held, make_folder, mend_tail

__all__ = ["STRETCH_S", "profile_on_cluster"]

#: Seconds that the owner measures before the rows come back.
STRETCH_S = 60.0


def profile_on_cluster(
    device: str,
    options: Mapping[str, Any],
    address: str | None,
    budget_s: float | None,
    tables: str | None,
    progress: Callable[[float, float, str], None] | None = None,
    stretch_s: float = STRETCH_S,
) -> ProfileSummary:
    """Profile a space on a device of a Ray cluster.

    Parameters
    ----------
    device, options
        Device key, and the other arguments of `hwnas.profile`.
    address
        Of the cluster; None starts Ray on this machine.
    budget_s
        Seconds after which nothing new is begun.
    tables
        Folder of tables.
    progress
        Called as ``progress(done, total, text)``.
    stretch_s
        Seconds between two returns of rows.

    Raises
    ------
    HwnasError
        Those of `hwnas.profile`, or if the cluster or an owner of the device is not there.
    """
    start = time.monotonic()
    with RayCluster(address) as cluster:
        found = answer_of(cluster.on_owner(device, describe, task(key=device, **_threads(options))))
        key = check_key(str(found["key"]))
        folder = make_folder(table_root(tables) / key)
        lock = folder / ".ray-lock"
        lock.touch()
        with held(lock, TableError(f"the table {folder} is in use by another process; wait until it ends")):
            total: ProfileSummary | None = None
            while True:
                left = stretch_s if budget_s is None else min(stretch_s, budget_s - (time.monotonic() - start))
                content = task(key=key, options={**options, "budget_s": max(left, 0.001)})
                before = [_content(folder / name) for name in TABLE_FILES]
                answer, *grown = cluster.on_owner(key, profile_part, content, *before, returns=1 + len(TABLE_FILES))
                for name, old, new in zip(TABLE_FILES, before, grown, strict=True):
                    _append(folder / name, old, new)
                part = ProfileSummary(**answer_of(answer))
                total = _joined(total, part, str(folder), time.monotonic() - start)
                if progress is not None:
                    done = total.skipped + total.measured + total.networks
                    progress(done, done + total.missing, f"measured by {device}'s node")
                if not part.missing or (budget_s is not None and time.monotonic() - start >= budget_s):
                    return total


def _threads(options: Mapping[str, Any]) -> dict[str, Any]:
    return {"threads": options.get("threads")}


def _content(path: Path) -> bytes:
    """A file of the table without a torn last line; empty if it is not there."""
    if not path.exists():
        return b""
    if path.suffix != ".json":
        mend_tail(path)
    return path.read_bytes()


def _append(path: Path, old: bytes, new: bytes) -> None:
    """Add what a file has grown by; a kill tears at most its last line."""
    if not new:
        return
    if not old:
        atomic_write(path, new)
        return
    with open(path, "ab") as stream:
        stream.write(new)
        stream.flush()
        os.fsync(stream.fileno())


def _joined(total: ProfileSummary | None, part: ProfileSummary, table: str, seconds: float) -> ProfileSummary:
    """The summary of all stretches so far."""
    if total is None:
        return replace(part, table=table, seconds=seconds)
    return replace(
        part,
        table=table,
        seconds=seconds,
        measured=total.measured + part.measured,
        skipped=total.skipped,
        unstable=total.unstable + part.unstable,
        networks=total.networks + part.networks,
        drift=max(total.drift, part.drift),
    )
