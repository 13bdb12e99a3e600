"""A process that answers questions, JSON a line: for runtimes that need a Python of their own."""

from __future__ import annotations

import contextlib
import json
import queue
import subprocess
import tempfile
import threading
import weakref
from collections.abc import Mapping, Sequence
from typing import IO, Any

from hwnas.spaces.errors import DeviceUnavailable, ModelError

__all__ = ["WorkerProcess"]


class WorkerProcess:
    """Starts a command that answers each line on its input with one on its output.

    It is killed when it takes too long over an answer, when this object is gone, and when this process ends.

    Parameters
    ----------
    command
        Program and arguments.
    limit_s
        Seconds that one answer may take.

    Raises
    ------
    DeviceUnavailable
        If the program cannot be started.
    """

    def __init__(self, command: Sequence[str], limit_s: float) -> None:
        self.limit_s = limit_s
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - it is open as long as the process runs
        try:
            # a group of its own: Ctrl-C is for the caller, which then ends the worker
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._errors,
                text=True,
                encoding="utf-8",
                start_new_session=True,
            )
        except OSError as error:
            self._errors.close()
            raise DeviceUnavailable(f"cannot start {command[0]} ({error.strerror}); check the path") from error
        assert self._process.stdout is not None
        self._answers: queue.SimpleQueue[str] = queue.SimpleQueue()
        threading.Thread(target=_pump, args=(self._process.stdout, self._answers), daemon=True).start()
        self.close = weakref.finalize(self, _end, self._process, self._errors)

    @property
    def alive(self) -> bool:
        """Whether it still answers."""
        return self.close.alive and self._process.poll() is None

    def ask(self, question: Mapping[str, Any]) -> dict[str, Any]:
        """The answer to one question.

        Raises
        ------
        ModelError
            If the process ends or takes too long, which makes an end of it.
        """
        assert self._process.stdin is not None
        try:
            print(json.dumps(question), file=self._process.stdin, flush=True)
            line = self._answers.get(timeout=self.limit_s)
            answer = json.loads(line)
        except queue.Empty:
            self.close()
            raise ModelError(f"the worker gave no answer in {self.limit_s:g} s and was ended") from None
        except (OSError, ValueError) as error:
            words = self._last_words()
            self.close()
            raise ModelError(f"the worker process ended over the model{words}") from error
        if not isinstance(answer, dict):
            self.close()
            raise ModelError(f"the worker answered with {type(answer).__name__} instead of a dictionary")
        return answer

    def _last_words(self) -> str:
        """The last line that the process wrote to its standard error, if any."""
        with contextlib.suppress(OSError, ValueError):
            self._errors.seek(max(0, self._errors.seek(0, 2) - 4000))
            lines = [line.strip() for line in self._errors.read().decode("utf-8", "replace").splitlines()]
            if last := next((line for line in reversed(lines) if line), ""):
                return f": {last[:300]}"
        return ""


def _pump(stream: IO[str], answers: queue.SimpleQueue[str]) -> None:
    """Hand lines on; an empty one, which is no answer, when there are no more."""
    with stream:
        for line in stream:
            answers.put(line)
    answers.put("")


def _end(process: subprocess.Popen[str], errors: IO[bytes]) -> None:
    process.kill()
    process.wait()
    if process.stdin is not None:
        with contextlib.suppress(OSError):  # what is buffered for a dead process cannot be flushed
            process.stdin.close()
    errors.close()
