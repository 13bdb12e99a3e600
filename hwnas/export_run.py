"""Exporting the winner of a finished run once more: in another precision, to another place, measured."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hwnas.spaces.errors import ConfigError
from hwnas.spaces.files import atomic_write

__all__ = ["PRECISIONS", "ExportResult", "Progress", "export_run", "measure_file"]

Progress = Callable[[float, float, str], None]
PRECISIONS = ("float32", "int8")


@dataclass(frozen=True)
class ExportResult:
    """An exported file.

    Attributes
    ----------
    onnx, precision, bytes
        The file, its number format and its size.
    accuracy, float32_accuracy
        On the test set, by onnxruntime: of this file, and of the float32 one.
    latency_ms, interval_ms
        Latency on each device of the run that is here, in this precision, and its interval; empty if not asked for.
    method
        How these numbers came to be: ``measured``, ``simulated``, ...
    """

    onnx: str
    precision: str
    bytes: int
    accuracy: float
    float32_accuracy: float
    latency_ms: dict[str, float]
    interval_ms: dict[str, tuple[float, float]]
    method: str | None


def export_run(
    run: str | Path,
    *,
    precision: str = "float32",
    output: str | Path | None = None,
    measure: bool = True,
    data_root: str | None = None,
    progress: Progress | None = None,
) -> ExportResult:
    """Export the winner of a run, check its accuracy on the test set, and measure it on the run's devices.

    Parameters
    ----------
    run
        Folder of a finished run.
    precision
        ``float32`` or ``int8`` (static QDQ, calibrated on training images).
    output
        The file to write; ``best.onnx`` or ``best.int8.onnx`` in the run folder if not given.
    measure
        Whether to measure.
    data_root
        Folder of the data set, if it is not where the run found it.
    progress
        Called as ``progress(done, total, text)``.

    Raises
    ------
    ConfigError
        If the run has no winner yet, or the precision is unknown.
    """
    from hwnas.data import load_data
    from hwnas.delivery import latency_notes
    from hwnas.export import annotate, verify
    from hwnas.plan import SearchSettings
    from hwnas.quantize import quantize_onnx
    from hwnas.run import Run
    from hwnas.spaces.space import get_space

    if precision not in PRECISIONS:
        raise ConfigError(f"there is no export in {precision!r}; choose {' or '.join(PRECISIONS)}")
    opened = Run.open(run, write=False)
    best = opened.best
    if best is None:
        raise ConfigError(
            f"the run {opened.path} has no winner yet; finish it with: hwnas search --resume {opened.path}"
        )
    settings = SearchSettings.from_run(opened.settings)
    space = get_space(best["space"])
    data = load_data(
        settings.data,
        root=data_root or settings.data_root,
        limit=settings.limit,
        seed=settings.seed,
        resolution=space.resolution,
    )
    tag = "".join(map(str, best["architecture"]))
    source = opened.path / "finalists" / f"{tag}.onnx"
    if precision == "float32":
        target = Path(output) if output is not None else opened.path / "best.float32.onnx"
        _report(progress, 0, "testing")
        accuracy = float32 = verify(source, data).onnx_accuracy
        atomic_write(target, source.read_bytes())
    else:
        target = Path(output) if output is not None else opened.path / "best.int8.onnx"
        _report(progress, 0, "quantising and testing")
        quantised = quantize_onnx(source, target, data=data, seed=settings.seed)
        accuracy, float32 = quantised.int8_accuracy, quantised.float_accuracy
    measured: dict[str, Any] = {}
    if measure:
        _report(progress, 1, "measuring")
        measured = measure_file(target, settings, precision)
        for device, result in measured.items():
            latency = latency_notes(result.method, result.median_ms, (result.low_ms, result.high_ms))
            annotate(target, {"device": device, "method": result.method, **latency})
    _report(progress, 2, "done")
    return ExportResult(
        onnx=str(target),
        precision=precision,
        bytes=target.stat().st_size,
        accuracy=accuracy,
        float32_accuracy=float32,
        latency_ms={device: result.median_ms for device, result in measured.items()},
        interval_ms={device: (result.low_ms, result.high_ms) for device, result in measured.items()},
        method=next((result.method for result in measured.values()), None),
    )


def measure_file(target: Path, settings: Any, precision: str) -> dict[str, Any]:
    """Measure a file on the devices of the run's latency constraints, in a precision that takes the file."""
    from hwnas.constraints import parse_constraints
    from hwnas.profilers import Protocol, get_profiler, profilers

    found = {}
    for constraint in parse_constraints(settings.constraints, root=settings.tables):
        if constraint.metric != "latency" or not constraint.device or constraint.device.startswith("recorded."):
            continue
        name, *qualifiers = constraint.device.split(".")
        cls = profilers.get(name)
        # a float32 file is computed in bfloat16 or float16 if that is what the run's device does
        formats = [known for known in cls.precisions if (known == "int8") == (precision == "int8")]
        if not formats:
            raise ConfigError(f"{name} measures {' and '.join(cls.precisions)}, not {precision}; add --no-measure")
        chosen = next((qualifier for qualifier in qualifiers if qualifier in formats), formats[0])
        kept = [qualifier for qualifier in qualifiers if qualifier not in cls.precisions]
        device = ".".join([name, *([chosen] if chosen != cls.precisions[0] else []), *kept])
        profiler = get_profiler(device, tables=settings.tables)
        found[profiler.key] = profiler.measure(target.read_bytes(), Protocol().for_networks())
    return found


def _report(progress: Progress | None, done: float, text: str) -> None:
    if progress is not None:
        progress(done, 2, text)
