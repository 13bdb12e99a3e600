"""The latency table of one device: append-only files that survive a kill, checked when read.

A table is a folder::

    device.json      hardware, runtime, protocol            (`DeviceRecord`)
    latencies.csv    one row a block or kernel and context  (`Row`)
    networks.csv     whole networks measured end to end     (`NetworkRow`)
    samples.jsonl    the raw record behind the rows

Rows are only ever appended; of several rows with the same key the last one counts. A kill can tear
the line that is being written: readers ignore a last line without its line break, and opening the
table for writing cuts it off.
"""

from __future__ import annotations

import csv
import io
import json
import math
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import astuple, dataclass, fields, replace
from pathlib import Path
from typing import Any, Self, TypeVar

import numpy as np

from hwnas.latency_tables.device import METHODS, DeviceRecord, now
from hwnas.spaces.errors import TableError
from hwnas.spaces.files import append_line, atomic_write, held, make_folder, mend_tail

__all__ = ["CONTEXTS", "LatencyTable", "NetworkRow", "Row"]

#: Where a row's number comes from, the preferred one first: read from the runtime's counters inside
#: whole networks, or measured on the block alone.
CONTEXTS = ("network", "isolated")

_MAX_FILE_BYTES = 256 * 1000 * 1000
_MAX_LINE = 64 * 1024
_MAX_RECORD = 16 * 1024 * 1024
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")
_INTEGER = re.compile(r"\d{1,18}")


@dataclass(frozen=True)
class _Timing:
    """The columns that both kinds of rows share; latencies in milliseconds, with an interval around the median."""

    median_ms: float
    low_ms: float
    high_ms: float
    repeats: int
    stable: bool
    method: str
    measured_at: str

    def _check(self, what: str) -> None:
        if not what or len(what) > 4096 or not what.isprintable():
            raise TableError(f"{what[:80]!r} cannot key a row of a latency table")
        for name in ("median_ms", "low_ms", "high_ms"):
            value = getattr(self, name)
            if not isinstance(value, float | int) or not math.isfinite(value) or value <= 0:
                raise TableError(f"{name} of {what[:80]} is {value}, not a positive number of milliseconds")
        if not self.low_ms <= self.median_ms <= self.high_ms:
            raise TableError(f"{what[:80]} has a median outside of its interval")
        if self.repeats < 1:
            raise TableError(f"repeats of {what[:80]} is {self.repeats}, not a positive number")
        if self.method not in METHODS:
            raise TableError(f"the method of {what[:80]} is {self.method!r:.80}, not one of {', '.join(METHODS)}")
        if len(self.measured_at) > 64 or not self.measured_at.isprintable():
            raise TableError(f"measured_at of {what[:80]} is no date")

    def _rounded(self) -> Self:
        """The row as the files hold it, six digits: what is in memory equals what is read back."""
        low, median, high = (float(f"{value:.6g}") for value in (self.low_ms, self.median_ms, self.high_ms))
        return replace(self, low_ms=low, median_ms=median, high_ms=high)


@dataclass(frozen=True)
class _RowKey:
    signature: str
    context: str


@dataclass(frozen=True)
class Row(_Timing, _RowKey):
    """Latency of one block or kernel: its signature, a context of `CONTEXTS`, and the timing."""

    def __post_init__(self) -> None:
        if self.context not in CONTEXTS:
            raise TableError(f"the context of {self.signature[:80]} is {self.context!r:.80}, not isolated or network")
        self._check(self.signature)


@dataclass(frozen=True)
class _NetworkKey:
    space: str
    architecture: tuple[int, ...]


@dataclass(frozen=True)
class NetworkRow(_Timing, _NetworkKey):
    """Latency of one whole network: the canonical text of its space, its architecture, and the timing."""

    def __post_init__(self) -> None:
        if not self.architecture or any(choice < 0 for choice in self.architecture):
            raise TableError(f"{self.architecture!r:.80} is not an architecture of {self.space[:80]}")
        self._check(self.space)


_Entry = TypeVar("_Entry", Row, NetworkRow)


