"""Random networks of the prior: they are what graphs have to be, vary, and repeat by their seed."""

from __future__ import annotations

import numpy as np
import onnxruntime
import pytest
import torch

from hwnas.spaces.families import NetworkBuilder
from hwnas.spaces.graph import Graph
from hwnas.spaces.placement import place_kernels
from hwnas.spaces.prior import FAMILIES, MOST_MACS, SHARES, prior_network
from hwnas.spaces.signature import kernel_graph


def draw(seed: int, *families: str) -> Graph:
    return prior_network(np.random.default_rng(seed), families)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_draws_networks_that_torch_and_onnxruntime_agree_on(family: str) -> None:
    graph = min((draw(seed, family) for seed in range(8)), key=lambda network: network.macs)
    assert 0 < graph.macs <= MOST_MACS
    module = graph.to_module().eval()
    image = torch.from_numpy(np.random.default_rng(0).standard_normal(graph.inputs["input"], dtype=np.float32))
    with torch.no_grad():
        expected = module(image).numpy()
    session = onnxruntime.InferenceSession(
        graph.to_onnx(module.state_dict()).SerializeToString(), providers=["CPUExecutionProvider"]
    )
    (found,) = session.run(None, {session.get_inputs()[0].name: image.numpy()})
    assert expected.shape == graph.shapes[graph.outputs[0]]
    np.testing.assert_allclose(found, expected, rtol=2e-3, atol=2e-4 * max(1.0, float(np.abs(expected).max())))


def test_networks_repeat_by_seed_and_differ_otherwise() -> None:
    def kernels(seed: int) -> tuple[object, ...]:
        return place_kernels(draw(seed)).kernels

    assert kernels(3) == kernels(3)
    assert len({kernels(seed) for seed in range(20)}) == 20
    assert SHARES.keys() == FAMILIES.keys()


def test_signatures_of_all_kernels_can_be_read_back() -> None:
    for seed in range(40):
        for kernel in draw(seed).kernels:
            assert kernel_graph(kernel.signature).macs == kernel.macs


def test_kernels_know_their_neighbours() -> None:
    net = NetworkBuilder((1, 3, 8, 8))
    x = net.conv("input", 16, 3, act="relu")
    graph = net.classifier(net.bottleneck(x, 16, 4), 10)
    placed = place_kernels(graph)
    assert placed.weights == graph.size
    assert placed.weights + placed.activations == graph.bytes
    stem, reduce, middle, expand, add, *_, linear = placed.kernels
    assert (stem.after, stem.before) == ("", "")  # the shortcut reads it, too
    assert (reduce.after, reduce.before) == ("", "conv")
    assert (middle.after, middle.before) == ("conv", "conv")
    assert (expand.before, add.after) == ("add", "conv")
    assert (linear.after, linear.before) == ("globalpool", "")


def test_known_networks_have_their_published_size() -> None:
    net = NetworkBuilder((1, 3, 224, 224))
    x = net.pool(net.conv("input", 64, 7, 2, "relu"))
    for stage, depth in enumerate((2, 2, 2, 2)):
        for index in range(depth):
            x = net.basic(x, 64 * 2**stage, 2 if stage and not index else 1)
    assert net.classifier(x).params == 11_689_512  # ResNet-18
