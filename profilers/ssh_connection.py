"""A board over SSH: starts the agent there with the system's ``ssh``, and asks it.

Everything of the way there (address, user, port, keys, jump hosts) is what ``~/.ssh/config`` says of the host, or the
file that ``HWNAS_SSH_CONFIG`` names. ``HWNAS_SSH_PYTHON`` names the board's Python, by default ``python3``.
"""

from __future__ import annotations

import contextlib
import io
import os
import queue
import re
import shlex
import shutil
import subprocess
import tempfile
import threading
import time
import weakref
import zipfile
from collections import deque
from collections.abc import Mapping
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import IO, Any

from hwnas.profilers.frames import FrameError, pack, read_frame
from hwnas.profilers.ssh_agent import GREETING, MAX_MODEL_BYTES, SILENCE_S
from hwnas.spaces.errors import ConfigError, DeviceUnavailable, ModelError

__all__ = ["AGENT_MODULES", "Connection", "agent_file", "check_host", "connect", "missing_client"]

PYTHON, CONFIG = "HWNAS_SSH_PYTHON", "HWNAS_SSH_CONFIG"
#: The modules that the agent is made of; each keeps to Python 3.8 and imports nothing of hwnas but these.
AGENT_MODULES = (
    "hwnas.spaces.errors",
    "hwnas.latency_tables.host",
    "hwnas.profilers.attribution",
    "hwnas.profilers.frames",
    "hwnas.profilers.model_io",
    "hwnas.profilers.onnxruntime_model",
    "hwnas.profilers.protocol",
    "hwnas.profilers.ssh_agent",
    "hwnas.profilers.timing",
)
_MAIN = """\
import os, sys
try:
    if sys.version_info < (3, 8):
        sys.exit("Python 3.8 or later is needed there, and this one is %d.%d" % sys.version_info[:2])
    try:
        import onnxruntime
    except Exception as error:
        sys.exit("onnxruntime cannot be imported there (%s); install it there: pip install onnxruntime" % error)
    from hwnas.profilers.ssh_agent import main
finally:
    os.remove(sys.argv[0])
main()
"""
#: Takes the agent from standard input; a file called like a module in the home folder is not imported.
_BOOTSTRAP = """\
import os, runpy, sys, tempfile
sys.path[:] = [folder for folder in sys.path if folder]
agent = sys.stdin.buffer.read(int(sys.argv[1]))
handle, name = tempfile.mkstemp(".pyz", "hwnas-")
with os.fdopen(handle, "wb") as stream:
    stream.write(agent)
sys.argv[:] = [name]
runpy.run_path(name, run_name="__main__")
"""
#: Seconds: to reach the host, until the agent greets (a small board imports slowly), and for one answer.
CONNECT_S, GREETING_S, ANSWER_S = 10, 120.0, 120.0
#: Bytes a second that a way to a board has at least.
_SLOWEST = 100_000
_MAX_NOISE = 64 * 1024
_LABEL = r"[a-z0-9]([a-z0-9_-]*[a-z0-9])?"
_HOST = re.compile(rf"{_LABEL}(\.{_LABEL})*")
_PATH = re.compile(r"[A-Za-z0-9_./+-]+")


def check_host(host: str) -> str:
    """Return `host` if it can name a board in a device key.

    Raises
    ------
    ConfigError
        If it is anything but labels of lower-case letters, digits, ``-`` and ``_``, with dots between them.
    """
    labels = host.split(".")
    port = labels[-1].isdigit() and not (len(labels) == 4 and all(map(str.isdigit, labels)))
    if len(host) > 120 or not _HOST.fullmatch(host) or port:
        raise ConfigError(
            f"{host!r} cannot name a board; write a host name in lower case, or an alias: "
            "user, port and address belong into ~/.ssh/config (Host pi4, HostName 192.168.1.5, User pi, Port 2222)"
        )
    return host


def missing_client() -> str | None:
    """None if this machine has an SSH client; else what to install."""
    if shutil.which("ssh") is None:
        return "there is no ssh client on this machine; install one, on Debian with: apt-get install openssh-client"
    return None


@lru_cache(maxsize=1)
def agent_file() -> bytes:
    """The agent as one file that Python runs (a zip)."""
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("__main__.py", _MAIN)
        for package in sorted({".".join(name.split(".")[:depth]) for name in AGENT_MODULES for depth in (1, 2)}):
            archive.writestr(package.replace(".", "/") + "/__init__.py", "")
        for name in AGENT_MODULES:
            spec = find_spec(name)
            assert spec is not None
            assert spec.origin is not None
            archive.writestr(name.replace(".", "/") + ".py", Path(spec.origin).read_bytes())
    return made.getvalue()


