"""Tuning kernels with TVM's MetaSchedule, one by one, into records that lie beside the table of ``cpu-tvm.tuned``.

The folder ``tuning/`` of the table holds::

    tuning.json                     TVM's version, the target, the CPU, and trials per kernel
    kernels.jsonl                   one line for each kernel that had all its trials
    database_workload.json          MetaSchedule's own records: kernels,
    database_tuning_record.json     and every trial, one a line

All but the first are only appended to, so a kill loses the trials of one batch at most. How kernels are tuned is fixed
as soon as the table has a row: rows from before and after more tuning would not be of one device.
"""

from __future__ import annotations

import json
import logging
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any

from hwnas.latency_tables import host_facts
from hwnas.profilers.model_io import first_line
from hwnas.profilers.timing import pinned
from hwnas.profilers.tvm_compile import load_tvm, local_target
from hwnas.spaces.errors import ConfigError, DeviceUnavailable, ModelError, TableError
from hwnas.spaces.files import append_line, atomic_write, held, make_folder, mend_tail

__all__ = ["TRIALS", "Kernel", "Tuning", "TuningRecords", "gather", "kernels_of", "tune_kernels"]

#: trials of a kernel unless told otherwise
TRIALS = 64
#: trials between two looks at the clock; a kill loses at most these
BATCH = 16
#: schedules that the search breeds from: eight for each trial, as many as MetaSchedule itself takes for 64
BREED = 8
_FILES = ("database_workload.json", "database_tuning_record.json")
_MACHINE = ("cpu", "family", "model")
#: MetaSchedule's stand-in for the time of a trial that failed
_FAILED_S = 1e9


@dataclass(frozen=True)
class Kernel:
    """One kernel of TVM's: a fused loop nest.

    Attributes
    ----------
    key
        Equal for kernels of equal code.
    name
        TVM's name for it.
    module
        Its code.
    cost
        Floating-point operations of all its occurrences.
    """

    key: str
    name: str
    module: Any
    cost: float


@dataclass(frozen=True)
class Tuning:
    """What one call of `tune_kernels` did.

    Attributes
    ----------
    kernels, there_already
        Kernels asked for, and those of them that had all their trials before.
    tuned, missing
        Kernels that got them now, and those that still lack some, because the time was up.
    failed
        Names of the kernels of which no trial worked: they stay as they are without tuning.
    trials
        Trials of this call.
    """

    kernels: int
    there_already: int
    tuned: int
    missing: int
    failed: tuple[str, ...]
    trials: int


def kernels_of(module: Any, target: Any) -> list[Kernel]:
    """The kernels of a lowered model, each once."""
    load_tvm()
    from tvm.s_tir.analysis import estimate_tir_flops
    from tvm.s_tir.meta_schedule.relax_integration import extract_tasks

    found = []
    for task in extract_tasks(module, target):
        code = task.dispatched[0]
        cost = float(estimate_tir_flops(code)) * int(task.weight)
        found.append(Kernel(_key(code), str(task.task_name), code, cost))
    return gather(found)


def _key(code: Any) -> str:
    from tvm_ffi import structural_hash

    return f"{structural_hash(code) & (2**64 - 1):016x}"


def gather(kernels: Iterable[Kernel]) -> list[Kernel]:
    """The kernels, each once with the cost of all, the most costly first."""
    found: dict[str, Kernel] = {}
    for kernel in kernels:
        cost = kernel.cost + (found[kernel.key].cost if kernel.key in found else 0.0)
        found[kernel.key] = replace(kernel, cost=cost)
    return sorted(found.values(), key=lambda kernel: (-kernel.cost, kernel.key))


