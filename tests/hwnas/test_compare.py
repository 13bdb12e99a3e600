"""Devices compared on the same architectures."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest

from hwnas.cli import main
from hwnas.compare import MACS, compare_devices, distinct_architectures, kendall_matrix
from hwnas.costs import AdditiveCost, Part
from hwnas.latency_tables import find_table
from hwnas.network_prices import price_model
from hwnas.spaces import ConfigError, TableError, get_space


@pytest.fixture(autouse=True)
def shipped_tables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tables that ship with hwnas, and no others."""
    monkeypatch.setenv("HWNAS_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("HWNAS_TABLES", raising=False)


def test_devices_on_the_space_that_their_tables_share() -> None:
    found = compare_devices(["cpu-onnxruntime", "vpu-npu4000"], architectures=50)
    assert found.space == find_table("cpu-onnxruntime").networks[0].space
    assert found.latency_ms.shape == (50, 2)
    space = get_space(found.space)
    for column, device in enumerate(found.devices):
        model = price_model(space, find_table(device.key))
        assert found.latency_ms[:, column] == pytest.approx(model.predict(found.architectures))
        assert device.method == find_table(device.key).device.method
    assert found.devices[0].speed == 1.0
    ratio = np.median(found.latency_ms[:, 0] / found.latency_ms[:, 1])
    assert found.devices[1].speed == pytest.approx(ratio)
    assert found.names == ["cpu-onnxruntime", "vpu-npu4000", MACS]
    assert found.tau == pytest.approx(found.tau.T)
    assert [each.disagreement for each in found.operators] == sorted(
        (e.disagreement for e in found.operators), reverse=True
    )


def test_effects_are_what_random_networks_show() -> None:
    found = compare_devices(["cpu-onnxruntime", "cpu-openvino"], "shufflenet", architectures=10)
    space = get_space("shufflenet")
    rows = space.sample(20_000, np.random.default_rng(1))
    ms = price_model(space, find_table("cpu-onnxruntime")).predict(rows)
    effects = {each.choice: each.percent[0] for each in found.operators}
    for choice, label in enumerate(space.decisions[0].choices):
        seen = [ms[rows[:, layer] == choice].mean() - ms.mean() for layer in range(len(space.decisions))]
        assert effects[label] == pytest.approx(100 * np.mean(seen) / ms.mean(), abs=0.25)


def test_marginals_average_over_what_else_a_part_depends_on() -> None:
    cost = AdditiveCost(
        np.array([2, 3, 2]), [Part((0, 1), np.arange(6.0)), Part((1,), np.array([1.0, 2.0, math.nan]))], 9.0
    )
    first, second, third = cost.marginals()
    assert first.tolist() == [1.0, 4.0]
    assert second[:2].tolist() == [2.5, 4.5]
    assert math.isnan(second[2])
    assert third.tolist() == [0.0, 0.0]


def test_what_computes_the_same_counts_once() -> None:
    space = get_space("nasbench201")
    rows = distinct_architectures(space, 0, 5000)
    parts = np.where(space.live(rows), rows, -1)
    assert len(np.unique(parts, axis=0)) == len(rows)
    assert space.live(rows).any(axis=1).all()


def test_tau_of_columns() -> None:
    tau = kendall_matrix(np.array([[1.0, 1.0, 3.0], [2.0, 2.0, 2.0], [3.0, 4.0, 1.0]]))
    assert tau == pytest.approx(np.array([[1, 1, -1], [1, 1, -1], [-1, -1, 1]]))


@pytest.mark.parametrize(
    ("devices", "space", "message"),
    [
        (["cpu-onnxruntime"], None, "needs two devices, not cpu-onnxruntime"),
        (["cpu-onnxruntime", "cpu-tvm"], None, "no space in common .*name one with --space"),
    ],
)
def test_what_cannot_be_compared(devices: list[str], space: str | None, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        compare_devices(devices, space)


def test_a_device_without_a_table_or_without_the_space() -> None:
    with pytest.raises(TableError, match="no latency table for 'cpu-nothing'"):
        compare_devices(["cpu-onnxruntime", "cpu-nothing"])
    with pytest.raises(TableError, match="have no latency for cpu-onnxruntime"):
        compare_devices(["cpu-onnxruntime", "vpu-npu4000"], "mobilenet(resolution=96)")


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["compare", "cpu-onnxruntime", "dsp-hexagon-sim", "--architectures", "20"]
    assert main(words) == 0
    text = capsys.readouterr().out
    assert "simulated" in text
    assert "Kendall's tau" in text
    assert main([*words, "--json", "--html", str(tmp_path / "page.html")]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["kendall_tau"]["cpu-onnxruntime"][MACS] == found["kendall_tau"][MACS]["cpu-onnxruntime"]
    assert "devices compared" in (tmp_path / "page.html").read_text()
