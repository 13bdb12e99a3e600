"""Executed nodes led back to the given ones, on made-up graphs and on what onnxruntime really runs."""

from __future__ import annotations

import numpy as np
import pytest

from hwnas.profilers import get_profiler
from hwnas.profilers.attribution import ExecutedNode, attribute, owners_by_name
from hwnas.profilers.campaign import network_model
from hwnas.profilers.testing import QUICK
from hwnas.spaces import get_space


def node(name: str, op: str, inputs: str, outputs: str = "") -> ExecutedNode:
    return ExecutedNode(name, op, tuple(inputs.split()), tuple((outputs or name).split()))


GIVEN = [
    node("a/conv", "Conv", "input a/w"),
    node("a/conv/relu", "Relu", "a/conv"),
    node("b/scale", "Mul", "a/conv/relu gate"),
    node("c/relu", "Relu", "b/scale"),
    node("c/conv", "Conv", "c/relu c/w"),
]
OWNERS = ["a/conv", "b/scale", "c/relu", "c/conv"]


def test_names_belong_to_the_longest_prefix() -> None:
    owners = ["a", "a/b", "a/bc"]
    names = ["a/b/relu", "a/b", "a/bcd", "a/bc/x/y", "b", "a"]
    assert owners_by_name(names, owners) == {
        "a/b/relu": "a/b",
        "a/b": "a/b",
        "a/bcd": "a",
        "a/bc/x/y": "a/bc",
        "a": "a",
    }


def test_fused_and_renamed_nodes() -> None:
    executed = [
        node("a/conv/relu_nchwc", "Conv", "input reorder", "token0"),
        node("b/scale", "Mul", "token0 gate"),
        node("c/relu_token_7", "Relu", "b/scale", "token1"),
        node("fresh", "Conv", "token1 c/w_nchwc", "token2"),
    ]
    assert list(attribute(GIVEN, executed, OWNERS).values()) == OWNERS


def test_a_fused_group_belongs_to_its_convolution_not_to_the_next_blocks_activation() -> None:
    given = [
        node("a/conv", "Conv", "input a/w"),
        node("b/relu", "Relu", "a/conv"),
        node("b/conv", "Conv", "b/relu b/w"),
    ]
    executed = [node("b/relu_nchwc", "Conv", "input w0", "t0"), node("b/conv", "QLinearConv", "t0 w1")]
    assert list(attribute(given, executed).values()) == ["a/conv", "b/conv"]


def test_layout_changes_belong_to_the_side_that_forces_them() -> None:
    executed = [
        node("first", "ReorderInput", "input", "t0"),
        node("a/conv/relu_nchwc", "Conv", "t0 w", "t1"),
        node("out", "ReorderOutput", "t1", "a/conv/relu"),
        node("b/scale", "Mul", "a/conv/relu gate"),
        node("in", "ReorderInput", "b/scale", "t2"),
        node("c/conv_nchwc", "Conv", "t2 w", "t3"),
        node("last", "ReorderOutput", "t3", "c/conv"),
    ]
    found = attribute(GIVEN, executed, OWNERS)
    assert (found["out"], found["in"]) == ("b/scale", "b/scale")
    assert (found["first"], found["last"]) == ("a/conv", "c/conv")


def test_chains_of_inserted_nodes_and_strays_find_an_owner() -> None:
    executed = [
        node("a/conv", "Conv", "input a/w"),
        node("q", "QuantizeLinear", "a/conv", "t0"),
        node("Transpose_1", "Transpose", "t0", "t1"),
        node("dq", "DequantizeLinear", "t1", "t2"),
        node("b/scale", "Mul", "t2 gate"),
        node("stray", "Mystery", "nowhere", "nothing"),
    ]
    found = attribute(GIVEN, executed, OWNERS)
    assert [found[name] for name in ("q", "Transpose_1", "dq", "stray")] == ["a/conv", "b/scale", "b/scale", "b/scale"]
    assert attribute(GIVEN, [node("x", "Mystery", "y")], OWNERS) == {}


@pytest.mark.parametrize(
    "spec",
    [
        "mobilenet(resolution=16,channels=1,classes=10,width=0.25)",
        "shufflenet(resolution=32,channels=1,classes=10,width=0.5)",
        "nasbench201(resolution=8,width=0.5,depth=0.4)",
    ],
)
def test_what_onnxruntime_runs_is_led_back_to_every_convolution(spec: str) -> None:
    space = get_space(spec)
    profiler = get_profiler("cpu-onnxruntime")
    for architecture in space.sample(3, np.random.default_rng(0)).tolist():
        graph = space.lower(architecture)
        names = [node.name for node in graph.nodes]
        shares = profiler.kernel_shares(network_model(space, tuple(architecture), graph), names, QUICK)
        assert shares is not None
        assert set(shares) == set(names)
        assert sum(shares.values()) == pytest.approx(1)
        # a convolution on a tensor of zeros is computed in advance; all others take time of their own
        constant = {node.name for node in graph.nodes if type(node.kernel).__name__ == "Zero"}
        for entry in graph.nodes:
            if entry.inputs and set(entry.inputs) <= constant:
                constant.add(entry.name)
            elif type(entry.kernel).__name__ in ("Conv", "DepthwiseConv", "Linear"):
                assert shares[entry.name] > 0, entry.name
