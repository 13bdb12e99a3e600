"""What a network costs: layers one after the other, weights brought while the layer before runs."""

from __future__ import annotations

from pathlib import Path

import pytest

from hwnas.profilers.vpunn import PLATFORMS, LayerCosts, get_platform, network_cost, read_network
from hwnas.profilers.vpunn.platforms import Platform
from hwnas.spaces import ConfigError, Graph, GraphBuilder
from hwnas.spaces.kernel import Kernel, Opaque
from hwnas.spaces.kernels import Activation, Add, Conv, DepthwiseConv, GlobalPool, Linear
from hwnas.spaces.layout_kernels import ChannelShuffle, Concat
from tests.paths import shared_data
from tests.profilers.vpunn.models import random_layers, write_network


@pytest.fixture
def costs(tmp_path: Path) -> LayerCosts:
    file = write_network(tmp_path / "x.vpunn", random_layers(93, 8, 1), "VPUNN-4111-02")
    return LayerCosts(read_network(file), get_platform("npu4000"))


def chain(*kernels: Kernel, channels: int = 32, size: int = 14) -> Graph:
    builder = GraphBuilder((1, channels, size, size))
    at = "input"
    for index, kernel in enumerate(kernels):
        at = builder.add(f"n{index}", kernel, at)
    return builder.graph(at)


def test_layers_add_up_and_wait_for_their_weights(costs: LayerCosts) -> None:
    platform = costs.platform
    found = network_cost(chain(DepthwiseConv(k=3), Conv(o=512, k=1), Activation("hswish")), costs)
    assert [(row.name, row.kind, row.unit) for row in found.layers] == [
        ("n0", "dwconv", "dpu"),
        ("n1", "conv", "dpu"),
        ("n2", "act", "shave"),
    ]
    first, second, third = found.layers
    # the first layer has nothing to hide its weights behind
    assert first.dma_us == pytest.approx(0.956 + 32 * (16 * 2 + 16) / 45_000)
    assert first.wait_us == pytest.approx(first.dma_us / 2)
    assert second.dma_us == pytest.approx(0.956 + 512 * (32 * 2 + 16) / 45_000)
    assert second.wait_us == pytest.approx(max(0.0, second.dma_us / 2 - first.us))
    assert (third.dma_us, third.wait_us) == (0.0, 0.0)
    assert third.us == pytest.approx(2 * 512 * 14 * 14 * 1.169e-4 / 12 + 3.042)
    for layer in found.layers:
        assert layer.cycles == pytest.approx(layer.us * platform.dpu_mhz)
    assert found.input_us == pytest.approx(0.956 + 4 * 32 * 14 * 14 / 45_000)
    busy = sum(layer.us for layer in found.layers)
    assert found.total_us == pytest.approx(found.input_us + found.output_us + first.wait_us + second.wait_us + busy)
    assert found.modelled_share == pytest.approx((first.us + second.us) / busy)


def test_what_takes_no_time_hides_nothing_and_stands_in_no_ones_way(costs: LayerCosts) -> None:
    builder = GraphBuilder((1, 32, 14, 14))
    one = builder.add("one", Conv(o=32, k=3), "input")
    both = builder.add("both", Concat(), one, one)
    graph = builder.graph(builder.add("two", Conv(o=512, k=3), both))
    first, joined, second = network_cost(graph, costs).layers
    assert (joined.unit, joined.us, joined.wait_us) == ("none", 0.0, 0.0)
    assert second.wait_us == pytest.approx(max(0.0, second.dma_us / 2 - first.us)) != 0


def test_moves_and_guesses_say_so(costs: LayerCosts) -> None:
    found = network_cost(chain(ChannelShuffle(2)), costs)
    assert (found.layers[0].unit, found.layers[0].known, found.modelled_share) == ("dma", True, 0.0)
    guess = network_cost(chain(Opaque("Einsum", (1, 32, 14, 14), 0, 32 * 14 * 14 * 64)), costs)
    assert (guess.layers[0].unit, guess.layers[0].known, guess.modelled_share) == ("dpu", False, 0.0)


def test_int8_moves_half_the_bytes(costs: LayerCosts) -> None:
    graph = chain(Conv(o=512, k=1))
    (half,), (byte,) = network_cost(graph, costs).layers, network_cost(graph, costs, "UINT8").layers
    assert half.dma_us - byte.dma_us == pytest.approx(512 * 32 / 45_000)


def test_platforms_are_checked() -> None:
    with pytest.raises(ConfigError, match="has no platform 'npu9'; it has npu3700, npu3720"):
        get_platform("npu9")
    with pytest.raises(ConfigError, match="the tiles of x must be more than 0, not 0"):
        Platform("x", "X", (), (), 0, 1, 1, 1.0, 1.0, 1.0, 0.0, 1)


def mobilenet_v2() -> Graph:
    builder = GraphBuilder((1, 3, 224, 224))
    at, channels = builder.add("first", Conv(o=32, k=3, s=2, act="relu6"), "input"), 32
    rows = [(1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1)]
    for row, (expand, outputs, count, stride) in enumerate(rows):
        for block in range(count):
            name, step, before = f"{row}.{block}", stride if block == 0 else 1, at
            if expand > 1:
                at = builder.add(f"{name}.expand", Conv(o=channels * expand, k=1, act="relu6"), at)
            at = builder.add(f"{name}.depthwise", DepthwiseConv(k=3, s=step, act="relu6"), at)
            at = builder.add(f"{name}.project", Conv(o=outputs, k=1), at)
            if block:
                at = builder.add(f"{name}.add", Add(), before, at)
            channels = outputs
    at = builder.add("last", Conv(o=1280, k=1, act="relu6"), at)
    return builder.graph(builder.add("logits", Linear(o=1000), builder.add("mean", GlobalPool(), at)))


@pytest.mark.parametrize(("type_", "estimate_us"), [("FLOAT16", 598.1), ("UINT8", 309.0)])
def test_mobilenet_v2_on_meteor_lake_takes_what_intels_compiler_estimates(type_: str, estimate_us: float) -> None:
    platform = PLATFORMS["npu3720"]
    costs = LayerCosts(read_network(shared_data() / "vpunn" / platform.files[0]), platform)
    found = network_cost(mobilenet_v2(), costs, type_)
    # the makespan of the schedule of OpenVINO 2026.4.1; the same chip by two estimates of Intel's
    assert found.total_us == pytest.approx(estimate_us, rel=0.05)
    assert found.modelled_share > 0.99