class LatencyTable:
    """Measured latencies of blocks, kernels and networks on one device.

    Make one with `create` (to add rows) or `load` (to read). Raw samples stay in ``samples.jsonl``
    and are read only when asked for.

    Attributes
    ----------
    path
        The table's folder.
    device
        What was measured, and how.
    rows
        ``(signature, context)`` to `Row`.
    """

    def __init__(self, path: Path, device: DeviceRecord, *, writable: bool) -> None:
        self.path = path
        self.device = device
        self.rows: dict[tuple[str, str], Row] = {}
        self._networks: dict[tuple[str, tuple[int, ...]], NetworkRow] = {}
        self._writable = writable
        for row in _read_csv(path / "latencies.csv", Row, self._checked):
            self._accept(row)
        for network in _read_csv(path / "networks.csv", NetworkRow, self._checked):
            self._accept(network)

    def __repr__(self) -> str:
        return f"LatencyTable({self.device.key}: {len(self.rows)} rows, {len(self._networks)} networks)"

    @classmethod
    def load(cls, path: str | Path) -> LatencyTable:
        """Open a table for reading.

        Raises
        ------
        TableError
            If there is no table, or a file is damaged; the message names the file and line.
        """
        folder = Path(path)
        if not (folder / "device.json").is_file():
            raise TableError(f"there is no latency table in {folder} (device.json is missing)")
        return cls(folder, DeviceRecord.load(folder / "device.json"), writable=False)

    @classmethod
    def create(cls, path: str | Path, device: DeviceRecord) -> LatencyTable:
        """Open the table in `path` for adding rows of `device`; make it if there is none.

        Raises
        ------
        TableError
            If the table there was measured on other hardware, with another runtime or method.
        ConfigError
            If the folder cannot be written.
        """
        folder = make_folder(path)
        record = folder / "device.json"
        if record.exists():
            existing = DeviceRecord.load(record)
            if found := existing.differences(device):
                raise TableError(
                    f"the table in {folder} was not made by this device ({'; '.join(found)}); use another folder"
                )
            device = existing
        elif (folder / "latencies.csv").exists():
            raise TableError(f"{folder} holds latencies but no device.json; move them away or use another folder")
        else:
            atomic_write(record, device.to_json())
        for name, kind in (("latencies.csv", Row), ("networks.csv", NetworkRow)):
            file = folder / name
            mend_tail(file)
            if not file.exists() or file.stat().st_size == 0:
                append_line(file, _csv_line([item.name for item in fields(kind)]))
        mend_tail(folder / "samples.jsonl")
        return cls(folder, device, writable=True)

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Hold the table for one writer; a second one is refused. Released by the system when the process dies.

        Raises
        ------
        TableError
            If the table is open for reading only, or another process is adding to it.
        """
        self._check_writable()
        refusal = TableError(f"another run is adding to the table in {self.path}; wait until it ends")
        with held(self.path / "device.json", refusal):
            yield

    # ------------------------------------------------------------------ reading

    @property
    def networks(self) -> list[NetworkRow]:
        """Whole networks measured end to end, in the order in which they were first measured."""
        return list(self._networks.values())

    def network(self, space: str, architecture: Sequence[int]) -> NetworkRow | None:
        """The row of one network, or None."""
        return self._networks.get((space, tuple(architecture)))

    def lookup(self, signature: str, context: str | None = None) -> Row | None:
        """The row of `signature` in `context`, or None; without a context, the first of `CONTEXTS` that has one."""
        for place in CONTEXTS if context is None else (context,):
            if row := self.rows.get((signature, place)):
                return row
        return None

    def vector(self, signatures: Sequence[str], context: str | None = None) -> np.ndarray:
        """Medians of many signatures in milliseconds, shape ``(len(signatures),)``, NaN where there is no row."""
        found = (self.lookup(signature, context) for signature in signatures)
        return np.array([math.nan if row is None else row.median_ms for row in found], dtype=np.float64)

    def records(self, kind: str | None = None) -> Iterator[dict[str, Any]]:
        """Entries of the raw record, oldest first; only those of `kind` if given.

        Raises
        ------
        TableError
            If the record is damaged; the message names the line.
        """
        path = self.path / "samples.jsonl"
        for number, line in _lines(path, _MAX_RECORD):
            try:
                entry = json.loads(line, parse_constant=_no_constant)
            except (ValueError, RecursionError) as error:
                raise TableError(f"{path} line {number} is not JSON; restore the file or profile again") from error
            if not isinstance(entry, dict) or not isinstance(entry.get("kind"), str):
                raise TableError(f"{path} line {number} is no record of a measurement; restore the file")
            if kind is None or entry["kind"] == kind:
                yield entry

    # ------------------------------------------------------------------ adding

    def add(self, row: Row, samples: Sequence[float] | None = None) -> None:
        """Append a row, and the raw `samples` (milliseconds) behind it; on disk when this returns.

        Raises
        ------
        TableError
            If the row's method is not the table's, or the table is open for reading only.
        """
        self._check_writable()
        row = self._checked(row)._rounded()
        if samples is not None:
            self.record("samples", signature=row.signature, context=row.context, ms=_compact(samples))
        append_line(self.path / "latencies.csv", _csv_line(_cells(row)))
        self._accept(row)

    def add_network(self, row: NetworkRow, samples: Sequence[float] | None = None) -> None:
        """Append a whole network's latency; otherwise like `add`."""
        self._check_writable()
        row = self._checked(row)._rounded()
        if samples is not None:
            self.record("samples", space=row.space, architecture=list(row.architecture), ms=_compact(samples))
        append_line(self.path / "networks.csv", _csv_line(_cells(row)))
        self._accept(row)

    def record(self, kind: str, **entry: Any) -> None:
        """Append one entry to the raw record ``samples.jsonl``; `entry` must be JSON-able and finite."""
        self._check_writable()
        text = json.dumps({"kind": kind, "at": now(), **entry}, separators=(",", ":"), allow_nan=False)
        append_line(self.path / "samples.jsonl", text)

    def _check_writable(self) -> None:
        if not self._writable:
            raise TableError(f"the table in {self.path} is open for reading; profile into a table of your own")

    def _checked(self, row: _Entry) -> _Entry:
        if row.method != self.device.method:
            raise TableError(f"a {row.method} latency cannot join the {self.device.method} table of {self.device.key}")
        return row

    def _accept(self, row: Row | NetworkRow) -> None:
        if isinstance(row, Row):
            self.rows[row.signature, row.context] = row
        else:
            self._networks[row.space, row.architecture] = row


