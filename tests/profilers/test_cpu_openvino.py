"""``cpu-openvino`` on real models."""

from __future__ import annotations

import numpy as np
import pytest

from hwnas.profilers import get_profiler, list_profilers
from hwnas.profilers.reference import anchor_model
from hwnas.profilers.testing import QUICK, check_profiler
from hwnas.quantize import quantize_for_timing
from hwnas.spaces import ConfigError, ModelError, get_space
from hwnas.spaces.families import NetworkBuilder
from hwnas.spaces.graph import Graph

pytest.importorskip("openvino")


@pytest.fixture(scope="module")
def network() -> Graph:
    net = NetworkBuilder((1, 3, 48, 48))
    x = net.conv("input", 16, 3, 2, "relu")
    x = net.inverted(net.bottleneck(x, 32, 16), 32, 96, 5, 2, "hswish", 8, "hsigmoid")
    return net.classifier(net.convnext(net.shuffle(x, 32)), 10)


@pytest.mark.parametrize("key", ["cpu-openvino", "cpu-openvino.bf16", "cpu-openvino.b4"])
def test_it_keeps_the_rules_of_profilers(key: str) -> None:
    block = get_space("mobilenet(resolution=16,width=0.25)").catalog[2].to_onnx()
    profiler = get_profiler(key)
    assert profiler.key == key
    check_profiler(profiler, [anchor_model(), block])


def test_int8_takes_quantised_models_only(network: Graph) -> None:
    profiler = get_profiler("cpu-openvino.int8")
    quantised = quantize_for_timing(network.to_onnx())
    check_profiler(profiler, [quantised])
    with pytest.raises(ModelError, match="quantise it to int8"):
        profiler.measure(network.to_onnx(), QUICK)


def test_time_is_divided_among_the_kernels_that_run(network: Graph) -> None:
    names = [node.name for node in network.nodes]
    shares = get_profiler("cpu-openvino").kernel_shares(network.to_onnx(), names, QUICK)
    assert shares is not None
    assert list(shares) == names
    assert sum(shares.values()) == pytest.approx(1.0)
    convs = [name for name in names if name.startswith(("conv", "dwconv"))]
    assert all(shares[name] > 0 for name in convs)
    assert shares[next(name for name in names if name.startswith("add"))] == 0  # inside the convolution before it


def test_a_dynamic_batch_is_taken_as_one(network: Graph) -> None:
    model = network.to_onnx(batch="N")
    assert get_profiler("cpu-openvino").measure(model, QUICK).median_ms > 0


def test_several_images_at_once(network: Graph) -> None:
    names = [node.name for node in network.nodes]
    one, many = get_profiler("cpu-openvino"), get_profiler("cpu-openvino.b8")
    assert many.measure(network.to_onnx(), QUICK).median_ms > 2 * one.measure(network.to_onnx(), QUICK).median_ms
    shares = many.kernel_shares(network.to_onnx(), names, QUICK)
    assert shares is not None
    assert list(shares) == names


def test_mistakes() -> None:
    with pytest.raises(ModelError, match="OpenVINO cannot compile the model"):
        get_profiler("cpu-openvino").measure(b"no model", QUICK)
    with pytest.raises(ConfigError, match="float32, bf16, int8"):
        get_profiler("cpu-openvino.int4")


def test_it_is_listed() -> None:
    (found,) = [info for info in list_profilers() if info.name == "cpu-openvino"]
    assert found.available
    assert found.method == "measured"


def test_larger_networks_take_longer() -> None:
    profiler = get_profiler("cpu-openvino")
    small, large = (get_space(f"mobilenet(resolution=32,width={width})") for width in (0.25, 1.0))
    times = [
        profiler.measure(space.lower(np.zeros(len(space.decisions), int).tolist()).to_onnx(), QUICK).median_ms
        for space in (small, large)
    ]
    assert times[0] < times[1]
