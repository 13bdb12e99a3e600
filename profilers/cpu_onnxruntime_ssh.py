"""``cpu-onnxruntime-ssh:HOST``: a board's CPU through the onnxruntime there, over SSH.

Device keys: ``cpu-onnxruntime-ssh:pi4`` (float32, one thread, one image), with ``.int8``, ``.t2``, ... and ``.b8``, ...
as for ``cpu-onnxruntime``. The host is what ``ssh`` is called with. A pass is made on the board as a whole, by its
clock and its own counters of disturbances; what travels is models before a pass and samples after it.
"""

from __future__ import annotations

import io
import math
import weakref
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, replace
from hashlib import sha256
from typing import Any, TypeVar

import numpy as np

from hwnas.latency_tables import DeviceRecord
from hwnas.profilers.attribution import attribute, divide
from hwnas.profilers.base import Model, Profiler, RuntimeProfiler
from hwnas.profilers.model_io import load_model, model_nodes
from hwnas.profilers.protocol import Pass, Protocol
from hwnas.profilers.ssh_connection import ANSWER_S, Connection, check_host, connect, missing_client
from hwnas.profilers.timing import Runner
from hwnas.spaces.errors import ConfigError, DeviceUnavailable, HwnasError, ModelError

__all__ = ["CpuOnnxRuntimeSsh"]

Answer = TypeVar("Answer")


