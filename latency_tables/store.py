"""Where tables live: the user's own root, then the tables that ship with hwnas."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from hwnas.latency_tables.device import DeviceRecord, check_key, plain_key
from hwnas.latency_tables.table import LatencyTable
from hwnas.spaces.errors import ConfigError, TableError

__all__ = ["TableInfo", "find_table", "list_tables", "shipped_root", "table_root"]


@dataclass(frozen=True)
class TableInfo:
    """One table that was found.

    Attributes
    ----------
    key
        Device key.
    path
        The table's folder.
    shipped
        Whether it came with hwnas (read-only) rather than from a profile run here.
    device
        Its device record; None if the table is damaged.
    rows, networks
        Number of distinct block and kernel rows, and of whole networks.
    problem
        One sentence saying what is wrong with the table; None if it can be used.
    """

    key: str
    path: Path
    shipped: bool
    device: DeviceRecord | None
    rows: int
    networks: int
    problem: str | None = None


def table_root(root: str | os.PathLike[str] | None = None) -> Path:
    """The folder in which new tables are made, and which is searched first.

    `root` if given, else the environment variable ``HWNAS_TABLES``, else ``$HWNAS_HOME/latency_tables``,
    where ``HWNAS_HOME`` defaults to ``~/.local/share/hwnas``. The folder need not exist yet.
    """
    if root is not None:
        return Path(root)
    if tables := os.environ.get("HWNAS_TABLES"):
        return Path(tables)
    if home := os.environ.get("HWNAS_HOME"):
        return Path(home) / "latency_tables"
    try:
        return Path.home() / ".local" / "share" / "hwnas" / "latency_tables"
    except RuntimeError as error:
        raise ConfigError("there is no home folder here; set HWNAS_TABLES to a folder for latency tables") from error


def shipped_root() -> Path:
    """The folder of the tables that ship with hwnas; read-only."""
    return Path(__file__).parent


def _roots(root: str | os.PathLike[str] | None) -> list[Path]:
    return list(dict.fromkeys([table_root(root), shipped_root()]))


def find_table(key: str, root: str | os.PathLike[str] | None = None) -> LatencyTable:
    """Open the table of the device `key`: the user's own if there is one, else the shipped one.

    Raises
    ------
    TableError
        If there is none (the message says how to make it), or it is damaged.
    """
    key = check_key(plain_key(key))
    for place in _roots(root):
        if (place / key / "device.json").is_file():
            return LatencyTable.load(place / key)
    raise TableError(
        f"there is no latency table for {key!r} in {table_root(root)}; "
        f"make one with: hwnas profile --device {key} --space SPACE"
    )


def list_tables(root: str | os.PathLike[str] | None = None) -> list[TableInfo]:
    """Every table that `find_table` can find, by key; a damaged table is listed with its problem."""
    found: dict[str, TableInfo] = {}
    for place in _roots(root):
        if not place.is_dir():
            continue
        for record in sorted(place.glob("*/device.json")):
            key, shipped = record.parent.name, place == shipped_root()
            if key in found:
                continue
            try:
                table = LatencyTable.load(record.parent)
                found[key] = TableInfo(key, table.path, shipped, table.device, len(table.rows), len(table.networks))
            except TableError as error:
                found[key] = TableInfo(key, record.parent, shipped, None, 0, 0, str(error))
    return [found[key] for key in sorted(found)]
