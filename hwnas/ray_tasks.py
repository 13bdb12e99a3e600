"""What the nodes of a Ray cluster run for `hwnas.ray_engine`: trainings of candidates, and measurements.

Text and bytes go in and come out, as JSON and ONNX; an error that the user should read comes back as text, too.
Nothing here needs the search's machine: a node has hwnas, the data set, and the devices it owns.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import socket
import tempfile
from collections.abc import Callable
from dataclasses import asdict
from functools import lru_cache, wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hwnas import __version__
from hwnas.spaces.errors import ConfigError, HwnasError

if TYPE_CHECKING:
    from hwnas.evaluators.scratch import ScratchEvaluator
    from hwnas.profilers import Profiler

__all__ = ["describe", "evaluate", "fingerprint", "forget", "measure", "profile_part", "task"]

#: Files of a latency table, which are all that a profiling node may send.
TABLE_FILES = ("device.json", "latencies.csv", "networks.csv", "samples.jsonl")


def task(**content: Any) -> str:
    """The text of a task, which also says what hwnas asks for it."""
    return json.dumps({"version": __version__, **content})


def fingerprint(run: Path) -> str:
    """What tells a run folder from every other: nodes that see it keep checkpoints there."""
    return hashlib.sha256((run / "run.toml").read_bytes()).hexdigest()


def _answering(function: Callable[..., dict[str, Any]]) -> Callable[..., str]:
    """Make `function` take a task's text and answer with one; the errors of hwnas become answers."""

    @wraps(function)
    def answer(text: str, *data: bytes) -> str:
        content = json.loads(text)
        here, asked = socket.gethostname(), content.pop("version")
        try:
            if asked != __version__:
                raise ConfigError(f"{here} has hwnas {__version__}, the search {asked}; install the same version")
            return json.dumps(function(*data, **content))
        except HwnasError as error:
            return json.dumps({"error": str(error), "kind": type(error).__name__, "host": here})

    del answer.__wrapped__  # Ray would check arguments against the inner signature
    return answer


# ---------------------------------------------------------------------- evaluation


@lru_cache(maxsize=1)
def _evaluator(settings: str, folder: Path) -> ScratchEvaluator:
    from hwnas.evaluators.scratch import ScratchEvaluator
    from hwnas.plan import SearchSettings, TrainingPlan

    return ScratchEvaluator.of_plan(TrainingPlan(SearchSettings.from_run(json.loads(settings))), folder)


def _own_folder(mark: str) -> Path:
    """Where this node keeps checkpoints of a run whose folder it does not see."""
    return Path.home() / ".cache" / "hwnas" / "ray" / mark[:32]


@_answering
def evaluate(settings: dict[str, Any], architecture: list[int], run: str, mark: str, threads: int) -> dict[str, Any]:
    """Train and score one architecture; ``own`` says whether checkpoints are this node's own."""
    import torch

    torch.set_num_threads(threads)
    shared = Path(run)
    own = not (shared / "run.toml").is_file() or fingerprint(shared) != mark
    folder = _own_folder(mark) if own else shared / "checkpoints"
    (evaluation,) = _evaluator(json.dumps(settings), folder).evaluate([tuple(architecture)])
    return {"evaluation": evaluation.to_json(), "own": own}


@_answering
def forget(mark: str) -> dict[str, Any]:
    """Remove this node's own checkpoints of a run."""
    shutil.rmtree(_own_folder(mark), ignore_errors=True)
    return {}


# ---------------------------------------------------------------------- measuring


@lru_cache(maxsize=4)
def _profiler(key: str, threads: int | None = None) -> Profiler:
    from hwnas.profilers import get_profiler

    options: dict[str, Any] = {} if threads is None else {"threads": threads}
    return get_profiler(key, **options)


@_answering
def describe(key: str, threads: int | None = None) -> dict[str, Any]:
    """What the device of this node is."""
    profiler = _profiler(key, threads)
    record = json.loads(profiler.device_record().to_json())
    return {"record": record, "file_precision": profiler.file_precision, "name": profiler.name, "key": profiler.key}


@_answering
def measure(model: bytes, key: str, protocol: dict[str, Any]) -> dict[str, Any]:
    """Latency of a model, and the device that gave it."""
    from hwnas.profilers import Protocol

    profiler = _profiler(key)
    if protocol["cores"] is not None:
        protocol["cores"] = tuple(protocol["cores"])
    result = profiler.measure(model, Protocol(**protocol))
    return {"measurement": asdict(result), "record": json.loads(profiler.device_record().to_json())}


def profile_part(text: str, *files: bytes) -> tuple[str | bytes, ...]:
    """Go on with a latency table for a while.

    Parameters
    ----------
    text
        Of the task: ``key`` of the device, and ``options`` of `hwnas.profile`.
    files
        The table so far, one for each of `TABLE_FILES`; empty where there is none.

    Returns
    -------
    tuple
        The answer's text, and what each file has grown by.
    """
    with tempfile.TemporaryDirectory(prefix="hwnas-") as temporary:
        answer = _profile_part(text, temporary.encode(), *files)
        folder = Path(temporary) / json.loads(text)["key"]
        grown: list[bytes] = []
        for name, before in zip(TABLE_FILES, files, strict=True):
            path = folder / name
            after = path.read_bytes() if path.exists() else before
            grown.append(after[len(before) :])
        return (answer, *grown)


@_answering
def _profile_part(root: bytes, *files: bytes, key: str, options: dict[str, Any]) -> dict[str, Any]:
    import hwnas

    table = Path(root.decode()) / key
    table.mkdir()
    for name, content in zip(TABLE_FILES, files, strict=True):
        if content:
            (table / name).write_bytes(content)
    return asdict(hwnas.profile(key, tables=root.decode(), **options))