class Connection:
    """One agent on one board, asked by one thread at a time; it ends when this object is gone.

    Parameters
    ----------
    host
        What ``ssh`` shall connect to, see `check_host`.
    python
        The Python there; None takes what ``HWNAS_SSH_PYTHON`` says.

    Attributes
    ----------
    dropped
        Handles of models that nothing refers to any more; the next message closes them.
    facts
        What the agent said of the board: ``host`` (see `hwnas.latency_tables.host_facts`), ``onnxruntime`` (its
        version) and ``usable_cores``.

    Raises
    ------
    ConfigError
        If the host or the path of the Python cannot be used.
    DeviceUnavailable
        If the board cannot be reached or lacks something; the message says what.
    """

    def __init__(self, host: str, python: str | None = None) -> None:
        self.host = check_host(host)
        if reason := missing_client():
            raise DeviceUnavailable(reason)
        command, agent = _command(host, _python(python), len(agent_file())), agent_file()
        self.dropped: deque[int] = deque()
        self._lock = threading.Lock()
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - it is open as long as the process runs
        try:
            # a group of its own: Ctrl-C is for the caller, which then ends the connection
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._errors,
                start_new_session=True,
            )
        except OSError as error:
            self._errors.close()
            raise DeviceUnavailable(f"ssh cannot be started: {error.strerror}") from error
        self.close = weakref.finalize(self, _end, self._process, self._errors)
        assert self._process.stdout is not None
        self._answers: queue.SimpleQueue[tuple[dict[str, Any], bytes] | None] = queue.SimpleQueue()
        threading.Thread(target=_pump, args=(self._process.stdout, self._answers), daemon=True).start()
        try:
            self._write(agent, GREETING_S)
            greeting = self._answers.get(timeout=GREETING_S)
        except (OSError, queue.Empty):
            greeting = None
        if greeting is None:
            reason = self._why_not(python)
            self.close()
            raise DeviceUnavailable(reason)
        self.facts = _checked_facts(greeting[0], host)
        self._spoken = time.monotonic()
        threading.Thread(target=_keep_alive, args=(weakref.ref(self),), daemon=True).start()

    @property
    def alive(self) -> bool:
        """Whether it can still be asked."""
        return self.close.alive and self._process.poll() is None

    def ask(
        self, message: Mapping[str, Any], data: bytes = b"", limit_s: float = ANSWER_S
    ) -> tuple[dict[str, Any], bytes]:
        """The answer to one message.

        Parameters
        ----------
        message, data
            See `hwnas.profilers.ssh_agent`.
        limit_s
            Seconds that the agent may take, besides the time to send `data`.

        Raises
        ------
        ModelError
            If the agent could not do it.
        DeviceUnavailable
            If the connection ended or was given up.
        """
        with self._lock:
            drop = [self.dropped.popleft() for _ in range(len(self.dropped))]
            try:
                self._write(pack({**message, "drop": drop}, data), limit_s)
                found = self._answers.get(timeout=limit_s)
            except queue.Empty:
                self.close()
                raise DeviceUnavailable(self._lost(f"gave no answer in {limit_s:g} s")) from None
            except (OSError, ValueError) as error:
                words = self._last_words(": ")
                self.close()
                raise DeviceUnavailable(self._lost(f"ended{words}")) from error
            self._spoken = time.monotonic()
        if found is None:
            words = self._last_words(": ")
            self.close()
            raise DeviceUnavailable(self._lost(f"ended{words}"))
        if "error" in found[0]:
            raise ModelError(f"{self.host}: {str(found[0]['error'])[:500]}")
        return found

    def _write(self, data: bytes, limit_s: float) -> None:
        """Write, but never wait for ever for a board that takes nothing."""
        assert self._process.stdin is not None
        timer = threading.Timer(limit_s + len(data) / _SLOWEST, self._process.kill)
        timer.daemon = True
        if len(data) > 4096:  # less than that, a pipe always takes
            timer.start()
        try:
            self._process.stdin.write(data)
            self._process.stdin.flush()
        finally:
            timer.cancel()

    def _lost(self, what: str) -> str:
        return f"the connection to {self.host} {what}"

    def _why_not(self, python: str | None) -> str:
        """Why there was no greeting, from ssh's exit code and what was said last."""
        try:
            code = self._process.wait(5)
        except subprocess.TimeoutExpired:
            return f"{self.host} was reached, but its agent did not start in {GREETING_S:g} s"
        words = self._last_words(": ")
        if code == 255:
            return f"{self.host} cannot be reached{words}; try: ssh {self.host} true"
        if code in (126, 127):
            return f"{self.host} has no {_python(python)}{words}; install Python 3.8 or later there, or set {PYTHON}"
        return f"{self.host} cannot run the agent{words}"

    def _last_words(self, before: str) -> str:
        """The last line that ssh or the board wrote to standard error, if any."""
        with contextlib.suppress(OSError, ValueError):
            self._errors.seek(max(0, self._errors.seek(0, 2) - 4000))
            lines = [line.strip() for line in self._errors.read().decode("utf-8", "replace").splitlines()]
            if last := next((line for line in reversed(lines) if line), ""):
                return before + "".join(c for c in last[:300] if c.isprintable())
        return ""


