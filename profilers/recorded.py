"""``recorded.<table>``: replays a stored latency table; needs no hardware and no runtime.

It answers for models that hwnas wrote, because those say in their metadata which network, block or
kernel they are. Its numbers keep the method and the device of the table: replaying a measurement is
not measuring.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from hwnas.latency_tables import CONTEXTS, DeviceRecord, LatencyTable, NetworkRow, Row, find_table, list_tables
from hwnas.profilers.base import Measurement, Model, Profiler, as_bytes
from hwnas.profilers.protocol import Protocol
from hwnas.spaces.errors import ConfigError, ModelError, TableError

__all__ = ["Recorded"]


class Recorded(Profiler):
    """Replays the rows and networks of a table.

    Parameters
    ----------
    table
        A table, or the device key of one, such as ``cpu-onnxruntime.int8``.
    root
        Where to look for it, see `hwnas.latency_tables.table_root`.
    context
        ``network`` or ``isolated``: which rows to replay; None takes the first that there is.

    Raises
    ------
    TableError
        If there is no such table.
    """

    name = "recorded"
    device_class = "recorded"
    summary = "replays a stored latency table, named after the dot: recorded.cpu-onnxruntime"

    def __init__(
        self, table: LatencyTable | str, *, root: str | Path | None = None, context: str | None = None
    ) -> None:
        super().__init__()
        self.table = find_table(table, root) if isinstance(table, str) else table
        self.context = context
        self.method = self.table.device.method
        self.precision, self.threads = self.table.device.precision, self.table.device.threads

    @classmethod
    def from_qualifiers(cls, qualifiers: Sequence[str], **options: Any) -> Recorded:
        """Open the table whose key the qualifiers spell."""
        if not qualifiers:
            known = ", ".join(f"recorded.{table.key}" for table in list_tables(options.get("root"))) or "none yet"
            raise ConfigError(f"recorded needs the name of a table; there is: {known}")
        return cls(".".join(qualifiers), **options)

    @property
    def key(self) -> str:
        """``recorded.`` and the table's device key."""
        return f"{self.name}.{self.table.device.key}"

    def device_record(self, protocol: Protocol | None = None) -> DeviceRecord:
        """The table's own record, under this profiler's key."""
        return replace(self.table.device, key=self.key)

    def measure(self, model: Model, protocol: Protocol | None = None) -> Measurement:
        """Look the model up: as a network, as a block or kernel, or as the sum of its blocks.

        Raises
        ------
        ModelError
            If the model does not say what it is.
        TableError
            If the table lacks it; the message says how to measure it.
        """
        notes = _metadata(as_bytes(model))
        space, text = notes.get("hwnas.space"), notes.get("hwnas.architecture")
        signature = notes.get("hwnas.signature")
        if space is not None and text is not None:
            architecture = _architecture(text)
            row = self.table.network(space, architecture)
            return _replayed(row) if row else self._sum_of_blocks(space, architecture)
        if signature is None:
            raise ModelError("the model does not say what it is; recorded only knows models written by hwnas")
        return _replayed(self._row(signature))

    def _row(self, signature: str) -> Row:
        row = self.table.lookup(signature, self.context)
        if row is None:
            kind = f"{self.context} row" if self.context else "row"
            device = self.table.device.key
            raise TableError(
                f"the table of {device} has no {kind} for {signature}; "
                f"measure it with: hwnas profile --device {device} --space SPACE"
            )
        return row

    def _sum_of_blocks(self, space: str, architecture: tuple[int, ...]) -> Measurement:
        from hwnas.spaces.space import get_space

        signatures = [block.signature for block in get_space(space).lower(architecture).blocks]
        # one context for all blocks: a sum of both kinds would be neither
        contexts = CONTEXTS if self.context is None else (self.context,)
        found = {context: [self.table.lookup(s, context) for s in signatures] for context in contexts}
        best = max(contexts, key=lambda context: sum(row is not None for row in found[context]))
        rows = [row for row in found[best] if row is not None]
        if len(rows) < len(signatures):
            device = self.table.device.key
            example = next(s for s, row in zip(signatures, found[best], strict=True) if row is None)
            raise TableError(
                f"the table of {device} lacks {len(signatures) - len(rows)} of the {len(signatures)} blocks of this "
                f"network, such as {example}; measure them with: hwnas profile --device {device} --space '{space}'"
            )
        return Measurement(
            median_ms=sum(row.median_ms for row in rows),
            low_ms=sum(row.low_ms for row in rows),
            high_ms=sum(row.high_ms for row in rows),
            repeats=min(row.repeats for row in rows),
            stable=all(row.stable for row in rows),
            method=self.method,
        )


def _replayed(row: Row | NetworkRow) -> Measurement:
    return Measurement(row.median_ms, row.low_ms, row.high_ms, row.repeats, row.stable, row.method)


def _metadata(data: bytes) -> dict[str, str]:
    import onnx

    try:
        model = onnx.load_model_from_string(data)
    except Exception as error:  # protobuf's errors have no common base
        raise ModelError(f"the model is not readable ONNX: {str(error).splitlines()[0][:300]}") from error
    return {entry.key: entry.value for entry in model.metadata_props}


def _architecture(text: str) -> tuple[int, ...]:
    try:
        choices = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ModelError(f"hwnas.architecture in the model's metadata is not JSON: {text[:80]!r}") from error
    if not isinstance(choices, list) or not all(type(choice) is int for choice in choices):
        raise ModelError(f"hwnas.architecture in the model's metadata is not a list of integers: {text[:80]!r}")
    return tuple(choices)
