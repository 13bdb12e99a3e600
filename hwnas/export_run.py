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
    compiled
        Files for the target that the export was asked for; empty without one.
    """

    onnx: str
    precision: str
    bytes: int
    accuracy: float
    float32_accuracy: float
    latency_ms: dict[str, float]
    interval_ms: dict[str, tuple[float, float]]
    method: str | None
    compiled: tuple[str, ...] = ()


def export_run(
    run: str | Path,
    *,
    precision: str | None = None,
    output: str | Path | None = None,
    measure: bool = True,
    target: str | None = None,
    data_root: str | None = None,
    progress: Progress | None = None,
) -> ExportResult:
    """Export the winner of a run, check its accuracy on the test set, and measure it on the run's devices.

    Parameters
    ----------
    run
        Folder of a finished run.
    precision
        ``float32`` or ``int8`` (static QDQ, calibrated on training images); None takes what the target needs, or
        float32.
    output
        The file to write; ``best.onnx`` or ``best.int8.onnx`` in the run folder if not given.
    measure
        Whether to measure, on the target too.
    target
        Device key of one that loads a compiled form, such as ``dsp-qnn:57``, which is written beside the file.
    data_root
        Folder of the data set, if it is not where the run found it.
    progress
        Called as ``progress(done, total, text)``.

    Raises
    ------
    ConfigError
        If the run has no winner yet, the precision is unknown or not the target's, or the target loads ONNX files.
    DeviceUnavailable
        If the target's compiler is not here.
    """
    from hwnas.data import load_data
    from hwnas.delivery import latency_notes
    from hwnas.export import annotate, verify
    from hwnas.plan import SearchSettings
    from hwnas.profilers import Profiler, Protocol, get_profiler
    from hwnas.quantize import quantize_onnx
    from hwnas.run import Run
    from hwnas.spaces.space import get_space

    device: Profiler | None = None if target is None else get_profiler(target)
    if device is not None and type(device).write_deployable is Profiler.write_deployable:
        raise ConfigError(f"{device.name} loads ONNX files as they are; leave out --target")
    needed = "float32" if device is None else device.file_precision
    precision = precision or needed
    if precision not in PRECISIONS:
        raise ConfigError(f"there is no export in {precision!r}; choose {' or '.join(PRECISIONS)}")
    if device is not None and precision != needed:
        raise ConfigError(f"{device.key} takes {needed} files, not {precision}; leave out --precision")
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
        file = Path(output) if output is not None else opened.path / "best.float32.onnx"
        _report(progress, 0, "testing")
        accuracy = float32 = verify(source, data).onnx_accuracy
        atomic_write(file, source.read_bytes())
    else:
        file = Path(output) if output is not None else opened.path / "best.int8.onnx"
        _report(progress, 0, "quantising and testing")
        quantised = quantize_onnx(source, file, data=data, seed=settings.seed)
        accuracy, float32 = quantised.int8_accuracy, quantised.float_accuracy
    measured: dict[str, Any] = {}
    if measure:
        _report(progress, 1, "measuring")
        measured = measure_file(file, settings, precision)
        if device is not None and device.key not in measured:
            measured[device.key] = device.measure(file.read_bytes(), Protocol().for_networks())
        for key, result in measured.items():
            latency = latency_notes(result.method, result.median_ms, (result.low_ms, result.high_ms))
            annotate(file, {"device": key, "method": result.method, **latency})
    compiled: tuple[Path, ...] = ()
    if device is not None:
        _report(progress, 1, f"compiling for {device.key}")
        compiled = device.write_deployable(file.read_bytes(), file)
    _report(progress, 2, "done")
    return ExportResult(
        onnx=str(file),
        precision=precision,
        bytes=file.stat().st_size,
        accuracy=accuracy,
        float32_accuracy=float32,
        latency_ms={key: result.median_ms for key, result in measured.items()},
        interval_ms={key: (result.low_ms, result.high_ms) for key, result in measured.items()},
        method=next((result.method for result in measured.values()), None),
        compiled=tuple(map(str, compiled)),
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
