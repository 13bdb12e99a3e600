"""Tuning: trials survive kills and torn lines, and a tuned device refuses what is not tuned."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

import hwnas
from hwnas.cli.app import app
from hwnas.latency_tables import LatencyTable
from hwnas.profilers import get_profiler, tvm_tuning
from hwnas.profilers.cpu_tvm import CpuTvm, inputs_of
from hwnas.profilers.testing import QUICK, check_profiler
from hwnas.profilers.tvm_compile import load_tvm, local_target
from hwnas.profilers.tvm_tuning import TuningRecords
from hwnas.spaces import ConfigError, ModelError, TableError
from hwnas.spaces.families import NetworkBuilder

pytest.importorskip("tvm")

KEY = "cpu-tvm.tuned"
TRIALS = 4


def model(channels: int = 8) -> Any:
    net = NetworkBuilder((1, 4, 8, 8))
    return net.graph(net.conv(net.conv("input", channels, 1, 1, "relu"), 4, 3, 1)).to_onnx()


@pytest.fixture(scope="module")
def tables(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tables with tuning records of `model`, whose making was killed after the first kernel."""
    root = tmp_path_factory.mktemp("tables")
    file = root / "model.onnx"
    file.write_bytes(model().SerializeToString())
    words = ["tune", "--model", str(file), "--trials", str(TRIALS), "--tables", str(root), "--json"]
    folder = root / KEY / "tuning"
    killed = subprocess.Popen([sys.executable, "-m", "hwnas", *words], cwd=root, start_new_session=True)
    try:
        for _ in range(1800):
            if (folder / "kernels.jsonl").exists():
                break
            assert killed.poll() is None, "tuning ended before it could be killed"
            time.sleep(0.1)
    finally:
        os.killpg(killed.pid, signal.SIGKILL)
        killed.wait()
    done = len((folder / "kernels.jsonl").read_text().splitlines())
    for name in ("kernels.jsonl", "database_workload.json", "database_tuning_record.json"):
        with open(folder / name, "a") as stream:
            stream.write('{"torn": [')
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 0, result.output
    summary = json.loads(result.stdout)
    assert summary["kernels"] == 2
    assert summary["there_already"] == done
    assert summary["tuned"] == 2 - done
    assert summary["trials"] <= TRIALS * (2 - done)
    assert not summary["missing"]
    assert not summary["failed"]
    return root


