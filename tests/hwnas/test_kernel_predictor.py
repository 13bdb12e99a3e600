"""Learned prices of kernels: on a made device whose true cost is known."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from hwnas import kernel_division
from hwnas.kernel_division import divide_by_model
from hwnas.kernel_features import Vocabulary, kernel_facts
from hwnas.kernel_predictor import KernelPredictor
from hwnas.profilers.division import DividedNetwork
from hwnas.spaces import TableError
from hwnas.spaces.graph import Graph
from hwnas.spaces.placement import PlacedKernel, Placement, place_kernels
from hwnas.spaces.prior import prior_network
from hwnas.spaces.signature import kernel_graph


def made_ms(kernel: PlacedKernel, network: Placement) -> float:
    """Additions after a convolution are free, depthwise and odd convolutions slow, large networks have cold caches."""
    if kernel.signature.startswith("add") and "conv" in kernel.after:
        return 0.0
    graph = kernel_graph(kernel.signature)
    speed = 1e6 if kernel.signature.startswith("dwconv") else 1e7
    if "conv" in kernel.signature:
        channels = graph.shapes[graph.outputs[0]][1]
        speed *= (1.0 if channels % 16 == 0 else 0.3) * channels / (channels + 64)
    cold = 1.5 if network.weights > 8e6 else 1.0
    return 0.002 + graph.macs / speed + (graph.bytes - graph.size) / 1e7 + cold * graph.size / 2e7


def divide(name: str, graph: Graph, seed: int = 0) -> DividedNetwork:
    placed = place_kernels(graph)
    noise = np.random.default_rng(seed).normal(1, 0.02, len(placed.kernels))
    times = [made_ms(kernel, placed) for kernel in placed.kernels]
    return DividedNetwork(name, placed, tuple((noise * times).tolist()), True)


@pytest.fixture(scope="module")
def networks() -> list[DividedNetwork]:
    return [divide(f"prior {n}", prior_network(np.random.default_rng([1, n])), n) for n in range(70)]


@pytest.fixture(scope="module")
def predictor(networks: list[DividedNetwork]) -> KernelPredictor:
    return KernelPredictor.fit(networks[:40])


def test_networks_that_it_has_not_seen(networks: list[DividedNetwork], predictor: KernelPredictor) -> None:
    held = networks[40:]
    ratios = np.array([predictor.latency(n.placement) / n.latency_ms for n in held])
    assert np.mean(np.abs(ratios - 1)) < 0.1
    low, high = predictor.interval(0.9)
    assert low < 1 < high
    inside = [
        predictor.latency(n.placement) * low <= n.latency_ms <= predictor.latency(n.placement) * high for n in held
    ]
    assert np.mean(inside) > 0.7
    wider = predictor.interval(0.98)
    assert wider[0] <= low
    assert wider[1] >= high


def test_neighbours_decide_whether_an_addition_is_free(predictor: KernelPredictor) -> None:
    add = "add@1x64x28x28+1x64x28x28:float32"
    conv = PlacedKernel("conv(o=64,k=1)@1x64x28x28:float32", "conv", "add")
    apart = PlacedKernel("conv(o=64,k=1,act=relu)@1x64x28x28:float32", "conv", "")

    def price(*kernels: PlacedKernel) -> float:
        return float(predictor.kernel_ms(Placement(kernels, 16_384, 2_000_000, 602_112))[-1])

    fused, alone = price(conv, PlacedKernel(add, "conv", "")), price(apart, PlacedKernel(add, "", "conv"))
    assert fused < 0.5 * alone


def test_kernels_of_unknown_families_are_bounded_by_the_roofline(predictor: KernelPredictor) -> None:
    strange = PlacedKernel("resize(o=56x56)@1x64x28x28:float32")
    opaque = PlacedKernel("opaque(type=Mystery)@1x64:float32")
    network = Placement((strange, opaque), 0, 1, 1)
    assert np.isnan(predictor.kernel_ms(network)).all()
    assert (predictor.roofline_ms(network) > 0).all()
    assert predictor.latency(network) == pytest.approx(predictor.roofline_ms(network).sum())
    assert predictor.doubt(network) == pytest.approx(1.0)


def test_another_device_helps_where_little_is_measured(
    networks: list[DividedNetwork], predictor: KernelPredictor, tmp_path: Path
) -> None:
    """The new device takes twice as long for all kernels, and three times for depthwise ones."""

    def twice(network: DividedNetwork) -> DividedNetwork:
        kernels = zip(network.placement.kernels, network.kernel_ms, strict=True)
        slower = tuple(ms * (3 if kernel.signature.startswith("dwconv") else 2) for kernel, ms in kernels)
        return DividedNetwork(network.name, network.placement, slower, True)

    known, held = [twice(n) for n in networks[50:56]], [twice(n) for n in networks[56:]]

    def error(fitted: KernelPredictor) -> float:
        return float(np.mean([abs(fitted.latency(n.placement) / n.latency_ms - 1) for n in held]))

    alone = KernelPredictor.fit(known, calibrate=False)
    helped = KernelPredictor.fit(known, source=predictor, calibrate=False)
    assert error(helped) < 0.6 * error(alone)
    helped.save(tmp_path / "new.json")
    again, _ = KernelPredictor.load(tmp_path / "new.json")
    assert again.latency(held[0].placement) == helped.latency(held[0].placement)


def test_a_device_that_counts_no_kernels(networks: list[DividedNetwork], monkeypatch: pytest.MonkeyPatch) -> None:
    """Whole latencies alone tell that depthwise kernels are slow, which the roofline of the first division cannot."""

    def cost(kernel: PlacedKernel) -> float:
        graph = kernel_graph(kernel.signature)
        speed = 5e5 if kernel.signature.startswith("dwconv") else 1e7
        return 0.002 + graph.macs / speed + graph.bytes / 4e7

    def whole(network: DividedNetwork) -> DividedNetwork:
        count = len(network.kernel_ms)
        equal = (sum(map(cost, network.placement.kernels)) / count,) * count
        return replace(network, kernel_ms=equal, counted=False)

    known, held = [whole(n) for n in networks[:50]], [whole(n) for n in networks[50:]]
    errors = []
    for rounds in (0, 3):
        monkeypatch.setattr(kernel_division, "ROUNDS", rounds)
        fitted = KernelPredictor.fit(known, calibrate=False)
        errors.append(np.mean([abs(fitted.latency(n.placement) / n.latency_ms - 1) for n in held]))

    assert errors[1] < 0.85 * errors[0] < 0.8
    monkeypatch.setattr(kernel_division, "ROUNDS", 1)
    # where some networks were counted, those stay as they are
    mixed = divide_by_model([networks[0], *known[1:8]], lambda n: np.ones((len(n.kernels), 3)), KernelPredictor.fit)
    assert mixed[0] is networks[0]
    assert all(
        sum(a.kernel_ms) == pytest.approx(b.latency_ms) and len(set(a.kernel_ms)) > 1
        for a, b in zip(mixed[1:], known[1:8], strict=True)
    )


def test_files_hold_the_same_predictor(
    networks: list[DividedNetwork], predictor: KernelPredictor, tmp_path: Path
) -> None:
    file = tmp_path / "kernels.json"
    predictor.save(file, networks=40)
    again, notes = KernelPredictor.load(file)
    assert notes == {"networks": 40}
    for network in networks[:5]:
        np.testing.assert_array_equal(again.kernel_ms(network.placement), predictor.kernel_ms(network.placement))
    assert again.interval(0.9) == predictor.interval(0.9)


def test_damaged_files(predictor: KernelPredictor, tmp_path: Path) -> None:
    file = tmp_path / "kernels.json"
    predictor.save(file)
    content = json.loads(file.read_text())
    damaged = {
        "format": {**content, "format": "another"},
        "line": {**content, "line": ["fast"]},
        "ratios": {**content, "ratios": [float("nan")]},
        "families": {**content, "families": {"conv": {"line": [1, 2, 3], "flags": [], "boosters": ["{}"]}}},
    }
    for text in (*map(json.dumps, damaged.values()), "no JSON", "[]"):
        file.write_text(text)
        with pytest.raises(TableError, match=r"kernels\.json"):
            KernelPredictor.load(file)
    with pytest.raises(TableError, match="cannot read"):
        KernelPredictor.load(tmp_path / "missing.json")


def test_too_little_to_learn_from(networks: list[DividedNetwork]) -> None:
    with pytest.raises(TableError, match="two networks or more, not 1"):
        KernelPredictor.fit(networks[:1])
    fitted = KernelPredictor.fit(networks[:2], calibrate=False)
    assert fitted.latency(networks[2].placement) > 0
    with pytest.raises(TableError, match="without calibration"):
        fitted.interval(0.9)


def test_features_tell_settings_and_neighbours_apart() -> None:
    first = PlacedKernel("conv(o=8,k=3,act=relu)@1x4x8x8:float32", "conv", "add")
    second = PlacedKernel("conv(o=8,k=3,act=swish)@1x4x8x8:float32", "", "add")
    vocabulary = Vocabulary.of([first, second])
    assert vocabulary.names == ("act=relu", "act=swish", "after=conv", "before=add")
    rows = vocabulary.rows([(first, Placement((first,), 1, 2, 3)), (second, Placement((second,), 1, 2, 3))])
    assert rows[:, -4:].tolist() == [[1, 0, 1, 1], [0, 1, 0, 1]]
    assert kernel_facts(first.signature).family == "conv"
    assert kernel_facts("conv(o=8,k=1)@1x4x8x8:float32").family == "conv 1x1"
    assert kernel_facts("conv(o=8,g=2)@1x4x8x8:float32").family == "conv grouped"
