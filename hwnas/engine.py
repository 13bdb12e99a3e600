"""Where candidates are evaluated: in this process, or in several worker processes at once.

Another engine, on the machines of a Ray cluster, is `hwnas.ray_engine.RayEngine`. All give the same guarantees: each
architecture that was submitted comes back once; one whose worker dies is begun again, a bounded number of times.

A worker (``python -m hwnas.worker RUN``) knows all it needs from the run folder, and speaks JSON: an architecture a
line in, an evaluation a line out. Nothing is pickled, a script needs no guard around its main part, and a worker that
dies is replaced: what it was at is evaluated again, from its last checkpoint.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import subprocess
import sys
import threading
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

from hwnas.evaluators.base import Evaluation, Evaluator
from hwnas.spaces.errors import ModelError
from hwnas.spaces.space import Architecture

__all__ = ["Engine", "LocalEngine", "SerialEngine", "given_up"]


def given_up(architecture: Architecture, attempts: int, last: str) -> Evaluation:
    """The failed evaluation of an architecture over which worker after worker was lost."""
    reason = f"{attempts} workers were lost over the architecture {list(architecture)}; {last}"
    return Evaluation(architecture, math.nan, info={"error": reason})


class Engine(ABC):
    """Takes architectures, and gives their evaluations back in the order in which they end."""

    @property
    @abstractmethod
    def busy(self) -> int:
        """Architectures that were submitted and not given back."""

    @property
    @abstractmethod
    def room(self) -> int:
        """How many more it would take now."""

    @abstractmethod
    def submit(self, architecture: Architecture) -> None:
        """Take one more."""

    @abstractmethod
    def wait(self) -> list[Evaluation]:
        """Evaluations that have ended, at least one; waits for it. Each is given once.

        Raises
        ------
        HwnasError
            What the evaluator raised.
        """

    @abstractmethod
    def close(self) -> None:
        """End all work; what was submitted is dropped."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class SerialEngine(Engine):
    """One after the other in this process; new ones are taken once those before are done.

    Parameters
    ----------
    evaluator
        Asked for anew at each evaluation, since a search in stages changes it.
    slots
        Architectures that it takes at a time.
    """

    def __init__(self, evaluator: Callable[[], Evaluator], slots: int) -> None:
        self._evaluator, self._slots = evaluator, slots
        self._queue: deque[Architecture] = deque()

    @property
    def busy(self) -> int:
        return len(self._queue)

    @property
    def room(self) -> int:
        return 0 if self._queue else self._slots

    def submit(self, architecture: Architecture) -> None:
        self._queue.append(architecture)

    def wait(self) -> list[Evaluation]:
        found = self._evaluator().evaluate([self._queue[0]])
        self._queue.popleft()
        return found

    def close(self) -> None:
        self._queue.clear()


class LocalEngine(Engine):
    """Worker processes on this machine.

    Parameters
    ----------
    run
        The run folder that says what is evaluated and how; each worker's errors are in ``worker-N.log`` there.
    slots
        Workers.
    threads
        Of each worker.
    retries
        How often an architecture is begun again after its worker died, before its evaluation counts as failed.
    """

    def __init__(self, run: Path, slots: int, threads: int, retries: int = 4) -> None:
        self._slots, self._attempts = slots, retries + 1
        self._ended: deque[Future[Evaluation]] = deque()
        self._idle: deque[_Worker] = deque(_Worker(run, number, threads) for number in range(1, slots + 1))
        self._pool = ThreadPoolExecutor(slots, "hwnas-worker")
        self._futures: set[Future[Evaluation]] = set()
        self._workers = list(self._idle)

    @property
    def busy(self) -> int:
        return len(self._futures) + len(self._ended)

    @property
    def room(self) -> int:
        return self._slots - self.busy

    def submit(self, architecture: Architecture) -> None:
        self._futures.add(self._pool.submit(self._evaluate, architecture))

    def _evaluate(self, architecture: Architecture) -> Evaluation:
        worker = self._idle.popleft()
        try:
            for _ in range(self._attempts):
                answer = worker.ask({"architecture": list(architecture)})
                if answer is not None:
                    break
            else:
                return given_up(architecture, self._attempts, f"see {worker.log}")
        finally:
            self._idle.append(worker)
        if "error" in answer:
            raise ModelError(answer["error"])
        return Evaluation.from_json(answer)

    def wait(self) -> list[Evaluation]:
        if not self._ended:
            done, self._futures = wait(self._futures, return_when=FIRST_COMPLETED)
            # an error ends the search: what is finished beside it is given first
            self._ended.extend(sorted(done, key=lambda future: future.exception() is not None))
        found: list[Evaluation] = []
        while self._ended and (not found or self._ended[0].exception() is None):
            found.append(self._ended.popleft().result())
        return found

    def close(self) -> None:
        for worker in self._workers:
            worker.stop()
        self._pool.shutdown(cancel_futures=True)
        for worker in self._workers:
            if worker.log.exists() and not worker.log.stat().st_size:
                worker.log.unlink()


class _Worker:
    """One worker process, started when it is first asked and again after it died."""

    def __init__(self, run: Path, number: int, threads: int) -> None:
        self._run, self._threads = run, threads
        self.log = run / f"worker-{number}.log"
        self._process: subprocess.Popen[str] | None = None
        self._lock = threading.Lock()
        self._stopped = False

    def ask(self, question: dict[str, Any]) -> dict[str, Any] | None:
        """The answer; None if the process died."""
        process = self._started()
        if process is None:
            return None
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            print(json.dumps(question), file=process.stdin, flush=True)
            answer: dict[str, Any] = json.loads(process.stdout.readline())
        except (OSError, ValueError):
            self._end()
            return None
        return answer

    def _started(self) -> subprocess.Popen[str] | None:
        with self._lock:
            if self._stopped:
                return None
            if self._process is None:
                command = [sys.executable, "-m", "hwnas.worker", str(self._run), "--threads", str(self._threads)]
                with open(self.log, "a", encoding="utf-8") as log:
                    # a group of its own: Ctrl-C is for the search, which then stops its workers
                    self._process = subprocess.Popen(
                        command,
                        stdin=subprocess.PIPE,
                        stdout=subprocess.PIPE,
                        stderr=log,
                        text=True,
                        start_new_session=True,
                        env={**os.environ, "OMP_NUM_THREADS": str(self._threads)},
                    )
            return self._process

    def _end(self) -> None:
        with self._lock:
            process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait()
            for stream in (process.stdin, process.stdout):
                _close(stream)

    def stop(self) -> None:
        """Kill the process; it is not started again."""
        with self._lock:
            self._stopped = True
            process = self._process
        if process is not None:
            process.kill()  # a thread that waits for its answer then reads the end of it
        self._end()


def _close(stream: IO[str] | None) -> None:
    if stream is not None:
        with contextlib.suppress(OSError):  # what is buffered for a dead process cannot be flushed
            stream.close()
