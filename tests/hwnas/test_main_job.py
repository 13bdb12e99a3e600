"""The main job on real input: profile, search, export, predict; killed, resumed, and asked for the impossible."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch

import hwnas
from hwnas.export import metadata_of, onnx_accuracy
from hwnas.latency_tables import LatencyTable
from hwnas.plan import SearchSettings
from hwnas.profilers import profilers
from hwnas.profilers.cpu_onnxruntime import CpuOnnxRuntime
from hwnas.report import describe_cost
from hwnas.spaces import ConfigError, InfeasibleError, ModelError, TableError

DEVICE = "cpu-onnxruntime"
SPACE = "mobilenet(width=0.15,depth=0.25)"
FAST: dict[str, Any] = {"supernet_epochs": 1, "epochs": 2, "evaluations": 12, "limit": 300, "threads": 1}


@pytest.fixture(scope="module")
def tables(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    threads = torch.get_num_threads()
    root = tmp_path_factory.mktemp("tables")
    summary = hwnas.profile(DEVICE, SPACE, data="digits", quick=True, context="both", networks=12, tables=str(root))
    assert (summary.missing, summary.networks) == (0, 12)
    assert summary.measured == 2 * len(hwnas.get_space(summary.space).catalog)
    again = hwnas.profile(DEVICE, SPACE, data="digits", quick=True, context="both", networks=12, tables=str(root))
    assert (again.measured, again.skipped, again.networks) == (0, summary.measured, 0)
    yield str(root)
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def budget(tables: str) -> float:
    table = LatencyTable.load(Path(tables) / DEVICE)
    # far above every network: other tests run beside it, and what a busy machine measures decides no test
    return 5.0 * max(row.median_ms for row in table.networks)


@pytest.fixture(scope="module")
def finished(tables: str, budget: float, tmp_path_factory: pytest.TempPathFactory) -> hwnas.Run:
    folder = tmp_path_factory.mktemp("runs") / "first"
    text = f"latency@{DEVICE} <= {budget:.6f}ms"
    result = hwnas.search(SPACE, "digits", [text, "params <= 1M"], run=folder, tables=tables, distill=True, **FAST)
    assert result.trials == 12
    assert [text.split()[0] for text in result.costs] == [f"latency@{DEVICE}", "params"]
    return hwnas.Run.open(folder, write=False)


def test_the_result_was_measured_and_fits(finished: hwnas.Run, budget: float) -> None:
    best = finished.best
    assert best is not None
    latency = next(cost for text, cost in best["costs"].items() if text.startswith("latency"))
    assert latency["method"] == "measured"
    assert 0 < latency["measured"] <= latency["bound"] == pytest.approx(budget, rel=1e-4)
    params = next(cost for text, cost in best["costs"].items() if text.startswith("params"))
    space = hwnas.get_space(best["space"])
    assert params["measured"] == space.lower(best["architecture"]).params
    trials = finished.trials()
    assert best["score"] == max(trial.score for trial in trials)


def test_the_file_says_what_it_is_and_is_as_accurate_as_said(finished: hwnas.Run) -> None:
    from hwnas.data import load_data

    model = onnx.load(finished.onnx)
    onnx.checker.check_model(model, full_check=True)
    notes, best = metadata_of(model), finished.best
    assert best is not None
    assert notes["architecture"] == best["architecture"]
    assert (notes["device"], notes["method"], notes["version"]) == (DEVICE, "measured", hwnas.__version__)
    assert notes["measured_ms"] == next(iter(best["costs"].values()))["measured"]
    assert notes["predicted_interval_ms"][0] < notes["predicted_ms"] < notes["predicted_interval_ms"][1]
    assert onnx_accuracy(finished.onnx, load_data("digits")) == pytest.approx(best["accuracy"])
    assert best["onnx_accuracy"] == pytest.approx(best["torch_accuracy"], abs=0.01)


def test_resuming_a_finished_run_returns_its_result(finished: hwnas.Run) -> None:
    result = hwnas.resume(finished.path)
    assert result.onnx == finished.onnx
    assert finished.best is not None
    assert list(result.architecture) == finished.best["architecture"]


def test_a_kill_just_before_the_answer_is_written_loses_nothing(finished: hwnas.Run, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(finished.path, copy)
    (copy / "best.json").unlink()
    (copy / "best.onnx").unlink()
    before = (copy / "finalists.jsonl").read_bytes()
    hwnas.resume(copy)
    assert (copy / "finalists.jsonl").read_bytes() == before
    assert (copy / "best.onnx").read_bytes() == finished.onnx.read_bytes()
    assert hwnas.Run.open(copy, write=False).best == finished.best


def test_export_again_in_int8(finished: hwnas.Run, tables: str) -> None:
    result = hwnas.export(finished.path, precision="int8")
    assert Path(result.onnx).name == "best.int8.onnx"
    assert set(result.latency_ms) == {f"{DEVICE}.int8"}
    assert result.method == "measured"
    assert any(node.op_type == "QuantizeLinear" for node in onnx.load(result.onnx).graph.node)
    # the same network in another number format: as many products, and still known for what it is
    assert hwnas.Graph.from_onnx(result.onnx).macs == hwnas.Graph.from_onnx(finished.onnx).macs
    assert hwnas.predict(result.onnx, DEVICE, tables=tables).coverage == pytest.approx(1.0)
    plain = hwnas.export(finished.path, output=finished.path / "copy.onnx", measure=False)
    assert plain.latency_ms == {}
    assert plain.accuracy == result.float32_accuracy
    with pytest.raises(ConfigError, match="int4"):
        hwnas.export(finished.path, precision="int4")


def test_predict_by_blocks_and_by_kernels(finished: hwnas.Run, tables: str) -> None:
    by_blocks = hwnas.predict(finished.onnx, DEVICE, tables=tables)
    assert by_blocks.coverage == pytest.approx(1.0)
    assert by_blocks.method == "measured"
    assert by_blocks.interval_ms[0] <= by_blocks.latency_ms <= by_blocks.interval_ms[1]
    model = onnx.load(finished.onnx)
    del model.metadata_props[:]
    by_kernels = hwnas.predict(model, DEVICE, tables=tables)
    assert sum(by_kernels.sources.values()) == pytest.approx(1.0)
    assert by_kernels.sources["table"] > 0.5
    # timed at another moment and in other models: the same size, no more is asked of a busy machine
    assert by_blocks.latency_ms / 5 < by_kernels.latency_ms < 5 * by_blocks.latency_ms
    stranger = hwnas.get_space("shufflenet", resolution=32, channels=3, classes=10, width=0.5)
    other = hwnas.predict(stranger.lower([0, 1, 2, 3] * 5).to_onnx(), DEVICE, tables=tables)
    assert other.coverage < 0.5
    assert "learned" in other.sources
    assert other.interval_ms[1] - other.interval_ms[0] > by_kernels.interval_ms[1] - by_kernels.interval_ms[0]


def test_a_note_that_is_not_true_is_not_believed(finished: hwnas.Run, tables: str) -> None:
    model = onnx.load(finished.onnx)
    for entry in model.metadata_props:
        if entry.key == "hwnas.architecture":
            entry.value = json.dumps([5] * len(json.loads(entry.value)))
    table = LatencyTable.load(Path(tables) / DEVICE)
    plain = onnx.load(finished.onnx)
    del plain.metadata_props[:]
    assert hwnas.predict(model, DEVICE, tables=tables) == hwnas.predict(plain, DEVICE, tables=tables)
    assert table.networks


def test_from_scratch_with_another_strategy(tables: str, budget: float, tmp_path: Path) -> None:
    result = hwnas.search(
        SPACE,
        "digits",
        f"latency@{DEVICE} <= {budget:.6f}ms",
        strategy="random",
        evaluator="scratch",
        evaluations=2,
        epochs=1,
        limit=200,
        threads=1,
        run=tmp_path / "run",
        tables=tables,
    )
    assert result.trials == 2
    assert result.onnx.exists()


def test_a_recorded_device_is_never_called_measured(tables: str, budget: float, tmp_path: Path) -> None:
    text = f"latency@recorded.{DEVICE} <= {budget:.6f}ms"
    result = hwnas.search(SPACE, "digits", text, run=tmp_path / "run", tables=tables, **FAST)
    (cost,) = result.costs.values()
    assert cost["measured"] is None
    assert cost["method"].startswith("predicted")
    assert cost["predicted"] <= budget


class Simulated(CpuOnnxRuntime):
    """Stands for a simulator: the same numbers, by another method."""

    name = "dsp-test"
    method = "simulated"


def test_what_a_simulator_gives_is_never_called_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(profilers.builtin, "dsp-test", f"{__name__}:Simulated")
    monkeypatch.setitem(sys.modules, __name__, sys.modules[Simulated.__module__])
    tables = str(tmp_path / "tables")
    hwnas.profile("dsp-test", SPACE, data="digits", quick=True, context="isolated", networks=3, tables=tables)
    rows = LatencyTable.load(Path(tables) / "dsp-test").rows.values()
    assert {row.method for row in rows} == {"simulated"}
    result = hwnas.search(SPACE, "digits", "latency@dsp-test <= 50ms", run=tmp_path / "run", tables=tables, **FAST)
    (cost,) = result.costs.values()
    assert (cost["method"], cost["measured"]) == ("simulated", None)
    assert 0 < cost["checked"] <= 50
    notes = metadata_of(onnx.load(result.onnx))
    assert notes["simulated_ms"] == cost["checked"]
    assert notes["method"] == "simulated"
    assert "measured_ms" not in notes
    assert "simulated" in describe_cost(*next(iter(result.costs.items())))
    assert "measured" not in describe_cost(*next(iter(result.costs.items())))
    exported = hwnas.export(tmp_path / "run")
    assert exported.method == "simulated"
    assert "measured_ms" not in metadata_of(onnx.load(exported.onnx))


def test_a_kill_in_the_middle_of_a_search_loses_nothing(tables: str, budget: float, tmp_path: Path) -> None:
    run = tmp_path / "run"
    command = [sys.executable, "-m", "hwnas", "search", "--space", SPACE, "--data", "digits", "--run", str(run)]
    command += ["--constraint", f"latency@{DEVICE} <= {budget:.6f}ms", "--tables", tables, "--supernet-epochs", "1"]
    command += ["--epochs", "2", "--evaluations", "60", "--limit", "300", "--threads", "1"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    trials, deadline = run / "trials.jsonl", time.monotonic() + 120
    while time.monotonic() < deadline and process.poll() is None:
        if trials.exists() and trials.read_bytes().count(b"\n") >= 10:
            break
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    kept = trials.read_bytes().split(b"\n")[:-1]
    assert 10 <= len(kept) < 60
    result = hwnas.resume(run)
    lines = trials.read_bytes().split(b"\n")[:-1]
    assert lines[: len(kept)] == kept
    assert (result.trials, len(lines)) == (60, 60)
    assert result.onnx.exists()


def test_a_search_in_two_stages_goes_on_in_either(tables: str, budget: float, tmp_path: Path) -> None:
    text = f"latency@recorded.{DEVICE} <= {budget:.6f}ms"
    two_stages: dict[str, Any] = {**FAST, "supernet_epochs": 2, "strategy": "hurricane", "tables": tables}
    options = {"population": 6}
    whole = hwnas.search(SPACE, "digits", text, run=tmp_path / "whole", options=options, **two_stages)
    trials = [trial.info.get("stage", 0) for trial in hwnas.Run.open(whole.run, write=False).trials()]
    assert trials == sorted(trials)
    assert set(trials) == {0, 1}
    for number, moment in enumerate(("search, stage 1", "supernet, stage 2", "search, stage 2")):

        def stop(done: float, total: float, words: str, moment: str = moment) -> None:
            if words.startswith(moment) and done >= 0.5 * total - 3:
                raise KeyboardInterrupt

        run = tmp_path / f"stopped{number}"
        with pytest.raises(KeyboardInterrupt):
            hwnas.search(SPACE, "digits", text, run=run, options=options, progress=stop, **two_stages)
        kept = (run / "trials.jsonl").read_text().splitlines() if (run / "trials.jsonl").exists() else []
        result = hwnas.resume(run)
        lines = (run / "trials.jsonl").read_text().splitlines()
        assert lines[: len(kept)] == kept
        assert result.trials == len(lines) == whole.trials == 12
        stages = [json.loads(line)["info"].get("stage", 0) for line in lines]
        assert stages == sorted(stages)
        assert list(result.architecture) in [json.loads(line)["architecture"] for line in lines[stages.index(1) :]]


@pytest.mark.parametrize("option", ["population", "=3", "luck=3", "population=some"])
def test_a_bad_option_of_the_strategy_is_refused(option: str, tables: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"option|setting|no int"):
        hwnas.search(SPACE, "digits", "params <= 1M", run=tmp_path / "run", options=[option], tables=tables, **FAST)
    assert not (tmp_path / "run").exists()


def test_mistakes_show_before_anything_is_written(tables: str, tmp_path: Path) -> None:
    run = tmp_path / "run"
    space = hwnas.get_space(SPACE, resolution=8, channels=1, classes=10)
    cases: list[tuple[type[Exception], dict[str, Any]]] = [
        (ConfigError, {"space": "mobilnet"}),
        (ConfigError, {"data": "digit"}),
        (ConfigError, {"constraints": ["latency@cpu-onnxruntime <= 1 parsec"]}),
        (ConfigError, {"constraints": []}),
        (ConfigError, {"constraints": ["latency@cpu-onnxruntim <= 1ms"]}),
        (InfeasibleError, {"constraints": ["latency@cpu-onnxruntime <= 0.000001ms"]}),
        (TableError, {"space": "shufflenet"}),
        (ConfigError, {"strategy": "evolve"}),
        (ConfigError, {"evaluator": "oracle"}),
        (ConfigError, {"finalists": 0}),
        (ConfigError, {"space": space.spec.replace("classes=10", "classes=3")}),
    ]
    for error, change in cases:
        arguments: dict[str, Any] = {"space": SPACE, "data": "digits", "constraints": [f"latency@{DEVICE} <= 9ms"]}
        with pytest.raises(error):
            hwnas.search(**{**arguments, **change}, run=run, tables=tables)
        assert not run.exists()


def test_settings_of_another_version_are_refused() -> None:
    with pytest.raises(ConfigError, match="colour"):
        SearchSettings.from_run({"space": "a", "data": "b", "constraints": [], "colour": "red"})
    with pytest.raises(ConfigError, match="lacks"):
        SearchSettings.from_run({"space": "a"})


def test_predict_refuses_what_is_no_model(tables: str, tmp_path: Path) -> None:
    with pytest.raises(ModelError):
        hwnas.predict(tmp_path / "absent.onnx", DEVICE, tables=tables)
    with pytest.raises(ConfigError, match="level"):
        hwnas.predict(tmp_path / "absent.onnx", DEVICE, tables=tables, level=90)
