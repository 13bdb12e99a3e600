"""Run folders: written safely, read back exactly, refused when damaged or in use."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
import tomllib
from pathlib import Path

import numpy as np
import pytest

from hwnas.evaluators import Evaluation
from hwnas.run import Run, default_run_path
from hwnas.spaces import ConfigError

SETTINGS = {"space": "mobilenet(width=0.5)", "constraints": ["flops <= 1M"], "seed": 3, "limit": None}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "runs" / "one"


def evaluation(index: int) -> Evaluation:
    return Evaluation((index, 1, 2), 0.5 + index / 100, {"flops": 1e6 + index}, {"seconds": 0.25})


def test_a_run_comes_back_as_it_was_written(path: Path) -> None:
    with Run.create(path, SETTINGS) as run:
        for index in range(3):
            run.add_trial(evaluation(index))
        run.add_finalist({"architecture": [1, 1, 2], "accuracy": np.float32(0.5), "fits": True})
        run.save_state({"rng": [1, 2], "round": 4})
        run.save_best({"architecture": [1, 1, 2]}, b"model")
    again = Run.open(path, write=False)
    assert again.settings == {"space": "mobilenet(width=0.5)", "constraints": ["flops <= 1M"], "seed": 3}
    assert again.trials() == [evaluation(index) for index in range(3)]
    assert again.finalists() == [{"architecture": [1, 1, 2], "accuracy": 0.5, "fits": True}]
    assert again.state == {"rng": [1, 2], "round": 4}
    assert again.best == {"architecture": [1, 1, 2]}
    assert again.onnx.read_bytes() == b"model"


def test_run_toml_says_what_is_needed_to_repeat_the_run(path: Path) -> None:
    Run.create(path, SETTINGS).close()
    content = tomllib.loads((path / "run.toml").read_text())
    assert content["settings"]["space"] == "mobilenet(width=0.5)"
    assert {"hwnas", "torch", "onnxruntime"} <= set(content["versions"])
    assert content["created_at"].startswith("20")


def test_numbers_that_json_lacks_are_kept_as_such(path: Path) -> None:
    with Run.create(path, {}) as run:
        run.add_trial(Evaluation((0,), math.nan, {"latency": math.inf}, {"loss": math.nan}))
        (trial,) = run.trials()
    assert trial.failed
    assert math.isnan(trial.costs["latency"])
    json.loads((path / "trials.jsonl").read_text(), parse_constant=lambda name: pytest.fail(name))


def test_a_torn_line_is_ignored_by_readers_and_cut_by_the_writer(path: Path) -> None:
    with Run.create(path, {}) as run:
        run.add_trial(evaluation(0))
    with open(path / "trials.jsonl", "ab") as stream:
        stream.write(b'{"architecture": [1')
    assert Run.open(path, write=False).trials() == [evaluation(0)]
    with Run.open(path) as run:
        run.add_trial(evaluation(1))
        assert run.trials() == [evaluation(0), evaluation(1)]


def test_settings_that_differ_are_named(path: Path) -> None:
    with Run.create(path, SETTINGS) as run:
        run.check(SETTINGS)
        with pytest.raises(ConfigError, match=r"seed = 3, not 4"):
            run.check({**SETTINGS, "seed": 4})
        with pytest.raises(ConfigError, match=r"limit = None, not 5"):
            run.check({**SETTINGS, "limit": 5})


def test_an_existing_run_is_not_overwritten(path: Path) -> None:
    Run.create(path, {}).close()
    with pytest.raises(ConfigError, match="holds a run already"):
        Run.create(path, {})


def test_a_folder_with_other_files_is_not_taken(path: Path) -> None:
    path.mkdir(parents=True)
    (path / "notes.txt").write_text("mine")
    with pytest.raises(ConfigError, match="is not empty"):
        Run.create(path, {})


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("run.toml", "format = ", "damaged"),
        ("run.toml", "format = 99\n[settings]\n", "format 99"),
        ("run.toml", "format = 1\n", "no table"),
        ("trials.jsonl", "not json\n", "line 1 .* not JSON"),
        ("trials.jsonl", "[1]\n", "line 1 .* not a JSON object"),
        ("trials.jsonl", '{"architecture": [1], "score": "high", "costs": {}, "info": {}}\n', "line 1 .*evaluation"),
        ("finalists.jsonl", "{}\n", "line 1 .*finalist"),
        ("state.json", "{", "damaged"),
        ("best.json", "3", "damaged"),
    ],
)
def test_damaged_files_are_named(path: Path, name: str, content: str, words: str) -> None:
    Run.create(path, {}).close()
    (path / name).write_text(content)

    def read() -> None:
        run = Run.open(path, write=False)
        run.trials(), run.finalists(), run.state, run.best

    with pytest.raises(ConfigError, match=words):
        read()


def test_what_is_no_run_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="there is no run folder"):
        Run.open(tmp_path / "absent")
    with pytest.raises(ConfigError, match=r"holds no run\.toml"):
        Run.open(tmp_path)


def test_one_process_owns_a_run(path: Path) -> None:
    with Run.create(path, {}) as run:
        with pytest.raises(ConfigError, match=f"in use by process {os.getpid()}"):
            Run.open(path)
        code = f"from hwnas.run import Run\nRun.open({str(path)!r})"
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=path, check=False)
        assert f"in use by process {os.getpid()}" in done.stderr
        assert run.trials() == []
    Run.open(path).close()


OWNER = """
import os, signal, sys
from hwnas.run import Run

run = Run.create(sys.argv[1], {})
worker = os.fork()
if worker:
    print(worker, flush=True)
signal.pause()
"""


def test_the_lock_of_a_killed_owner_is_free_although_its_worker_lives(path: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-c", OWNER, str(path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=tmp_path) as owner:
        assert owner.stdout is not None
        worker = int(owner.stdout.readline())
        try:
            owner.kill()
            owner.wait()
            os.kill(worker, 0)  # still there
            Run.open(path).close()
        finally:
            os.kill(worker, signal.SIGKILL)


def test_default_names_do_not_collide(tmp_path: Path) -> None:
    first = default_run_path("mobilenet(width=0.5)", "/data/my images", tmp_path)
    assert first.name.startswith("mobilenet-my-images-20")
    for _ in range(3):
        Run.create(default_run_path("mobilenet", "digits", tmp_path), {}).close()
    assert len(list(tmp_path.iterdir())) == 3
