"""The engine `ray`: candidates are trained by the nodes of a Ray cluster, and devices measured by their owners.

A node that owns a device says so when it joins, with a custom resource called after it::

    ray start --address=HEAD:6379 --resources='{"hwnas:cpu-onnxruntime": 1}'

Only such a node measures on the device, and while it does it is held whole: all of its CPUs and all of its
``hwnas:`` resources. So no other task of the cluster shares a core with a timing.

A task whose worker or node is lost is begun again by the driver, a bounded number of times. Only the driver writes
to the run folder. A node that sees the folder (a shared file system) keeps the checkpoints of its trainings there,
another one keeps its own.
"""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from hwnas import ray_tasks
from hwnas.engine import Engine, given_up
from hwnas.evaluators.base import Evaluation
from hwnas.latency_tables.device import DeviceRecord, plain_key
from hwnas.profilers import Measurement, Profiler, Protocol, profilers
from hwnas.profilers.base import Model, as_bytes
from hwnas.ray_tasks import task
from hwnas.spaces import errors
from hwnas.spaces.errors import ConfigError, DeviceUnavailable, HwnasError

if TYPE_CHECKING:
    from hwnas.plan import SearchSettings
    from hwnas.spaces.space import Architecture

__all__ = ["RayCluster", "RayEngine", "RayProfiler", "TaskLost", "answer_of"]

#: Seconds that a search waits for a node that could take its tasks.
PATIENCE = 60.0
#: Times that a measurement is begun again after its node or worker was lost.
MEASURE_RETRIES = 4
#: Bytes of the object store of a Ray that is started here: it only holds models that are measured.
OBJECT_STORE = 128 << 20
CONNECT_S = 5.0
RESOURCE = "hwnas:"


