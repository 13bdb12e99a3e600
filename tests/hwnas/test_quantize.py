"""Operators that onnxruntime's quantiser leaves out unless it is told to."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

from hwnas.quantize import quantize_for_timing


def network() -> onnx.ModelProto:
    """An image is normalised, convolved, activated and enlarged."""
    rng = np.random.default_rng(0)
    constants = {
        "mean": np.full((1, 3, 1, 1), 0.5, np.float32),
        "deviation": np.full((1, 3, 1, 1), 0.25, np.float32),
        "weight": rng.standard_normal((16, 3, 3, 3)).astype(np.float32),
        "slope": np.full((16, 1, 1), 0.25, np.float32),
    }
    nodes = [
        helper.make_node("Sub", ["image", "mean"], ["centred"]),
        helper.make_node("Div", ["centred", "deviation"], ["scaled"]),
        helper.make_node("Conv", ["scaled", "weight"], ["convolved"], pads=[1, 1, 1, 1]),
        helper.make_node("PRelu", ["convolved", "slope"], ["bent"]),
        helper.make_node("DepthToSpace", ["bent"], ["enlarged"], blocksize=2, mode="CRD"),
        helper.make_node("GlobalAveragePool", ["enlarged"], ["mean_colour"]),
    ]
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, 3, 8, 8])],
        [helper.make_tensor_value_info("mean_colour", TensorProto.FLOAT, [1, 4, 1, 1])],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def test_no_island_of_floats_is_left() -> None:
    model = quantize_for_timing(network())
    made = {name: node.op_type for node in model.graph.node for name in node.output}
    conversions = ("QuantizeLinear", "DequantizeLinear")
    for node in model.graph.node:
        if node.op_type not in conversions:
            assert {made.get(name) for name in node.input} == {"DequantizeLinear"}, node.op_type


def test_it_computes_what_the_float_network_does() -> None:
    image = np.random.default_rng(1).standard_normal((1, 3, 8, 8)).astype(np.float32)
    before, after = (
        onnxruntime.InferenceSession(model.SerializeToString()).run(None, {"image": image})[0]
        for model in (network(), quantize_for_timing(network()))
    )
    assert np.abs(after - before).max() < 0.1 * np.abs(before).max()
