"""``cpu-tvm-rpc``: the CPU of a board, by code that is compiled here and timed there.

Three environment variables say which board: ``HWNAS_TVM_RPC`` (``host:port`` of an RPC server of TVM, or
``host:port/key`` of a tracker), ``HWNAS_TVM_TARGET`` (what to compile for, as JSON) and, if needed,
``HWNAS_TVM_CC`` (the command that links for it). Times are of the board's own clock, so the network does not count.
"""

from __future__ import annotations

import os
import platform
import re
import socket
import tempfile
from dataclasses import replace
from functools import lru_cache
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path
from typing import Any

from hwnas.latency_tables import DeviceRecord
from hwnas.profilers.base import RuntimeProfiler
from hwnas.profilers.cpu_tvm import CpuTvm, inputs_of
from hwnas.profilers.model_io import first_line, fixed_sizes
from hwnas.profilers.protocol import Protocol
from hwnas.profilers.timing import Runner
from hwnas.profilers.tvm_compile import cross_compile, find_linker, load_tvm, make_target
from hwnas.spaces.errors import ConfigError, DeviceUnavailable, HwnasError, ModelError

__all__ = ["CpuTvmRpc"]

ADDRESS, TARGET, LINKER = "HWNAS_TVM_RPC", "HWNAS_TVM_TARGET", "HWNAS_TVM_CC"
_REACH_S = 3.0
_SESSION_S = 600
_FORM = re.compile(r"(?P<host>[^:/\s]+):(?P<port>\d{1,5})(/(?P<key>[^/\s]+))?")


class CpuTvmRpc(RuntimeProfiler):
    """Measures on a board's CPU with TVM, over RPC."""

    name = "cpu-tvm-rpc"
    device_class = "cpu"
    runtime = "tvm"
    summary = "a board's CPU through TVM over RPC, untuned, measured"
    on_cpu = False

    @classmethod
    def unavailable(cls) -> str | None:
        if reason := CpuTvm.unavailable():
            return reason
        try:
            host, port, _ = _address()
            find_linker(_target(), os.environ.get(LINKER))
        except HwnasError as error:
            return str(error)
        try:
            socket.create_connection((host, port), _REACH_S).close()
        except OSError as error:
            return (
                f"nothing answers at {host}:{port} ({error.strerror or error}); start on the board: "
                f"python -m tvm.exec.rpc_server --host 0.0.0.0 --port {port}"
            )
        return None

    def runtime_version(self) -> str:
        return version("apache-tvm")

    def hardware(self) -> str:
        """The board's CPU as TVM there knows it, else as the target names it; and its architecture."""
        target = _target()
        try:
            cpu = str(_connect(*_address()).get_function("target.llvm_get_system_cpu")())
        except DeviceUnavailable:
            raise
        except Exception:  # a board with the small runtime has no such function, and TVM's errors no common base
            cpu = str(target.attrs.get("mcpu", "")) or "CPU"
        return f"{cpu} ({_architecture(target)})"

    def device_record(self, protocol: Protocol | None = None) -> DeviceRecord:
        """The record says what the board is; nothing of the machine that compiled, nor the board's address."""
        record, target = super().device_record(protocol), _target()
        host = {"cpu": record.name, "machine": _architecture(target), "target": str(target)}
        return replace(record, host=host)

    def load(self, data: bytes) -> Runner:
        data = fixed_sizes(data)
        name = f"hwnas-{sha256(data).hexdigest()[:20]}.so"
        with tempfile.TemporaryDirectory(prefix="hwnas-") as folder:
            file = cross_compile(data, Path(folder) / name, _target(), os.environ.get(LINKER))
            return self._runner(data, file)

    def _runner(self, data: bytes, file: Path) -> Runner:
        tvm, board = load_tvm(), _connect(*_address())
        try:
            board.upload(bytearray(file.read_bytes()), target=file.name)
            there = board.cpu(0)
            machine = tvm.relax.VirtualMachine(board.load_module(file.name), there)
            board.remove(file.name)  # it is open; boards have little room
            inputs = [tvm.runtime.tensor(value, there) for value in inputs_of(data)]
            runner = _Remote(machine, inputs, there)
            runner()
        except Exception as error:  # TVM's errors have no common base
            raise ModelError(f"the board cannot run the model: {first_line(error)}") from error
        return runner


class _Remote:
    """One model on the board; `device_ms` is of its clock."""

    def __init__(self, machine: Any, inputs: list[Any], there: Any) -> None:
        self.machine, self.inputs, self._there = machine, inputs, there
        machine.save_function("main", "timed", *inputs, include_return=False)

    def __call__(self) -> None:
        self.machine.module["timed"]()

    def device_ms(self, calls: int) -> float:
        # at least a millisecond at a time, however long the way to the board seemed to make one call
        timer = self.machine.time_evaluator("timed", self._there, number=calls, repeat=1, min_repeat_ms=1)
        return float(timer().results[0]) * 1e3


def _address() -> tuple[str, int, str | None]:
    text = os.environ.get(ADDRESS, "")
    match = _FORM.fullmatch(text.strip())
    if match is None or not 0 < int(match["port"]) < 65536:
        given = f"{ADDRESS} is {text!r}, not" if text else f"{ADDRESS} is not set; set it to"
        raise ConfigError(f"{given} the address of a board, host:port, or of a tracker, host:port/key")
    return match["host"], int(match["port"]), match["key"]


@lru_cache(maxsize=8)
def _connect(host: str, port: int, key: str | None) -> Any:
    """The session with a board: one for the process, because a board serves one at a time and others would wait."""
    if reason := CpuTvmRpc.unavailable():
        raise DeviceUnavailable(reason)
    load_tvm()
    from tvm import rpc

    try:
        if key is not None:
            return rpc.connect_tracker(host, port).request(key, session_timeout=_SESSION_S)
        return rpc.connect(host, port, session_timeout=_SESSION_S)
    except Exception as error:  # TVM's errors have no common base
        raise DeviceUnavailable(f"the board at {host}:{port} does not answer: {first_line(error)}") from error


def _target() -> Any:
    text = os.environ.get(TARGET)
    if not text:
        raise ConfigError(
            f"{TARGET} is not set; set it to what the board is, such as "
            '{"kind": "llvm", "mtriple": "aarch64-linux-gnu", "mcpu": "cortex-a76"}'
        )
    return make_target(text)


def _architecture(target: Any) -> str:
    return str(target.attrs.get("mtriple", "")).partition("-")[0] or platform.machine()
