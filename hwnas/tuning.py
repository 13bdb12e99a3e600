"""Tuning a compiler's kernels for a space or a model: what makes ``cpu-tvm.tuned`` worth measuring."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hwnas.latency_tables import table_root
from hwnas.profiling import space_for
from hwnas.spaces.errors import ConfigError, ModelError

if TYPE_CHECKING:
    from onnx import ModelProto

    from hwnas.profilers.cpu_tvm import CpuTvm
    from hwnas.profilers.tvm_tuning import Kernel

__all__ = ["TuneSummary", "tune"]


@dataclass(frozen=True)
class TuneSummary:
    """What one call of `tune` did.

    Attributes
    ----------
    device, records
        Device key, and the folder of the tuning records.
    kernels, there_already
        Different kernels asked for, and those of them that were tuned before.
    tuned, missing
        Kernels tuned by this call, and those that are still missing, because the time budget ran out.
    failed
        Names of kernels of which no trial worked; they are compiled untuned.
    trials, trials_per_kernel
        Trials of this call, and those that each kernel gets.
    seconds
        Time spent.
    """

    device: str
    records: str
    kernels: int
    there_already: int
    tuned: int
    missing: int
    failed: tuple[str, ...]
    trials: int
    trials_per_kernel: int
    seconds: float


def tune(
    device: str = "cpu-tvm",
    space: str | None = None,
    *,
    model: str | Path | None = None,
    data: str | None = None,
    data_root: str | None = None,
    trials: int | None = None,
    budget_s: float | None = None,
    tables: str | None = None,
    seed: int = 0,
    progress: Callable[[float, float, str], None] | None = None,
) -> TuneSummary:
    """Search fast schedules for the kernels of a space or of a model, the most costly first.

    Kernels that are tuned already are skipped, so calling it again goes on after a kill or a used-up budget.

    Parameters
    ----------
    device
        ``cpu-tvm`` or ``cpu-tvm.tuned``, which mean the same here.
    space, data, data_root
        Space spec, and the data set that gives its resolution, channels and classes.
    model
        An ONNX file, instead of a space.
    trials
        Trials of each kernel; fixed once the device's table has rows. None takes the number that the records were
        begun with, or 64.
    budget_s
        Seconds after which no further trials begin.
    tables
        Folder of tables; the records lie beside the device's.
    seed
        Of the search.
    progress
        Called as ``progress(done, total, text)``.

    Raises
    ------
    ConfigError, DeviceUnavailable, TableError, ModelError
        If the device, space or model cannot be used, or the records there are another machine's.
    """
    from hwnas.profilers import Protocol, get_profiler
    from hwnas.profilers.cpu_tvm import CpuTvm
    from hwnas.profilers.tvm_tuning import TuningRecords, tune_kernels

    if (space is None) == (model is None):
        raise ConfigError("tuning needs either a space or a model; name one with --space or --model")
    if trials is not None and trials < 1:
        raise ConfigError(f"a kernel needs at least 1 trial, not {trials}")
    name, *qualifiers = device.split(".")
    key = device if "tuned" in qualifiers else ".".join([name, "tuned", *qualifiers])
    profiler = get_profiler(key, tables=tables) if name == CpuTvm.name else None
    if not isinstance(profiler, CpuTvm):
        raise ConfigError(f"{device} has nothing to tune; {CpuTvm.name} has")
    start = time.monotonic()
    records = TuningRecords.create(table_root(tables) / profiler.key, trials)
    with records.writing():
        kernels = _kernels(profiler, _models(space, model, data, data_root), progress)
        found = tune_kernels(
            records,
            kernels,
            threads=profiler.threads,
            cores=profiler.cores(Protocol()),
            seed=seed,
            deadline=None if budget_s is None else start + budget_s,
            progress=progress,
        )
    return TuneSummary(
        device=profiler.key,
        records=str(records.folder),
        kernels=found.kernels,
        there_already=found.there_already,
        tuned=found.tuned,
        missing=found.missing,
        failed=found.failed,
        trials=found.trials,
        trials_per_kernel=records.trials,
        seconds=time.monotonic() - start,
    )


def _models(
    space: str | None, model: str | Path | None, data: str | None, data_root: str | None
) -> Sequence[Callable[[], bytes]]:
    """The model, or the blocks of the space and a few whole networks with all of them: blocks fuse at their seams."""
    from hwnas.profilers.campaign import network_model
    from hwnas.profilers.coverage import covering_networks

    if model is not None:
        try:
            content = Path(model).read_bytes()
        except OSError as error:
            raise ModelError(f"cannot read {model}: {error.strerror}") from error
        return [lambda: content]
    chosen = space_for(str(space), data, data_root)
    blocks = [partial(_serialised, block.to_onnx) for block in chosen.catalog]
    networks = covering_networks(chosen, np.ones(len(chosen.catalog), dtype=int))
    return blocks + [partial(_serialised, network_model, chosen, network) for network in networks]


def _serialised(make: Callable[..., ModelProto], *arguments: Any) -> bytes:
    return bytes(make(*arguments).SerializeToString())


def _kernels(
    profiler: CpuTvm, models: Sequence[Callable[[], bytes]], progress: Callable[[float, float, str], None] | None
) -> list[Kernel]:
    """The kernels of all models."""
    from hwnas.profilers.tvm_tuning import gather

    found: list[Kernel] = []
    for number, make in enumerate(models):
        if progress is not None:
            progress(number, len(models), "looking for kernels")
        found = gather([*found, *profiler.kernels(make())])
    return found