def _compact(samples: Sequence[float]) -> list[float]:
    """Samples with four significant digits: finer than any timer's noise, and a third of the bytes."""
    return [float(f"{value:.4g}") for value in samples]


# ---------------------------------------------------------------------- CSV


def _cells(row: Row | NetworkRow) -> list[str]:
    cells = []
    for value in astuple(row):
        if isinstance(value, bool):
            cells.append("yes" if value else "no")
        elif isinstance(value, tuple):
            cells.append(" ".join(map(str, value)))
        else:
            cells.append(f"{value:.6g}" if isinstance(value, float) else str(value))
    return cells


def _csv_line(cells: Sequence[str]) -> str:
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="").writerow(cells)
    return buffer.getvalue()


def _number(text: str) -> float:
    if not _NUMBER.fullmatch(text):
        raise ValueError(f"{text[:40]!r} is not a number")
    return float(text)


def _integer(text: str) -> int:
    if not _INTEGER.fullmatch(text):
        raise ValueError(f"{text[:40]!r} is not a whole number")
    return int(text)


def _flag(text: str) -> bool:
    if text not in ("yes", "no"):
        raise ValueError(f"{text[:40]!r} is neither yes nor no")
    return text == "yes"


_PARSERS: dict[str, Callable[[str], Any]] = {
    "median_ms": _number,
    "low_ms": _number,
    "high_ms": _number,
    "repeats": _integer,
    "stable": _flag,
    "architecture": lambda text: tuple(_integer(part) for part in text.split(" ")),
}


def _read_csv(path: Path, kind: type[_Entry], check: Callable[[_Entry], _Entry]) -> Iterator[_Entry]:
    columns = [item.name for item in fields(kind)]
    for number, line in _lines(path, _MAX_LINE):
        try:
            cells = next(csv.reader([line], strict=True), [])
        except csv.Error as error:
            raise TableError(f"{path} line {number} is not a CSV line ({error}); restore or delete it") from error
        if number == 1:
            if cells != columns:
                raise TableError(f"{path} must begin with the columns {','.join(columns)}; it is another kind of file")
            continue
        if len(cells) != len(columns):
            raise TableError(
                f"{path} line {number} has {len(cells)} columns instead of {len(columns)}; restore or delete the line"
            )
        try:
            values = {name: _PARSERS.get(name, str)(cell) for name, cell in zip(columns, cells, strict=True)}
            row = check(kind(**values))
        except (ValueError, TableError) as error:
            raise TableError(f"{path} line {number}: {error}") from error
        yield row


def _lines(path: Path, limit: int) -> Iterator[tuple[int, str]]:
    """Numbered complete lines of a text file; a last line without its line break was torn by a kill and is left out."""
    try:
        if path.stat().st_size > _MAX_FILE_BYTES:
            raise TableError(f"{path} is larger than {_MAX_FILE_BYTES // 1_000_000} MB; this is no latency table")
        data = path.read_bytes()
    except FileNotFoundError:
        return
    except OSError as error:
        raise TableError(f"cannot read {path}: {error.strerror}") from error
    for number, raw in enumerate(data[: data.rfind(b"\n") + 1].split(b"\n")[:-1], start=1):
        if len(raw) > limit:
            raise TableError(f"{path} line {number} is {len(raw)} bytes long; this is no latency table")
        try:
            yield number, raw.removesuffix(b"\r").decode()
        except UnicodeDecodeError as error:
            raise TableError(f"{path} line {number} is not UTF-8 text; restore or delete the line") from error


def _no_constant(name: str) -> float:
    raise ValueError(f"{name} is not a number")