_connections: weakref.WeakValueDictionary[tuple[object, ...], Connection] = weakref.WeakValueDictionary()


def connect(host: str, python: str | None = None) -> Connection:
    """The connection of this process to a board: one, whatever number of devices there are on it."""
    key = (os.getpid(), host, _python(python), os.environ.get(CONFIG))
    found = _connections.get(key)
    if found is None or not found.alive:
        found = _connections[key] = Connection(host, python)
    return found


def _python(given: str | None) -> str:
    path = given or os.environ.get(PYTHON) or "python3"
    if not _PATH.fullmatch(path) or path.startswith("-"):
        raise ConfigError(
            f"{path!r} cannot be the path of a board's Python; write a path without spaces, absolute or from the home "
            f"folder there, such as {PYTHON}=venv/bin/python"
        )
    return path


def _command(host: str, python: str, size: int) -> list[str]:
    config = os.environ.get(CONFIG)
    options = {
        "BatchMode": "yes",
        "ConnectTimeout": str(CONNECT_S),
        "ServerAliveInterval": "15",
        "ServerAliveCountMax": "3",
        "ClearAllForwardings": "yes",
        "LogLevel": "ERROR",
    }
    listed = [part for name, value in options.items() for part in ("-o", f"{name}={value}")]
    # ssh joins what follows the host and hands it to the login shell there
    remote = f"exec {shlex.quote(python)} -u -c {shlex.quote(f'exec({_BOOTSTRAP!r})')} {size}"
    return ["ssh", "-T", "-a", "-x", *(["-F", config] if config else []), *listed, "--", host, remote]


def _pump(stream: IO[bytes], answers: queue.SimpleQueue[tuple[dict[str, Any], bytes] | None]) -> None:
    """Hand answers on, after the greeting; None when there are no more."""
    with stream, contextlib.suppress(FrameError, OSError, ValueError):
        noise = b""
        while not noise.endswith(GREETING):
            byte = stream.read(1)
            if not byte or len(noise) > _MAX_NOISE:
                break
            noise += byte
        else:
            while (answer := read_frame(stream.read, MAX_MODEL_BYTES)) is not None:
                answers.put(answer)
    answers.put(None)


def _keep_alive(reference: weakref.ref[Connection]) -> None:
    """Let the agent hear something every now and then, but never while it measures."""
    while True:
        time.sleep(SILENCE_S / 20)
        connection = reference()
        if connection is None or not connection.alive:
            return
        if time.monotonic() - connection._spoken > SILENCE_S / 6 and not connection._lock.locked():
            with contextlib.suppress(DeviceUnavailable, ModelError):  # whoever asks next is told
                connection.ask({"do": "ping"})
        del connection


def _end(process: subprocess.Popen[bytes], errors: IO[bytes]) -> None:
    process.kill()
    process.wait()
    if process.stdin is not None:
        with contextlib.suppress(OSError):  # what is buffered for a dead process cannot be flushed
            process.stdin.close()
    errors.close()


def _checked_facts(facts: dict[str, Any], host: str) -> dict[str, Any]:
    about, version, cores = facts.get("host"), facts.get("onnxruntime"), facts.get("usable_cores")
    if not isinstance(about, dict) or not isinstance(version, str) or type(cores) is not int or cores < 1:
        raise DeviceUnavailable(f"{host} does not say what it is; is it the agent of another hwnas?")
    if not isinstance(about.get("cpu"), str) or len(str(about)) > 10_000:
        raise DeviceUnavailable(f"{host} does not say what its CPU is")
    return {"host": about, "onnxruntime": version[:100], "usable_cores": cores}
