"""What runs on a board for the device ``cpu-onnxruntime-ssh``: it measures models there, by the board's own clock.

`hwnas.profilers.ssh_connection` packs this module and the few that it imports into one file and starts that on the
board, which needs Python 3.8 or later and onnxruntime, and nothing of hwnas. All of them keep to what these have.

It takes a message (`hwnas.profilers.frames`) on standard input and answers it on standard output. It ends at once, in
the middle of an inference too, when its input ends, and when it hears nothing for `SILENCE_S` while it waits. A message
has a key ``do``, and an answer has a key ``error`` where something went wrong:

- ``ping``: nothing;
- ``cores``: the cores that ``threads`` threads are best kept to;
- ``put``: keeps the model that follows, by its SHA-256;
- ``open``: loads the model of that ``sha``; gives its ``handle``, or ``absent`` if it has to be put first;
- ``pass``: one pass over ``handle`` by ``protocol``, as `hwnas.profilers.timing.time_pass` makes it;
- ``run``: ``calls`` inferences of ``handle``, one after the other; gives the mean, ``ms``;
- ``count``: the microseconds of each kernel of a model; the optimised model follows;
- ``outputs``: those of ``handle`` for the arrays that follow (npz), as npz.

``cores`` says where the work stays (null: anywhere), and handles in the list ``drop`` are closed.
"""

from __future__ import annotations

import hashlib
import io
import os
import queue
import select
import tempfile
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from hwnas.latency_tables.host import host_facts
from hwnas.profilers.frames import FrameError, pack, read_frame
from hwnas.profilers.model_io import first_line
from hwnas.profilers.onnxruntime_model import bind, count_kernels, kernel_times, make_runner, open_session
from hwnas.profilers.protocol import Protocol
from hwnas.profilers.timing import choose_cores, time_pass
from hwnas.spaces.errors import HwnasError, ModelError

__all__ = ["GREETING", "MAX_MODEL_BYTES", "SILENCE_S", "main"]

#: What it says first: whatever came before is the noise of a login.
GREETING = b"\nhwnas agent 1\n"
#: Seconds of silence after which it takes the other side for gone.
SILENCE_S = 120.0
MAX_MODEL_BYTES = 2**31 - 1
#: Models that are kept from one connection to the next; the oldest make room.
_KEPT_BYTES = 256 * 1000 * 1000
_PROVIDER = "CPUExecutionProvider"


