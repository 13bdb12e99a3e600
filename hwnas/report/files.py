"""The exported files of a run with their numbers, as the files themselves say."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hwnas.export import metadata_of
from hwnas.latency_tables import METHODS
from hwnas.run import Run
from hwnas.spaces.errors import HwnasError

__all__ = ["ExportedFile", "exported_files"]

#: Files that are opened at most, and the largest that is.
_MOST_FILES, _MOST_BYTES = 40, 256 * 1000 * 1000


@dataclass(frozen=True)
class ExportedFile:
    """One ONNX file of a run.

    Attributes
    ----------
    name, size
        Path inside the run folder, and bytes.
    precision, accuracy, device
        What the file says; None where it does not.
    predicted_ms, latency_ms, interval_ms, method
        Predicted latency, and what the device gave by `method`; None where the file does not say.
    problem
        Why nothing was read; None if it was.
    """

    name: str
    size: int
    precision: str | None = None
    accuracy: float | None = None
    device: str | None = None
    predicted_ms: float | None = None
    latency_ms: float | None = None
    interval_ms: tuple[float, float] | None = None
    method: str | None = None
    problem: str | None = None


def exported_files(run: Run) -> list[ExportedFile]:
    """The ONNX files in a run folder, those at its top first; links that lead out of it are not followed."""
    paths = [*sorted(run.path.glob("*.onnx")), *sorted((run.path / "finalists").glob("*.onnx"))]
    inside = run.path.resolve()
    paths = [path for path in paths if path.resolve().is_relative_to(inside) and path.is_file()]
    return [_read(run.path, path) for path in paths[:_MOST_FILES]]


def _read(folder: Path, path: Path) -> ExportedFile:
    from hwnas.spaces.onnx_reader import load_onnx

    name, size = str(path.relative_to(folder)), path.stat().st_size
    if size > _MOST_BYTES:
        return ExportedFile(name, size, problem="too large to be opened for a report")
    try:
        notes = metadata_of(load_onnx(path))
    except HwnasError as error:
        return ExportedFile(name, size, problem=str(error))
    method = notes.get("method")
    kind = str(method).replace("-", "_") if method in METHODS else None
    interval = notes.get(f"{kind}_interval_ms")
    numbers = [_number(end) for end in interval] if isinstance(interval, list) and len(interval) == 2 else []
    low, high = numbers or (None, None)
    return ExportedFile(
        name,
        size,
        _text(notes, "precision"),
        _number(notes.get("accuracy")),
        _text(notes, "device"),
        _number(notes.get("predicted_ms")),
        _number(notes.get(f"{kind}_ms")),
        None if low is None or high is None else (low, high),
        _text(notes, "method"),
    )


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def _text(notes: Mapping[str, Any], key: str) -> str | None:
    value = notes.get(key)
    return None if value is None else str(value)