class TuningRecords:
    """The records of one device's folder; made with `load` or `create`.

    Attributes
    ----------
    folder
        The folder ``tuning``.
    trials
        Trials that each kernel gets.
    """

    def __init__(self, folder: Path, trials: int) -> None:
        self.folder = folder
        self.trials = trials
        for name in (*_FILES, "kernels.jsonl"):
            mend_tail(folder / name)
        self._done = {str(line["kernel"]) for line in self._lines() if line["trials"] >= trials}

    @classmethod
    def load(cls, table: Path) -> TuningRecords:
        """Open the records beside a table.

        Raises
        ------
        TableError
            If there are none, or they do not hold here.
        """
        found = cls._settings(table / "tuning")
        if found is None:
            raise TableError(
                f"there are no tuning records in {table / 'tuning'}; make them with: "
                f"hwnas tune --device {table.name} --space SPACE"
            )
        return cls(table / "tuning", found["trials"])

    @classmethod
    def create(cls, table: Path, trials: int | None = None) -> TuningRecords:
        """Open the records beside a table for adding to them; make them if there are none.

        Parameters
        ----------
        table
            The table's folder, which need not exist.
        trials
            Trials of a kernel; None takes those that the records were begun with, else `TRIALS`.

        Raises
        ------
        TableError
            If the records do not hold here, or the table has rows that were measured with other records.
        """
        folder = table / "tuning"
        settings = cls._settings(folder)
        wanted = trials or (settings["trials"] if settings else TRIALS)
        if settings is None or settings["trials"] != wanted:
            if (table / "device.json").exists():
                now = f"{settings['trials']} trials a kernel" if settings else "records that are gone"
                raise TableError(
                    f"the table in {table} was measured with {now}, and {wanted} would make it another device; "
                    "leave out --trials, or use another folder with --tables"
                )
            make_folder(folder)
            content = {"format": 1, "trials": wanted, **_here()}
            atomic_write(folder / "tuning.json", json.dumps(content, indent=2) + "\n")
        return cls(folder, wanted)

    @staticmethod
    def _settings(folder: Path) -> dict[str, Any] | None:
        file = folder / "tuning.json"
        if not file.is_file():
            return None
        try:
            found = json.loads(file.read_text(encoding="utf-8"))
            trials = found["trials"]
        except (ValueError, KeyError, TypeError) as error:
            raise TableError(f"{file} is damaged; delete the folder {folder} and tune again") from error
        if type(trials) is not int or trials < 1:
            raise TableError(f"trials in {file} is {trials!r}, not a number of trials; tune again in another folder")
        if changed := [f"{name} {found.get(name)} against {value}" for name, value in _here().items()
                       if found.get(name) != value]:  # fmt: skip
            raise TableError(
                f"the tuning records in {folder} do not hold here ({'; '.join(changed)}); "
                "use another folder with --tables and tune again"
            )
        return dict(found)

    def _lines(self) -> Iterator[dict[str, Any]]:
        file = self.folder / "kernels.jsonl"
        for number, line in enumerate(file.read_text(encoding="utf-8").splitlines() if file.exists() else (), start=1):
            try:
                entry = json.loads(line)
                valid = isinstance(entry["kernel"], str) and isinstance(entry["trials"], int)
            except (ValueError, KeyError, TypeError):
                valid = False
            if not valid:
                raise TableError(f"{file} line {number} is damaged; delete the line")
            yield entry

    @cached_property
    def database(self) -> Any:
        """MetaSchedule's records.

        Raises
        ------
        TableError
            If TVM cannot read them.
        """
        load_tvm()
        from tvm.s_tir.meta_schedule.database import JSONDatabase

        try:
            return JSONDatabase(*(str(self.folder / name) for name in _FILES))
        except Exception as error:  # TVM's errors have no common base
            raise TableError(
                f"the records in {self.folder} are damaged ({first_line(error)}); delete the folder and tune again"
            ) from error

    def tuned(self, kernel: Kernel) -> bool:
        """Whether a kernel had all its trials."""
        return kernel.key in self._done

    def finish(self, kernel: Kernel, worked: int) -> None:
        """Note that a kernel had all its trials, of which `worked` gave a time."""
        line = {"kernel": kernel.key, "name": kernel.name, "trials": self.trials, "worked": worked}
        append_line(self.folder / "kernels.jsonl", json.dumps(line))
        self._done.add(kernel.key)

    def counts(self) -> tuple[Counter[str], Counter[str]]:
        """Trials by kernel, and those that gave a time."""
        tried: Counter[str] = Counter()
        worked: Counter[str] = Counter()
        for record in self.database.get_all_tuning_records():
            key = _key(record.workload.mod)
            tried[key] += 1
            worked[key] += bool(record.run_secs) and float(record.run_secs[0]) < _FAILED_S
        return tried, worked

    def check(self, kernels: Sequence[Kernel], command: str) -> None:
        """Refuse a model with kernels that are not tuned yet: it would be another model once they are.

        Raises
        ------
        ModelError
            If there are any; the message says how to tune them.
        """
        if lacking := sum(not self.tuned(kernel) for kernel in kernels):
            raise ModelError(
                f"{lacking} of {len(kernels)} kernels of the model are not tuned yet; tune them with: "
                f"{command} --space SPACE, or --model FILE"
            )

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Hold the records for one writer; released by the system when the process dies.

        Raises
        ------
        TableError
            If another process is adding to them.
        """
        refusal = TableError(f"another run is tuning in {self.folder}; wait until it ends")
        with held(self.folder / "tuning.json", refusal):
            yield


def _here() -> dict[str, Any]:
    facts = host_facts()
    machine = {name: facts.get(name) for name in _MACHINE}
    return {"tvm": version("apache-tvm"), "target": str(local_target()), **machine}


def _compile_trial(module: Any, target: Any, _parameters: Any) -> Any:
    """Build one trial, in a worker; TVM's own function first reads intrinsics of every device, which takes long."""
    from tvm.driver import build

    return build(module, target=target)