class _Store:
    """Models by their SHA-256, in a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def get(self, sha: str) -> bytes | None:
        with suppress(OSError):
            data = (self.folder / f"{sha}.onnx").read_bytes()
            if hashlib.sha256(data).hexdigest() == sha:
                return data
        return None

    def put(self, data: bytes) -> None:
        files = []
        for file in self.folder.glob("*.onnx"):
            with suppress(OSError):  # another agent may make room at the same time
                about = file.stat()
                files.append((about.st_mtime, about.st_size, file))
        room = _KEPT_BYTES - len(data)
        for _, size, file in sorted(files, reverse=True):
            room -= size
            if room < 0:
                with suppress(OSError):
                    file.unlink()
        handle, name = tempfile.mkstemp(dir=str(self.folder))
        with os.fdopen(handle, "wb") as stream:
            stream.write(data)
        os.replace(name, str(self.folder / f"{hashlib.sha256(data).hexdigest()}.onnx"))  # noqa: PTH105


class _Agent:
    """Answers messages."""

    def __init__(self, store: _Store) -> None:
        self.store = store
        self.anywhere = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else None
        self.open: dict[int, tuple[Any, Any]] = {}
        self.count_opened = 0

    def answer(self, message: dict[str, Any], data: bytes) -> tuple[dict[str, Any], bytes]:
        for handle in message.get("drop", ()):
            self.open.pop(handle, None)
        found = getattr(self, f"do_{message['do']}")(message, data)
        return found if isinstance(found, tuple) else (found, b"")

    def do_ping(self, message: dict[str, Any], data: bytes) -> dict[str, Any]:
        return {}

    def do_cores(self, message: dict[str, Any], data: bytes) -> dict[str, Any]:
        self._stay(None)
        return {"cores": choose_cores(message["threads"])}

    def do_put(self, message: dict[str, Any], data: bytes) -> dict[str, Any]:
        self.store.put(data)
        return {}

    def do_open(self, message: dict[str, Any], data: bytes) -> dict[str, Any]:
        model = self.store.get(message["sha"])
        if model is None:
            return {"absent": True}
        self._stay(message["cores"])  # threads that the session starts stay where this one is
        session = self._session(model, message["threads"])
        self.count_opened += 1
        self.open[self.count_opened] = session, make_runner(session, *bind(session))
        return {"handle": self.count_opened}

    def do_pass(self, message: dict[str, Any], data: bytes) -> dict[str, Any]:
        self._stay(message["cores"])
        _, run = self.open[message["handle"]]
        settings = message["protocol"]
        settings["cores"] = settings["cores"] and tuple(settings["cores"])
        made = time_pass(run, Protocol(**settings), threads=message["threads"])
        return {"samples": made.samples, "dropped": made.dropped, "inner": made.inner}

    def do_run(self, message: dict[str, Any], data: bytes) -> dict[str, Any]:
        _, run = self.open[message["handle"]]
        start = time.perf_counter()
        for _ in range(message["calls"]):
            run()
        return {"ms": (time.perf_counter() - start) / message["calls"] * 1e3}

    def do_count(self, message: dict[str, Any], data: bytes) -> Any:
        model = self.store.get(message["sha"])
        if model is None:
            return {"absent": True}
        self._stay(message["cores"])
        with tempfile.TemporaryDirectory(prefix="hwnas-") as folder:
            optimised = Path(folder) / "optimised.onnx"
            session = self._session(
                model,
                message["threads"],
                enable_profiling=True,
                profile_file_prefix=str(Path(folder) / "profile"),
                optimized_model_filepath=str(optimised),
            )
            events, _, skip = count_kernels(session, make_runner(session, *bind(session)), message["seconds"])
            return {"times": kernel_times(events, skip)}, optimised.read_bytes()

    def do_outputs(self, message: dict[str, Any], data: bytes) -> Any:
        import numpy

        session, _ = self.open[message["handle"]]
        with numpy.load(io.BytesIO(data), allow_pickle=False) as arrays:
            found = session.run(None, {name: arrays[name] for name in arrays.files})
        written = io.BytesIO()
        numpy.savez(written, *found)
        return {}, written.getvalue()

    def _stay(self, cores: Any) -> None:
        if self.anywhere is None:
            return
        try:
            os.sched_setaffinity(0, self.anywhere if cores is None else cores)
        except OSError as error:
            allowed = ", ".join(map(str, sorted(self.anywhere)))
            raise ModelError(f"cannot pin to cores {cores} there: they may be any of {allowed}") from error

    def _session(self, model: bytes, threads: int, **settings: Any) -> Any:
        try:
            return open_session(model, _PROVIDER, threads=threads, settings=settings)
        except Exception as error:  # onnxruntime's errors have no common base
            raise ModelError(f"onnxruntime cannot load the model: {first_line(error)}") from error


def _listen(messages: queue.SimpleQueue[tuple[dict[str, Any], bytes]], busy: threading.Event) -> None:
    """Hand messages on; at the end of the input or after a long silence make an end of the process."""
    with suppress(FrameError, OSError):
        while True:
            ready, _, _ = select.select([0], [], [], SILENCE_S)
            if not ready:
                if busy.is_set():
                    continue
                break
            message = read_frame(lambda size: os.read(0, size), MAX_MODEL_BYTES)
            if message is None:
                break
            busy.set()
            messages.put(message)
    os._exit(0)  # the main thread may be deep in a model


def _folder() -> Path:
    """Where models are kept; a passing folder if the user's own cannot be written."""
    base = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")  # noqa: PTH111
    folder = Path(base) / "hwnas" / "models"
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=str(folder)):
            return folder
    except OSError:
        return Path(tempfile.mkdtemp(prefix="hwnas-"))


def main() -> None:
    """Say what this machine is, then answer messages until the input ends."""
    import onnxruntime

    out = os.dup(1)
    os.dup2(2, 1)  # what a library prints must not look like an answer
    messages: queue.SimpleQueue[tuple[dict[str, Any], bytes]] = queue.SimpleQueue()
    busy = threading.Event()
    agent = _Agent(_Store(_folder()))
    usable = os.cpu_count() if agent.anywhere is None else len(agent.anywhere)
    facts = {"host": host_facts(), "onnxruntime": onnxruntime.__version__, "usable_cores": usable}
    _send(out, GREETING + pack(facts))
    threading.Thread(target=_listen, args=(messages, busy), daemon=True).start()
    while True:
        message, data = messages.get()
        try:
            answer, found = agent.answer(message, data)
        except HwnasError as error:
            answer, found = {"error": str(error)}, b""
        except Exception as error:  # onnxruntime's errors have no common base; whatever it is, the other side is told
            answer, found = {"error": f"the agent failed over it: {first_line(error)}"}, b""
        busy.clear()
        _send(out, pack(answer, found))


def _send(out: int, data: bytes) -> None:
    view = memoryview(data)
    while len(view):
        view = view[os.write(out, view) :]
