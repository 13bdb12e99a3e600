"""Candidates evaluated in worker processes: as many as were asked for, although workers die."""

from __future__ import annotations

import concurrent.futures
import os
import signal
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path

import pytest

import hwnas
from hwnas.engine import LocalEngine
from hwnas.plan import SearchSettings
from hwnas.run import Run
from hwnas.spaces.errors import ConfigError, ModelError

SPACE = "epnas(width=0.25,depth=0.5)"
LIMITS = ("params <= 200k",)
ARCHITECTURES = [(width, *[0] * 11) for width in range(4)]


def started(folder: Path, **settings: object) -> Path:
    """A run folder, as a search would make it."""
    given = SearchSettings(space=SPACE, data="digits", constraints=LIMITS, evaluator="scratch", limit=200, **settings)  # type: ignore[arg-type]
    with Run.create(folder, asdict(given)):
        return folder


def workers(folder: Path) -> list[int]:
    """Processes that evaluate for the run, as a user would find them."""
    found = []
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = entry.read_bytes().split(b"\0")
        except OSError:
            continue
        if b"hwnas.worker" in words and os.fsencode(folder) in words:
            found.append(int(entry.parent.name))
    return found


def test_a_search_in_two_processes(tmp_path: Path) -> None:
    run = tmp_path / "run"
    result = hwnas.search(
        SPACE,
        "digits",
        LIMITS,
        strategy="epnas",
        options={"networks": "3"},
        evaluator="scratch",
        evaluations=7,
        epochs=1,
        limit=200,
        jobs=2,
        run=run,
    )
    trials = hwnas.Run.open(run, write=False).trials()
    assert result.trials == len({trial.architecture for trial in trials}) == 7
    assert all(trial.score > 0 and trial.costs.keys() == {"params"} for trial in trials)
    assert any(trial.info["inherited"] > 0 for trial in trials)  # what epnas does unless told otherwise
    assert not workers(run)
    assert not [path for path in run.rglob("*") if path.name.startswith(("candidate-", "weights-", "worker-"))]


@pytest.mark.skipif(not Path("/proc/self/cmdline").exists(), reason="finds the workers under /proc")
def test_workers_that_are_killed_are_replaced(tmp_path: Path) -> None:
    run = started(tmp_path / "run", epochs=30)
    with LocalEngine(run, slots=2, threads=1) as engine:
        for architecture in ARCHITECTURES[:2]:
            engine.submit(architecture)
        assert (engine.busy, engine.room) == (2, 0)
        deadline = time.monotonic() + 100
        while not list(run.glob("checkpoints/candidate-*")) and time.monotonic() < deadline:
            time.sleep(0.05)  # until one has begun to train
        first = workers(run)
        assert len(first) == 2
        for process in first:
            os.kill(process, signal.SIGKILL)
        found = []
        while engine.busy:
            found += engine.wait()
        assert not set(workers(run)) & set(first)
    assert sorted(evaluation.architecture for evaluation in found) == ARCHITECTURES[:2]
    assert not any(evaluation.failed for evaluation in found)


def test_what_kills_every_worker_is_a_failed_evaluation(tmp_path: Path) -> None:
    with LocalEngine(tmp_path, slots=1, threads=1, retries=1) as engine:  # no run folder: each worker ends at once
        engine.submit(ARCHITECTURES[0])
        (evaluation,) = engine.wait()
        assert evaluation.failed
        assert f"2 workers were lost over the architecture {list(ARCHITECTURES[0])}" in evaluation.info["error"]
    assert "is not a run folder" in (tmp_path / "worker-1.log").read_text()


def test_errors_of_the_evaluator_arrive(tmp_path: Path) -> None:
    with LocalEngine(started(tmp_path / "run"), slots=1, threads=1) as engine:
        engine.submit((99,))
        with pytest.raises(ModelError, match="12 decisions"):
            engine.wait()


def test_what_is_finished_beside_an_error_comes_first(tmp_path: Path) -> None:
    with LocalEngine(started(tmp_path / "run", epochs=1), slots=2, threads=1) as engine:
        engine.submit((99,))
        engine.submit(ARCHITECTURES[0])
        concurrent.futures.wait(engine._futures)
        (evaluation,) = engine.wait()
        assert evaluation.architecture == ARCHITECTURES[0]
        assert engine.busy == 1
        with pytest.raises(ModelError, match="12 decisions"):
            engine.wait()


def test_a_worker_ends_with_its_input(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "hwnas.worker", str(started(tmp_path / "run"))]
    done = subprocess.run(command, input="", capture_output=True, text=True, timeout=100, check=True)
    assert done.stdout == ""


def test_one_shot_searches_have_one_process() -> None:
    for settings in ({"jobs": 2}, {"inherit": True}):
        with pytest.raises(ConfigError, match="evaluator scratch"):
            SearchSettings(space=SPACE, data="digits", constraints=LIMITS, **settings)  # type: ignore[arg-type]