def _ignore_interrupts() -> None:
    """In a worker: Ctrl-C reaches it, too, and would count as a failed trial."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def tune_kernels(
    records: TuningRecords,
    kernels: Sequence[Kernel],
    *,
    threads: int = 1,
    cores: tuple[int, ...] | None = None,
    seed: int = 0,
    deadline: float | None = None,
    progress: Callable[[float, float, str], None] | None = None,
) -> Tuning:
    """Give each kernel the trials that it lacks.

    Parameters
    ----------
    records
        Where trials go; hold them with `TuningRecords.writing`.
    kernels
        What to tune, in this order.
    threads
        Threads of the target.
    cores
        Where trials run; None lets them wander.
    seed
        Of the search.
    deadline
        Value of `time.monotonic` after which no further batch of trials begins.
    progress
        Called as ``progress(done, total, text)``, counting trials.

    Raises
    ------
    DeviceUnavailable
        If there is no compiler to link trials with.
    ConfigError
        If not one trial of any kernel worked.
    """
    lacking = [kernel for kernel in kernels if not records.tuned(kernel)]
    late = deadline is not None and time.monotonic() >= deadline
    if not lacking or late:
        return Tuning(len(kernels), len(kernels) - len(lacking), 0, len(lacking), (), 0)
    tried, worked = records.counts()
    # where nothing worked, something was wrong with the machine, or is with the kernel: once more
    lefts = [records.trials - (tried[kernel.key] if worked[kernel.key] else 0) for kernel in lacking]
    total, tuned, trials, error = sum(max(0, left) for left in lefts), 0, 0, ""
    failed: list[Kernel] = []
    with pinned(cores):
        search = _Search(records, threads, deadline)
        for number, (kernel, left) in enumerate(zip(lacking, lefts, strict=True)):
            text = f"{kernel.name}, {len(lacking) - number} to go"

            def report(done: int, before: int = trials, total: int = total, text: str = text) -> None:
                if progress is not None:
                    progress(before + done, total, text)

            report(0)
            done, good, message = search.run(kernel, left, seed + tried[kernel.key], report) if left > 0 else (0, 0, "")
            trials += done
            worked[kernel.key] += good
            error = message or error
            if search.late and done < left:
                break
            if worked[kernel.key]:
                records.finish(kernel, worked[kernel.key])
                tuned += 1
            else:
                failed.append(kernel)
            total -= max(0, left - done)  # the search ran out of schedules to try
            if search.late:
                break
    if failed and not tuned:
        raise ConfigError(f"no trial of the kernel {failed[0].name} worked: {error or 'no schedule fits it'}")
    for kernel in failed:  # others worked, so it is not the machine
        records.finish(kernel, 0)
    tuned += len(failed)
    names = tuple(kernel.name for kernel in failed)
    return Tuning(len(kernels), len(kernels) - len(lacking), tuned, len(lacking) - tuned, names, trials)


class _Search:
    """MetaSchedule, set up once for many kernels: what its cost model learns of one helps with the next."""

    def __init__(self, records: TuningRecords, threads: int, deadline: float | None) -> None:
        load_tvm()
        from tvm.s_tir import meta_schedule as ms
        from tvm.support.cc import get_cc

        if get_cc() is None:
            raise DeviceUnavailable("tuning links its trials with a C++ compiler, and there is none; install g++")
        self.records, self.deadline = records, deadline
        self.late = self.interrupted = False
        self.target = local_target(threads)
        self.logger = logging.getLogger("hwnas.tuning")
        self.logger.setLevel(logging.CRITICAL)
        logging.getLogger("tvm.s_tir.meta_schedule").setLevel(logging.CRITICAL)
        self.builder = ms.builder.LocalBuilder(
            max_workers=1, timeout_sec=120.0, f_build=_compile_trial, initializer=_ignore_interrupts
        )
        settings = ms.runner.EvaluatorConfig(number=1, repeat=3, min_repeat_ms=10)
        self.runner = ms.runner.LocalRunner(
            evaluator_config=settings, timeout_sec=120.0, initializer=_ignore_interrupts
        )
        self.cost_model = ms.cost_model.CostModel.create("xgb", num_tuning_cores=1, tree_method="auto")

    def run(self, kernel: Kernel, trials: int, seed: int, report: Callable[[int], None]) -> tuple[int, int, str]:
        """Trials done, those that gave a time, and the error of one that did not."""
        tvm = load_tvm()
        from tvm.s_tir import meta_schedule as ms
        from tvm.s_tir.meta_schedule.logging import get_logging_func
        from tvm_ffi import get_global_func

        found: list[str | None] = []

        @tvm.ir.utils.derived_object
        class Watch(ms.measure_callback.PyMeasureCallback):  # type: ignore[misc]
            """Counts trials, and ends the search when the time is up."""

            def apply(_self, _scheduler: Any, _task: int, _tried: Any, _built: Any, results: Any) -> None:  # noqa: N805
                found.extend(None if result.error_msg is None else str(result.error_msg) for result in results)
                report(len(found))
                self.late = self.deadline is not None and time.monotonic() >= self.deadline
                if (self.late and len(found) < trials) or self.interrupted:
                    raise TimeoutError("the time for tuning is up")

        # not by the class's constructor: it first reads the intrinsics of every device, which takes up to a minute,
        # and float32 on a CPU needs none
        context = get_global_func("s_tir.meta_schedule.TuneContext")(
            kernel.module,
            self.target,
            # the rules for any CPU, for the same reason
            ms.space_generator.PostOrderApply(sch_rules="llvm", postprocs="llvm", mutator_probs="llvm"),
            ms.search_strategy.EvolutionarySearch(population_size=min(512, BREED * trials)),
            kernel.name,
            1,  # thread
            1 + seed,
            get_logging_func(self.logger),
        )
        get_global_func("s_tir.meta_schedule.TuneContextInitialize")(context)
        callbacks = ms.measure_callback
        error = ""
        try:
            with self._interrupts_wait():
                ms.tune_tasks(
                    tasks=[context],
                    task_weights=[1.0],
                    work_dir=str(self.records.folder),
                    max_trials_global=trials,
                    num_trials_per_iter=min(BATCH, trials),
                    builder=self.builder,
                    runner=self.runner,
                    database=self.records.database,
                    cost_model=self.cost_model,
                    measure_callbacks=[
                        callbacks.AddToDatabase(),
                        callbacks.RemoveBuildArtifact(),
                        callbacks.UpdateCostModel(),
                        Watch(),
                    ],
                )
        except Exception as caught:  # TVM's errors have no common base, and it makes its own of those of callbacks
            if not (self.late or self.interrupted):
                error = first_line(caught)
        if self.interrupted:
            raise KeyboardInterrupt
        error = error or next((message.strip().splitlines()[-1] for message in found if message), "")
        return len(found), sum(message is None for message in found), error

    @contextmanager
    def _interrupts_wait(self) -> Iterator[None]:
        """Let Ctrl-C end the search after its batch, and a second one at once: TVM crashes when one comes within."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return

        def note(_number: int, _frame: Any) -> None:
            self.interrupted = True
            signal.signal(signal.SIGINT, signal.SIG_DFL)

        before = signal.signal(signal.SIGINT, note)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, before)