class CpuOnnxRuntimeSsh(RuntimeProfiler):
    """Measures on a board's CPU with the onnxruntime there.

    Parameters
    ----------
    host
        What ``ssh`` connects to, a host name or an alias of ``~/.ssh/config``.
    python
        The board's Python; by default what ``HWNAS_SSH_PYTHON`` names, else ``python3``.
    precision, threads, batch
        See `Profiler`.

    Raises
    ------
    ConfigError
        If there is no host, or it cannot be a part of a device key.
    """

    name = "cpu-onnxruntime-ssh"
    device_class = "cpu"
    runtime = "onnxruntime"
    summary = "a board's CPU through onnxruntime over SSH, as cpu-onnxruntime-ssh:HOST, measured"
    precisions = ("float32", "int8")
    max_threads = 1024
    on_cpu = False

    def __init__(
        self,
        *,
        host: str | None = None,
        python: str | None = None,
        precision: str | None = None,
        threads: int = 1,
        batch: int = 1,
    ) -> None:
        super().__init__(precision=precision, threads=threads, batch=batch)
        if host is None:
            raise ConfigError(f"{self.name} needs a board: write {self.name}:HOST, with a host that ssh knows")
        self.host, self.python = check_host(host), python
        self._connection: Connection | None = None
        self._protocol = Protocol()
        self._best_cores: dict[int, Any] = {}

    @classmethod
    def from_qualifiers(cls, qualifiers: Sequence[str], **options: Any) -> Profiler:
        """Make the profiler that a device key names: what is no qualifier of ours is the host.

        Raises
        ------
        ConfigError
            If there is no host, or qualifiers stand inside of it.
        DeviceUnavailable
            If the board cannot be used; the message says why.
        """
        places = [index for index, part in enumerate(qualifiers) if not cls.is_qualifier(part)]
        host = qualifiers[places[0] : places[-1] + 1] if places else []
        if len(host) != len(places):
            raise ConfigError(
                f"{'.'.join(qualifiers)!r} is no host with qualifiers of {cls.name} behind it; "
                "give the host an alias in ~/.ssh/config"
            )
        others = [part for index, part in enumerate(qualifiers) if index not in places]
        made = super().from_qualifiers(others, **{"host": ".".join(host) or None, **options})
        assert isinstance(made, cls)
        made._board()  # what is missing is said at once
        return made

    @classmethod
    def unavailable(cls, host: str | None = None, python: str | None = None) -> str | None:
        """None if there is an SSH client and, if a host is given, its board can be used; else what is missing."""
        if host is None:
            return missing_client()
        try:
            connect(check_host(host), python)
        except HwnasError as error:
            return str(error)
        return None

    @property
    def key(self) -> str:
        """Device key, with the host behind the name."""
        _, *others = super().key.split(".")
        return ".".join([self.name, self.host, *others])

    # ------------------------------------------------------------------ what it is

    def runtime_version(self) -> str:
        return str(self._board().facts["onnxruntime"])

    def hardware(self) -> str:
        return str(self._board().facts["host"]["cpu"])

    def device_record(self, protocol: Protocol | None = None) -> DeviceRecord:
        """The record is of the board; it says nothing of this machine, nor the board's address."""
        protocol = protocol or Protocol()
        record = super().device_record(protocol)
        settings = {**record.protocol, "pinned_to": list(self._cores_there(protocol) or ())}
        return replace(record, host=dict(self._board().facts["host"]), protocol=settings)

    # ------------------------------------------------------------------ measuring

    def cores(self, protocol: Protocol) -> None:
        """None: nothing is pinned here. What follows on the board stays where `protocol` says."""
        self._protocol = protocol

    def load(self, data: bytes) -> Runner:
        return _Loaded(self, data)

    def _time(self, runner: Runner, protocol: Protocol, anchor_ms: float | None = None) -> Pass:
        """One pass, made on the board as a whole."""
        assert isinstance(runner, _Loaded)
        longest = protocol.warmup_s + protocol.max_pass_s
        answer, _ = runner.ask({"do": "pass", "protocol": asdict(protocol)}, protocol, ANSWER_S + 2 * longest)
        clean: Any = answer.get("samples")
        dropped: Any = answer.get("dropped")
        inner = answer.get("inner")
        if not _milliseconds(clean) or not _milliseconds(dropped) or not clean + dropped or type(inner) is not int:
            raise DeviceUnavailable(f"{self.host} answered a pass with what are no samples")
        return Pass.of(clean, dropped, inner, protocol.percentile, anchor_ms)

    def kernel_shares(
        self, model: Model, nodes: Collection[str] | None = None, protocol: Protocol | None = None
    ) -> dict[str, float] | None:
        """Divide the time of one inference among the kernels by the counters of the onnxruntime there.

        Parameters
        ----------
        model, nodes, protocol
            See `Profiler.kernel_shares`; at least 20 inferences are counted and at most 400.

        Raises
        ------
        ModelError
            If onnxruntime refuses the model or its counters cannot be read.
        """
        protocol, data = protocol or Protocol(), self.prepared(model)
        answer, optimised = self._ask_of(data, "count", protocol, seconds=protocol.counter_s)
        times = answer.get("times")
        if not isinstance(times, dict) or not _milliseconds(list(times.values())):
            raise DeviceUnavailable(f"{self.host} answered with what are no times of kernels")
        if not times:
            raise ModelError("onnxruntime counted no kernel of the model; it may be empty after optimisation")
        executed = list(model_nodes(load_model(optimised)))
        return divide(times, attribute(model_nodes(load_model(data)), executed, nodes), nodes)

    def outputs(self, model: Model, feeds: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        """What the model computes on the board, in the order of its outputs.

        Parameters
        ----------
        model
            The model; it gets this device's batch.
        feeds
            Arrays by name of the input.

        Raises
        ------
        ModelError
            If onnxruntime refuses the model or the arrays.
        """
        given = io.BytesIO()
        save: Any = np.savez  # its type takes no names of arrays
        save(given, **feeds)
        loaded = _Loaded(self, self.prepared(model))
        _, found = loaded.ask({"do": "outputs"}, self._protocol, data=given.getvalue())
        with np.load(io.BytesIO(found), allow_pickle=False) as arrays:
            return [arrays[name] for name in arrays.files]

    # ------------------------------------------------------------------ the board

    def _board(self) -> Connection:
        if self._connection is None or not self._connection.alive:
            before, self._connection = self._connection, connect(self.host, self.python)
            if before is not None and before.facts != self._connection.facts:
                raise DeviceUnavailable(f"{self.host} is no longer the machine that it was; profile it anew")
            if self.threads > (most := self._connection.facts["usable_cores"]):
                raise ConfigError(f"{self.host} has {most} core{'s' * (most > 1)}, too few for {self.threads} threads")
        return self._connection

    def _steadily(self, ask: Callable[[], Answer]) -> Answer:
        """Ask, and once more by a new connection if the old one was lost meanwhile."""
        board = self._connection
        try:
            return ask()
        except DeviceUnavailable as lost:
            if board is not None and board.alive:
                raise
            try:
                return ask()
            except DeviceUnavailable as error:
                kept = "what was measured is kept: the same command goes on with it, a search with --resume"
                raise DeviceUnavailable(f"{self.key} was lost ({lost}), and then: {error}; {kept}") from lost

    def _cores_there(self, protocol: Protocol) -> list[int] | None:
        """Where on the board a protocol keeps the work; None if anywhere."""
        if not protocol.pin:
            return None
        if protocol.cores:
            return list(protocol.cores)
        if self.threads not in self._best_cores:
            answer, _ = self._board().ask({"do": "cores", "threads": self.threads})
            self._best_cores[self.threads] = answer["cores"]
        found: list[int] | None = self._best_cores[self.threads]
        return found

    def _ask_of(self, data: bytes, do: str, protocol: Protocol, **details: Any) -> tuple[dict[str, Any], bytes]:
        """Ask something of a model, which is sent if it is not there yet."""
        return self._steadily(lambda: self._ask_once_of(data, do, protocol, details))

    def _ask_once_of(
        self, data: bytes, do: str, protocol: Protocol, details: Mapping[str, Any]
    ) -> tuple[dict[str, Any], bytes]:
        board, sha = self._board(), sha256(data).hexdigest()
        message = {"do": do, "sha": sha, "threads": self.threads, "cores": self._cores_there(protocol), **details}
        answer, found = board.ask(message)
        if answer.get("absent"):
            board.ask({"do": "put"}, data)
            answer, found = board.ask(message)
        if answer.get("absent"):
            raise DeviceUnavailable(f"{self.host} does not keep the model that it is sent; is its disk full?")
        return answer, found


class _Loaded:
    """One model on the board, opened again if the connection had to be replaced."""

    def __init__(self, owner: CpuOnnxRuntimeSsh, data: bytes) -> None:
        self._owner, self._data = owner, data
        owner._steadily(self._open)

    def _open(self) -> None:
        answer, _ = self._owner._ask_once_of(self._data, "open", self._owner._protocol, {})
        self._board, self._handle = self._owner._board(), answer["handle"]
        weakref.finalize(self, self._board.dropped.append, self._handle)

    def ask(
        self, message: Mapping[str, Any], protocol: Protocol, limit_s: float = ANSWER_S, data: bytes = b""
    ) -> tuple[dict[str, Any], bytes]:
        return self._owner._steadily(lambda: self._ask_once(message, protocol, limit_s, data))

    def _ask_once(
        self, message: Mapping[str, Any], protocol: Protocol, limit_s: float, data: bytes
    ) -> tuple[dict[str, Any], bytes]:
        if not self._board.alive:
            self._open()
        where = {"handle": self._handle, "threads": self._owner.threads, "cores": self._owner._cores_there(protocol)}
        return self._board.ask({**where, **message}, data, limit_s)

    def __call__(self) -> None:
        self.device_ms(1)

    def device_ms(self, calls: int) -> float:
        """Milliseconds an inference, by the board's clock: the way to the board does not count."""
        answer, _ = self.ask({"do": "run", "calls": calls}, self._owner._protocol)
        if not _milliseconds([answer.get("ms")]):
            raise DeviceUnavailable(f"{self._owner.host} answered with what is no time")
        return float(answer["ms"])


def _milliseconds(values: Any) -> bool:
    """Whether these are times as a board may answer them."""
    return isinstance(values, list) and all(type(ms) in (int, float) and 0 < ms < math.inf for ms in values)