class RayCluster:
    """A connection to a Ray cluster; close it (or use ``with``).

    If this process is connected to one already (``ray.init`` was called), that is used, and left as it is.

    Parameters
    ----------
    address
        ``HOST:PORT`` of the head, or ``auto`` for the cluster that this machine belongs to; None starts Ray on this
        machine alone, which then owns every device, and ends it again.
    patience_s
        Seconds to wait for a node that could take a task before that is an error.

    Raises
    ------
    ConfigError
        If Ray is not installed, or nothing answers at the address.
    """

    def __init__(self, address: str | None = None, *, patience_s: float = PATIENCE) -> None:
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        try:
            import ray
        except ImportError as error:
            raise ConfigError("the engine ray needs Ray; install it with: pip install 'hwnas[ray]'") from error
        self._ray = ray
        self.patience_s = patience_s
        self._owned = not ray.is_initialized()
        if not self._owned:
            return
        quiet: dict[str, Any] = {"logging_level": "error", "log_to_driver": False}
        try:
            if address is None:
                resources = {f"{RESOURCE}{name}": 1.0 for name in profilers.names()}
                ray.init(
                    "local", resources=resources, object_store_memory=OBJECT_STORE, include_dashboard=False, **quiet
                )
            else:
                _probe(address)
                ray.init(address, **quiet)
        except (ConnectionError, RuntimeError, ValueError, TimeoutError) as error:
            first = (str(error).strip().splitlines() or [type(error).__name__])[0]
            where = "start Ray here" if address is None else f"join the Ray cluster at {address}"
            raise ConfigError(
                f"cannot {where} ({first}); this machine must belong to the cluster, see docs/engines.md"
            ) from error

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Leave the cluster, or end it if it was started here."""
        if self._owned and self._ray.is_initialized():
            self._ray.shutdown()

    def engine(self, run: Path, settings: SearchSettings) -> RayEngine:
        """Evaluates for a run; its settings say how many at a time, their threads, and how often one is retried."""
        return RayEngine(self, run, settings)

    def profiler(self, key: str) -> RayProfiler:
        """The device `key` at the node that owns it.

        Raises
        ------
        DeviceUnavailable
            If no node owns it, or it does not work there.
        """
        return RayProfiler(self, key)

    # ------------------------------------------------------------------ nodes and tasks

    def nodes(self) -> list[dict[str, Any]]:
        """The nodes that are alive, as Ray describes them."""
        return [node for node in self._ray.nodes() if node["Alive"]]

    def cpus(self, least: int) -> int:
        """CPUs of the nodes that have at least so many."""
        each = (int(node["Resources"].get("CPU", 0)) for node in self.nodes())
        return sum(cpus for cpus in each if cpus >= least)

    def start(self, function: Callable[..., Any], *arguments: str | bytes, returns: int = 1, **options: Any) -> Any:
        """Begin a task that Ray itself does not retry; its reference, or references."""
        remote = self._ray.remote(function)
        return remote.options(max_retries=0, num_returns=returns, **options).remote(*arguments)

    def ready(self, references: Sequence[Any], timeout_s: float) -> list[Any]:
        """Those that have ended, at least one if any does within the time."""
        done, rest = self._ray.wait(list(references), num_returns=1, timeout=timeout_s)
        if done and rest:
            done += self._ray.wait(rest, num_returns=len(rest), timeout=0)[0]
        return list(done)

    def result(self, references: Any) -> Any:
        """What a task returned.

        Raises
        ------
        TaskLost
            If its worker or node was lost, or it ended with an error that is not of hwnas.
        ConfigError
            If hwnas is not installed at the node.
        """
        lost = self._ray.exceptions
        try:
            return self._ray.get(references)
        except lost.RayTaskError as error:
            if "No module named 'hwnas" in str(error):
                raise ConfigError(
                    "a node of the Ray cluster lacks hwnas; install it there, in the same version"
                ) from error
            raise TaskLost(_last_line(error)) from error
        except lost.RayError as error:
            raise TaskLost(f"{type(error).__name__}: {_first_line(error)}") from error

    def drop(self, references: Sequence[Any]) -> None:
        """End tasks that nobody waits for."""
        for reference in references:
            self._ray.cancel(reference, force=True)

    def owner(self, device: str) -> dict[str, Any]:
        """The first node that owns a device.

        Raises
        ------
        DeviceUnavailable
            If there is none.
        """
        resource = RESOURCE + plain_key(device).partition(".")[0]
        for node in sorted(self.nodes(), key=lambda node: str(node["NodeID"])):
            if node["Resources"].get(resource, 0) > 0:
                return node
        raise DeviceUnavailable(
            f"no node of the Ray cluster owns {device}; "
            f"start Ray at its machine with --resources='{{\"{resource}\": 1}}'"
        )

    def on_owner(self, device: str, function: Callable[..., Any], *arguments: str | bytes, returns: int = 1) -> Any:
        """Run a task at the node that owns a device, and hold that node whole until it ends.

        Raises
        ------
        DeviceUnavailable
            If no node owns the device, or the task is lost again and again.
        """
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        reason = ""
        for attempt in range(MEASURE_RETRIES + 1):
            node = self._awaited_owner(device) if attempt else self.owner(device)
            held = {name: amount for name, amount in node["Resources"].items() if name.startswith(RESOURCE)}
            there = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
            references = self.start(
                function,
                *arguments,
                returns=returns,
                num_cpus=node["Resources"].get("CPU", 0),
                resources=held,
                scheduling_strategy=there,
            )
            try:
                return self.result(references)
            except TaskLost as error:
                reason = str(error)
        raise DeviceUnavailable(f"{MEASURE_RETRIES + 1} attempts to measure on {device} were lost; the last: {reason}")

    def _awaited_owner(self, device: str) -> dict[str, Any]:
        """The owner of a device that had one, which may have to come back."""
        deadline = time.monotonic() + self.patience_s
        while True:
            try:
                return self.owner(device)
            except DeviceUnavailable:
                if time.monotonic() >= deadline:
                    raise
                time.sleep(0.5)


class TaskLost(Exception):  # noqa: N818 - an event that is handled, not an error that users see
    """A task's worker or node is gone, or it broke."""


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [""])[0]


def _last_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [""])[-1]


def _probe(address: str) -> None:
    """Refuse an address where nothing listens; Ray itself would try for minutes."""
    if address == "auto":
        return
    host, separator, port = address.rpartition(":")
    if not separator or not port.isdigit() or "/" in host:
        raise ConfigError(f"{address!r} is not the address of a Ray cluster; write HOST:PORT, such as 192.168.1.5:6379")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=CONNECT_S).close()
    except (OSError, OverflowError) as error:
        raise ConfigError(
            f"nothing answers at {address} ({error}); start Ray there with `ray start --head --port={port}`"
        ) from error


def answer_of(text: str) -> dict[str, Any]:
    """A task's answer; its error is raised again as what it was."""
    content: dict[str, Any] = json.loads(text)
    if "error" in content:
        kind = getattr(errors, str(content["kind"]), HwnasError)
        raise kind(f"at {content['host']}: {content['error']}")
    return content


# ---------------------------------------------------------------------- evaluation


@dataclass
class _Trial:
    architecture: Architecture
    attempts: int = 0


