"""Profiling a device for any network: what is measured, that nothing is lost, and what predictions come of it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import hwnas
from hwnas import kernel_division
from hwnas.cli import main
from hwnas.constraints import ConstraintSet
from hwnas.kernel_predictor import KernelPredictor
from hwnas.kernel_profiling import PREDICTOR_FILE, LearningPoint
from hwnas.latency_tables import LatencyTable
from hwnas.pricing import LatencyModel
from hwnas.profilers.base import Profiler
from hwnas.profilers.cpu_onnxruntime import CpuOnnxRuntime
from hwnas.profilers.division import divided_networks
from hwnas.spaces import ConfigError, ModelError, TableError, get_space
from hwnas.spaces.families import NetworkBuilder
from hwnas.spaces.placement import place_kernels

DEVICE = "cpu-onnxruntime"


@pytest.fixture(scope="module")
def tables(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("tables")
    first = hwnas.profile_kernels(DEVICE, networks=2, quick=True, tables=str(root))
    assert (first.measured, first.networks, first.missing) == (2, 2, 0)
    return root


def test_it_goes_on_where_it_was(tables: Path) -> None:
    table = LatencyTable.load(tables / DEVICE)
    before = divided_networks(table)
    assert all(network.latency_ms > 0 and len(network.kernel_ms) > 5 for network in before)
    points: list[LearningPoint] = []
    again = hwnas.profile_kernels(DEVICE, networks=3, quick=True, tables=str(tables), report=points.append)
    assert (again.measured, again.networks) == (1, 3)
    assert len(points) == 1
    assert "2 networks" in str(points[0])
    after = divided_networks(LatencyTable.load(tables / DEVICE))
    assert after[:2] == before
    assert len({network.name for network in after}) == 3
    assert hwnas.profile_kernels(DEVICE, networks=3, quick=True, tables=str(tables)).measured == 0


def test_any_network_has_a_price_then(tables: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    net = NetworkBuilder((1, 3, 64, 64))
    x = net.conv("input", 16, 3, 2, "relu")
    graph = net.classifier(net.inverted(net.basic(x, 16), 24, 64, 5, 2), 10)
    file = tmp_path / "network.onnx"
    file.write_bytes(graph.to_onnx().SerializeToString())
    found = hwnas.predict(file, DEVICE, tables=str(tables))
    assert found.interval_ms[0] < found.latency_ms < found.interval_ms[1]
    assert found.sources.keys() <= {"learned", "roofline"}
    assert sum(found.sources.values()) == pytest.approx(1.0)
    assert found.coverage == 0.0
    assert main(["predict", str(file), "--device", DEVICE, "--tables", str(tables), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["latency_ms"] == pytest.approx(found.latency_ms)


def test_a_space_that_was_never_profiled_is_priced_by_its_kernels(tables: Path) -> None:
    space = get_space("mobilenet(resolution=64,width=0.5)")
    table = LatencyTable.load(tables / DEVICE)
    model = LatencyModel.from_table(space, table)
    assert model.context == "learned"
    architectures = space.sample(30, np.random.default_rng(0))
    predictor, _ = KernelPredictor.load(tables / DEVICE / PREDICTOR_FILE)
    whole = [predictor.latency(place_kernels(space.lower(row))) for row in architectures.tolist()]
    assert model.predict(architectures) == pytest.approx(np.array(whole), rel=0.5)
    bound = float(np.median(whole))
    limits = ConstraintSet([f"latency@{DEVICE} <= {bound}ms"], space, str(tables))
    assert 0.1 < limits.feasible(architectures).mean() < 0.9
    with pytest.raises(TableError, match="have no latency"):
        LatencyModel.from_table(space, table, "isolated")


def test_entries_that_cannot_be_used_are_left_out(tables: Path, tmp_path: Path) -> None:
    record = (tables / DEVICE / "samples.jsonl").read_text().splitlines()
    (entry,) = [json.loads(line) for line in record if '"division"' in line][:1]
    folder = tmp_path / DEVICE
    folder.mkdir()
    for name in ("device.json", "latencies.csv", "networks.csv"):
        (folder / name).write_bytes((tables / DEVICE / name).read_bytes())
    broken = [
        {**entry, "kernels": []},
        {**entry, "kernels": [["conv", "", "", -1.0]]},
        {**entry, "kernels": [["conv", "", 3, 1.0]]},
        {**entry, "moved": [1, 2]},
        {**entry, "network": 7},
    ]
    lines = [json.dumps(item) for item in [*broken, {**entry, "network": "whole"}]]
    (folder / "samples.jsonl").write_text("".join(f"{line}\n" for line in lines))
    assert [network.name for network in divided_networks(LatencyTable.load(folder))] == ["whole"]


def test_active_sampling_measures_what_is_in_doubt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hwnas.kernel_profiling, "RANDOM", 4)
    monkeypatch.setattr(hwnas.kernel_profiling, "BATCH", 4)
    assert hwnas.profile_kernels(DEVICE, networks=6, active=True, quick=True, tables=str(tmp_path)).networks == 6
    known = divided_networks(LatencyTable.load(tmp_path / DEVICE))
    numbers = sorted(int(network.name.removeprefix("prior ")) for network in known)
    assert numbers[:5] == list(range(5))
    assert 12 <= numbers[5] < 20  # one of eight
    assert main(["profile", "--device", DEVICE, "--space", "mobilenet", "--active"]) == 2


class Uncounted(CpuOnnxRuntime):
    """A runtime without counters."""

    kernel_shares = Profiler.kernel_shares


def test_a_device_without_counters(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hwnas.kernel_profiling, "get_profiler", lambda *_, **__: Uncounted())
    monkeypatch.setattr(kernel_division, "ROUNDS", 1)
    assert hwnas.profile_kernels(DEVICE, networks=7, quick=True, tables=str(tmp_path)).networks == 7
    known = divided_networks(LatencyTable.load(tmp_path / DEVICE))
    assert not any(network.counted for network in known)
    predictor, _ = KernelPredictor.load(tmp_path / DEVICE / PREDICTOR_FILE)
    for network in known:
        assert len(set(network.kernel_ms)) == 1
        assert network.latency_ms / 5 < predictor.latency(network.placement) < 5 * network.latency_ms


def test_command(tables: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["profile", "--device", DEVICE, "--networks", "2", "--quick", "--tables", str(tables)]
    assert main(command) == 0
    assert "kernels of any network" in capsys.readouterr().out
    assert main([*command, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["measured"] == 0
    assert main([*command, "--context", "isolated"]) == 2
    assert "belong to a space" in capsys.readouterr().err


def test_mistakes(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="two networks or more"):
        hwnas.profile_kernels(DEVICE, networks=1, tables=str(tmp_path))
    with pytest.raises(ModelError, match="recorded only knows models written by hwnas"):
        hwnas.profile_kernels("recorded.cpu-onnxruntime", networks=2, tables=str(tmp_path))
    with pytest.raises(ConfigError, match="no device"):
        hwnas.profile_kernels("cpu-of-my-dreams", tables=str(tmp_path))


def test_the_predictor_is_no_pickle(tables: Path) -> None:
    content = json.loads((tables / DEVICE / PREDICTOR_FILE).read_text())
    assert content["notes"]["device"] == DEVICE
    assert np.isfinite(content["line"]).all()