def test_tuned_code_is_measured_and_right(tables: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import onnxruntime

    monkeypatch.setenv("HWNAS_TABLES", str(tables))
    profiler = get_profiler(KEY)
    assert isinstance(profiler, CpuTvm)
    check_profiler(profiler, [model()])
    assert profiler.device_record().protocol["tuning_trials"] == TRIALS
    tvm, data = load_tvm(), model().SerializeToString()
    tuned, plain = profiler._compile(data, profiler.records), profiler._compile(data)
    assert "".join(tuned.mod.imports[0].inspect_source()) != "".join(plain.mod.imports[0].inspect_source())
    (given,) = inputs_of(data)
    found = tvm.relax.VirtualMachine(tuned, tvm.cpu())["main"](tvm.runtime.tensor(given)).numpy()
    expected = onnxruntime.InferenceSession(data).run(None, {model().graph.input[0].name: given})[0]
    assert np.abs(found - expected).max() < 1e-4


def test_tuning_again_does_nothing(tables: Path) -> None:
    seen: list[tuple[float, float, str]] = []
    again = hwnas.tune(
        KEY, model=tables / "model.onnx", tables=str(tables), progress=lambda *report: seen.append(report)
    )
    assert (again.there_already, again.tuned, again.trials, again.trials_per_kernel) == (2, 0, 0, TRIALS)
    assert seen


def test_untuned_kernels_are_refused(tables: Path) -> None:
    profiler = get_profiler(KEY, tables=str(tables))
    with pytest.raises(ModelError, match=r"2 of 2 kernels .* hwnas tune --device cpu-tvm.tuned --space SPACE"):
        profiler.measure(model(channels=12), QUICK)


def test_no_time_is_no_trial(tables: Path, tmp_path: Path) -> None:
    found = hwnas.tune("cpu-tvm", model=tables / "model.onnx", tables=str(tmp_path), budget_s=1e-3)
    assert (found.kernels, found.missing, found.trials) == (2, 2, 0)


def test_how_it_was_tuned_is_fixed_by_the_first_row(tmp_path: Path) -> None:
    table = tmp_path / KEY
    assert TuningRecords.create(table, 8).trials == 8
    assert TuningRecords.create(table).trials == 8
    assert TuningRecords.create(table, 4).trials == 4
    profiler = get_profiler(KEY, tables=str(tmp_path))
    LatencyTable.create(table, profiler.device_record())
    with pytest.raises(TableError, match="measured with 4 trials a kernel, and 8 would"):
        TuningRecords.create(table, 8)
    again = TuningRecords.load(table).writing()
    with TuningRecords.load(table).writing(), pytest.raises(TableError, match="another run is tuning"):
        again.__enter__()
    (table / "tuning" / "tuning.json").unlink()
    with pytest.raises(TableError, match="measured with records that are gone"):
        TuningRecords.create(table, 8)


def test_records_of_elsewhere_are_refused(tmp_path: Path) -> None:
    with pytest.raises(TableError, match=r"no tuning records in .* hwnas tune --device cpu-tvm.tuned"):
        get_profiler(KEY, tables=str(tmp_path)).measure(model(), QUICK)
    table = tmp_path / KEY
    TuningRecords.create(table, 8)
    file = table / "tuning" / "tuning.json"
    content = json.loads(file.read_text())
    assert content["target"] == str(local_target())
    file.write_text(json.dumps({**content, "tvm": "0.1"}))
    with pytest.raises(TableError, match=r"do not hold here \(tvm 0.1 against"):
        TuningRecords.load(table)
    file.write_text("{")
    with pytest.raises(TableError, match="damaged"):
        TuningRecords.load(table)
    file.write_text(json.dumps(content))
    (table / "tuning" / "kernels.jsonl").write_text("{}\n")
    with pytest.raises(TableError, match="line 1 is damaged"):
        TuningRecords.load(table)
    (table / "tuning" / "kernels.jsonl").unlink()
    (table / "tuning" / "database_tuning_record.json").write_text("[rubbish\n")
    with pytest.raises(TableError, match=r"the records in .* are damaged"):
        _ = TuningRecords.load(table).database


def test_a_machine_that_cannot_build_trials_is_no_kernel_that_cannot_be_tuned(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    net = NetworkBuilder((1, 4, 4, 4))
    file = tmp_path / "one.onnx"
    file.write_bytes(net.graph(net.conv("input", 4, 1, 1)).to_onnx().SerializeToString())

    def broken(_module: Any, _target: Any, _parameters: Any) -> Any:
        raise OSError("no room on the disk")

    monkeypatch.setattr(tvm_tuning, "_compile_trial", broken)
    with pytest.raises(ConfigError, match=r"no trial of the kernel .* no room"):
        hwnas.tune(model=file, trials=1, tables=str(tmp_path))
    monkeypatch.undo()
    found = hwnas.tune(model=file, trials=1, tables=str(tmp_path))
    assert (found.tuned, found.failed, found.trials) == (1, (), 1)


def test_mistakes(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="either a space or a model"):
        hwnas.tune("cpu-tvm")
    with pytest.raises(ConfigError, match="cpu-onnxruntime has nothing to tune"):
        hwnas.tune("cpu-onnxruntime", "mobilenet")
    with pytest.raises(ConfigError, match="at least 1 trial"):
        hwnas.tune("cpu-tvm", "mobilenet", trials=0)
    with pytest.raises(ModelError, match="cannot read"):
        hwnas.tune("cpu-tvm", model=tmp_path / "none.onnx", tables=str(tmp_path))
