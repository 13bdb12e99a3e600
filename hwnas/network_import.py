"""Latencies of whole networks that somebody else measured become a table, so that a space can be priced from them."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from hwnas.evaluators.tabular import nasbench201_columns
from hwnas.latency_tables import DeviceRecord, LatencyTable, NetworkRow, table_root
from hwnas.latency_tables.device import now
from hwnas.spaces.errors import DataError, ModelError
from hwnas.spaces.space import Architecture, SearchSpace, get_space

__all__ = ["import_networks"]

_MAX_BYTES = 64 * 1000 * 1000
_COLUMNS = ("architecture", "ms")


def import_networks(
    source: str | Path,
    device: str,
    *,
    space: str = "nasbench201",
    hardware: str,
    runtime: str,
    precision: str = "float32",
    batch: int = 1,
    method: str = "measured",
    tables: str | None = None,
) -> LatencyTable:
    """Make a table of whole networks; `hwnas.network_prices` learns the prices of a small space from ten or more.

    Parameters
    ----------
    source
        A CSV file with the columns ``architecture`` (choices of all decisions by number, separated by blanks) and
        ``ms``; or a latency column of the published NAS-Bench-201 tables, such as ``nnmeter.myriad_vpu_ncs2``.
    device
        Key of the table, such as ``vpu-myriad.nnmeter``; what precedes its first ``-`` is the class of the device.
    space
        Spec of the space that the architectures are of.
    hardware, runtime, precision, batch, method
        What was measured, with what, in which number format, for how many images at once, and how.
    tables
        Folder of tables.

    Raises
    ------
    DataError
        If the file or column is absent or damaged; the message names the line.
    TableError
        If there is such a table of other hardware, or a setting cannot be used.
    """
    chosen = get_space(space)
    rows = list(_file(Path(source), chosen) if Path(source).is_file() else _column(str(source), chosen))
    record = DeviceRecord(
        key=device,
        name=hardware,
        device_class=device.partition("-")[0],
        runtime=runtime,
        runtime_version="",
        precision=precision,
        threads=1,
        batch=batch,
        method=method,
        protocol={"imported": Path(source).name},
    )
    table = LatencyTable.create(table_root(tables) / record.key, record)
    with table.writing():
        for architecture, ms in rows:
            table.add_network(NetworkRow(chosen.spec, architecture, ms, ms, ms, 1, True, method, now()))
    return table


def _file(path: Path, space: SearchSpace) -> Iterator[tuple[Architecture, float]]:
    if path.stat().st_size > _MAX_BYTES:
        raise DataError(f"{path} is larger than {_MAX_BYTES // 1_000_000} MB; give a file of architectures and ms")
    try:
        lines = csv.DictReader(io.StringIO(path.read_text(encoding="utf-8-sig")), strict=True)
        if missing := [name for name in _COLUMNS if name not in (lines.fieldnames or ())]:
            raise DataError(f"{path} has no column {missing[0]!r}; it needs the columns {' and '.join(_COLUMNS)}")
        for line in lines:
            yield _row(line["architecture"], line["ms"], space, f"{path} line {lines.line_num}")
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path} is no CSV file ({error}); save it as UTF-8 text with commas") from error


def _row(architecture: str | None, ms: str | None, space: SearchSpace, where: str) -> tuple[Architecture, float]:
    try:
        latency = float(ms or "")
        if not (math.isfinite(latency) and latency > 0):
            raise ValueError(f"{ms!r} is not a positive number of milliseconds")
        return space.validate([int(choice) for choice in (architecture or "").split()]), latency
    except (ValueError, ModelError) as error:
        raise DataError(f"{where}: {error}") from error


def _column(name: str, space: SearchSpace) -> Iterator[tuple[Architecture, float]]:
    published = get_space("nasbench201")
    if space.spec != published.spec:
        raise DataError(f"there is no file {name}, and the published tables are of {published.spec}, not {space.spec}")
    if "." not in name or "/" in name:
        raise DataError(f"there is no file {name}; give a CSV file, or a column such as nnmeter.myriad_vpu_ncs2")
    values = nasbench201_columns([name])[name]
    there = np.flatnonzero(np.isfinite(values) & (values > 0))
    for architecture, ms in zip(space.all()[there].tolist(), values[there].tolist(), strict=True):
        yield tuple(architecture), float(ms)
