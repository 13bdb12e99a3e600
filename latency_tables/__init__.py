"""Latency tables: what each piece of a search space costs on a device, with where the number came from."""

from __future__ import annotations

from hwnas.latency_tables.device import METHODS, DeviceRecord
from hwnas.latency_tables.host import host_facts
from hwnas.latency_tables.store import TableInfo, find_table, list_tables, shipped_root, table_root
from hwnas.latency_tables.table import CONTEXTS, LatencyTable, NetworkRow, Row

__all__ = [
    "CONTEXTS",
    "METHODS",
    "DeviceRecord",
    "LatencyTable",
    "NetworkRow",
    "Row",
    "TableInfo",
    "find_table",
    "host_facts",
    "list_tables",
    "shipped_root",
    "table_root",
]