class RayEngine(Engine):
    """Trains candidates as Ray tasks, see `RayCluster.engine`.

    Each takes as many CPUs as it has threads. Without ``jobs`` as many are trained at a time as the cluster has room
    for at that moment, so nodes may join and leave.
    """

    def __init__(self, cluster: RayCluster, run: Path, settings: SearchSettings) -> None:
        self._cluster, self._settings, self._run = cluster, settings, run.resolve()
        self._mark = ray_tasks.fingerprint(run)
        self._threads = settings.threads or 1
        self._trials: dict[Any, _Trial] = {}
        self._own_nodes = False
        self._raised: list[HwnasError] = []

    @property
    def busy(self) -> int:
        return len(self._trials) + len(self._raised)

    @property
    def room(self) -> int:
        jobs = self._settings.jobs or max(1, self._cluster.cpus(self._threads) // self._threads)
        return max(0, jobs - self.busy)

    def submit(self, architecture: Architecture) -> None:
        self._start(_Trial(architecture))

    def _start(self, trial: _Trial) -> None:
        trial.attempts += 1
        text = task(
            settings=self._settings.to_json(),
            architecture=list(trial.architecture),
            run=str(self._run),
            mark=self._mark,
            threads=self._threads,
        )
        self._trials[self._cluster.start(ray_tasks.evaluate, text, num_cpus=self._threads)] = trial

    def wait(self) -> list[Evaluation]:
        if self._raised:
            raise self._raised.pop()
        last_room = time.monotonic()
        found: list[Evaluation] = []
        while not found:
            for reference in self._cluster.ready(list(self._trials), timeout_s=1.0):
                trial = self._trials.pop(reference)
                try:
                    found += self._ended(trial, reference)
                except HwnasError as error:  # ends the search: what is finished beside it is given first
                    self._raised.append(error)
            if self._raised and not found:
                raise self._raised.pop()
            if self._cluster.cpus(self._threads):
                last_room = time.monotonic()
            elif not found and time.monotonic() - last_room > self._cluster.patience_s:
                raise ConfigError(
                    f"no node of the Ray cluster has had {self._threads} CPUs for {self._cluster.patience_s:.0f} s; "
                    "start one, and go on with --resume"
                )
        return found

    def _ended(self, trial: _Trial, reference: Any) -> list[Evaluation]:
        """The evaluation of a trial whose task has ended; none if it is begun again."""
        try:
            answer = answer_of(self._cluster.result(reference))
        except TaskLost as error:
            if trial.attempts > self._settings.retries:
                return [given_up(trial.architecture, trial.attempts, f"the last: {error}")]
            self._start(trial)
            return []
        self._own_nodes = self._own_nodes or bool(answer["own"])
        return [Evaluation.from_json(answer["evaluation"])]

    def close(self) -> None:
        self._cluster.drop(list(self._trials))
        self._trials.clear()
        if self._own_nodes:
            self._forget()

    def _forget(self) -> None:
        """Have every node remove what it kept for itself; one that cannot within seconds is left alone."""
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        text = task(mark=self._mark)
        for node in self._cluster.nodes():
            there = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
            reference = self._cluster.start(ray_tasks.forget, text, num_cpus=0, scheduling_strategy=there)
            if self._cluster.ready([reference], timeout_s=CONNECT_S):
                try:
                    self._cluster.result(reference)
                except (TaskLost, ConfigError):  # the node has left, and its files with it
                    continue


# ---------------------------------------------------------------------- measuring


class RayProfiler(Profiler):
    """A device at another node: measures there, and holds the whole node while it does."""

    summary = "a device of a node of a Ray cluster"

    def __init__(self, cluster: RayCluster, key: str) -> None:
        self._cluster = cluster
        found = answer_of(cluster.on_owner(key, ray_tasks.describe, task(key=key)))
        self._record = DeviceRecord.from_json(json.dumps(found["record"]), source=f"the record of {key}")
        self._file_precision, self._key = str(found["file_precision"]), str(found["key"])
        self.precision, self.threads, self.batch = self._record.precision, self._record.threads, self._record.batch
        self.method = self._record.method

    @property
    def file_precision(self) -> str:
        return self._file_precision

    @property
    def key(self) -> str:
        return self._key

    def device_record(self, protocol: Protocol | None = None) -> DeviceRecord:
        return self._record

    def measure(self, model: Model, protocol: Protocol | None = None) -> Measurement:
        text = task(key=self._key, protocol=asdict(protocol or Protocol()))
        found = answer_of(self._cluster.on_owner(self._key, ray_tasks.measure, text, as_bytes(model)))
        record = DeviceRecord.from_json(json.dumps(found["record"]), source=f"the record of {self._key}")
        if differences := self._record.differences(record):
            raise DeviceUnavailable(
                f"{self._key} was measured by another machine than before ({'; '.join(differences)}); "
                "let one node own it, or nodes that are alike"
            )
        values: Mapping[str, Any] = found["measurement"]
        return Measurement(**{**values, "samples": tuple(values["samples"])})
