"""Code that TVM generates for Hexagon: it computes what onnxruntime does, and its packets repeat."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from hwnas.profilers import get_profiler
from hwnas.profilers.dsp_hexagon_sim import DspHexagonSim, SimulatedOperator
from hwnas.profilers.hexagon_fusion import all_arrays
from hwnas.profilers.hexagon_generated import GeneratedCall, generator_missing
from hwnas.profilers.hexagon_part import find_part
from hwnas.profilers.hexagon_program import kernels, missing
from hwnas.profilers.reference import anchor_model
from hwnas.profilers.testing import check_profiler
from hwnas.quantize import quantize_for_timing
from hwnas.spaces import DeviceUnavailable, Graph, ModelError
from hwnas.spaces.families import NetworkBuilder
from hwnas.spaces.kernels import Activation
from hwnas.spaces.layout_kernels import Transpose
from hwnas.spaces.math_kernels import Softmax, TransposedConv

lacking = missing() or generator_missing()
generated = pytest.mark.skipif(lacking is not None, reason=str(lacking))


def simulate(graph: Graph, profiler: DspHexagonSim | None = None) -> list[SimulatedOperator]:
    data = quantize_for_timing(graph.to_onnx()).SerializeToString()
    return (profiler or DspHexagonSim(tvm=True)).simulate(data)


def quantised_model(
    nodes: list[onnx.NodeProto], outputs: list[str], shape: list[int], stored: dict[str, np.ndarray]
) -> onnx.ModelProto:
    """A model of bytes: ``x`` comes as bytes and is dequantised to ``a``; floats called `outputs` become bytes."""
    numbers = {"xs": np.float32(0.02), "xz": np.uint8(90), "ys": np.float32(0.025), "yz": np.uint8(100), **stored}
    graph = helper.make_graph(
        [
            helper.make_node("DequantizeLinear", ["x", "xs", "xz"], ["a"]),
            *nodes,
            *(helper.make_node("QuantizeLinear", [name, "ys", "yz"], [f"{name}_bytes"]) for name in outputs),
        ],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.UINT8, shape)],
        [helper.make_tensor_value_info(f"{name}_bytes", TensorProto.UINT8, None) for name in outputs],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in numbers.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


def arrays_of(model: onnx.ModelProto) -> dict[str, np.ndarray]:
    """Every array, for an input that takes all bytes."""
    bytes_, (x,) = np.arange(256), model.graph.input
    sizes = [size.dim_value for size in x.type.tensor_type.shape.dim]
    given = onnx.ModelProto()
    given.CopyFrom(model)
    del given.graph.input[:]
    values = np.resize(bytes_, sizes).astype(np.uint8)
    given.graph.initializer.append(numpy_helper.from_array(values, x.name))
    return all_arrays(given)


@generated
def test_functions() -> None:
    """Those that need more than the four operations, on all bytes."""
    node = helper.make_node
    ops = ["Exp", "Erf", "Tanh", "Sin", "Cos", "Sigmoid", "Floor", "Ceil", "Round", "Softplus", "Elu"]
    nodes = [node(op, ["a"], [op]) for op in ops]
    nodes += [node("Abs", ["a"], ["size"]), node("Sqrt", ["size"], ["Sqrt"]), node("Pow", ["size", "p"], ["Pow"])]
    nodes += [node("Add", ["size", "some"], ["more"]), node("Log", ["more"], ["Log"])]
    outputs = [*ops, "Sqrt", "Pow", "Log"]
    model = quantised_model(nodes, outputs, [1, 4, 8, 8], {"p": np.float32(1.7), "some": np.float32(0.001)})
    part = find_part(model, 0, arrays_of(model))
    assert part is not None
    assert part.members == tuple(range(len(model.graph.node)))
    assert set(part.outputs) == {f"{name}_bytes" for name in outputs}
    call = GeneratedCall(part)
    counts, made = call.run(kernels())
    away = np.abs(made.astype(int) - call.expected).reshape(len(outputs), -1)
    assert dict(zip(outputs, away.max(axis=1).tolist(), strict=True)) == dict.fromkeys(outputs, 0)
    assert len(np.unique(call.expected)) > 100
    assert counts.packets > 256 * len(outputs)
    assert call.run(kernels())[0] == counts


@generated
def test_parts_end_at_bytes() -> None:
    """Floats that two branches share make one part of both; bytes between operators separate them."""
    node = helper.make_node
    nodes = [
        node("Softmax", ["a"], ["one"]),
        node("QuantizeLinear", ["one", "ys", "yz"], ["one_bytes"]),
        node("ReduceMax", ["a"], ["most"]),
        node("Sub", ["a", "most"], ["two"]),
        node("DequantizeLinear", ["one_bytes", "ys", "yz"], ["again"]),
        node("Neg", ["again"], ["three"]),
    ]
    model = quantised_model(nodes, ["two", "three"], [1, 4, 8], {})
    arrays, names = arrays_of(model), [one.op_type for one in model.graph.node]
    first, second = find_part(model, 0, arrays), find_part(model, names.index("Neg"), arrays)
    assert first is not None
    assert second is not None
    assert [names[number] for number in second.members] == ["DequantizeLinear", "Neg", "QuantizeLinear"]
    assert set(first.outputs) == {"one_bytes", "two_bytes"}
    assert set(first.members).isdisjoint(second.members)
    for part in (first, second):
        counts, made = GeneratedCall(part).run(kernels())
        assert np.abs(made.astype(int) - GeneratedCall(part).expected).max() <= 1
        assert counts.hvx == 0 < counts.packets


@generated
def test_a_transformer_is_what_onnxruntime_computes() -> None:
    """Matrix products of stored weights and sums take kernels; attention, norms and moves are generated."""
    net = NetworkBuilder((1, 3, 8, 8))
    graph = net.token_classifier(net.transformer(net.tokens("input", 4, 16), 2), 10)
    found = simulate(graph)
    kinds = {kind for one in found for kind in one.kernels}
    assert {"generated", "conv", "linear", "lookup", "add"} <= kinds
    by_code = {one.node.op for one in found if "generated" in one.kernels}
    assert {"LayerNormalization", "QLinearMatMul", "QLinearSoftmax", "Transpose"} <= by_code
    assert {one.node.op for one in found if one.kernels == ("conv",)} >= {"QGemm", "QLinearConv"}
    outputs, off = (sum(getattr(one, name) for one in found) for name in ("outputs", "off"))
    assert outputs > 2_000
    assert off < 0.02 * outputs
    attention = next(one for one in found if one.node.op == "QLinearMatMul")
    assert attention.macs == 2 * 4 * 4 * 8


@generated
def test_convolutions_that_have_no_kernel() -> None:
    net = NetworkBuilder((1, 3, 9, 8))
    x = net.conv("input", 6, (3, 5), 1, "relu")
    x = net.add(TransposedConv(o=4), net.conv(x, 10, 3, 1, None, g=2))
    found = simulate(net.classifier(x, 10))
    assert [one.kernels for one in found[:3]] == [("conv",), ("generated",), ("generated",)]
    assert found[1].macs == 10 * 9 * 8 * 3 * 9
    assert sum(one.off for one in found) < 0.02 * sum(one.outputs for one in found)


@generated
def test_packets_grow_with_the_work() -> None:
    packets = []
    for size in (8, 16):
        net = NetworkBuilder((1, 8, size, size))
        packets.append(simulate(net.graph(net.add(Softmax(), net.conv("input", 8))))[-1].packets)
    assert 3.5 < packets[1] / packets[0] < 4.5


@generated
def test_a_modelled_cache_counts_misses_of_generated_code() -> None:
    net = NetworkBuilder((1, 8, 8, 8))
    graph = net.graph(net.add(Softmax(), net.conv("input", 8)))
    found = simulate(graph, DspHexagonSim(tvm=True, cache_kb=1024, miss_packets=30))[-1]
    assert found.misses > 2 * 8 * 8 * 8 / 64
    assert found.packets == simulate(graph)[-1].packets


@generated
def test_it_keeps_the_rules_of_profilers() -> None:
    profiler = get_profiler("dsp-hexagon-sim.tvm")
    assert profiler.key == "dsp-hexagon-sim.tvm"
    check_profiler(profiler, [quantize_for_timing(anchor_model())])
    record = profiler.device_record()
    assert f"tvm {version('apache-tvm')}" in record.runtime_version
    assert record.differences(get_profiler("dsp-hexagon-sim").device_record())
    net = NetworkBuilder((1, 8, 4, 4))
    block = quantize_for_timing(net.graph(net.add(Softmax(), net.conv("input", 8))).to_onnx())
    shares = profiler.kernel_shares(block)
    assert shares is not None
    assert sum(shares.values()) == pytest.approx(1)
    assert max(shares, key=lambda name: shares[name]).startswith("softmax")


@pytest.mark.skipif(missing() is not None, reason=str(missing()))
def test_without_the_switch_the_mend_is_named() -> None:
    net = NetworkBuilder((1, 8, 4, 4))
    x = net.add(Transpose(perm=(0, 2, 3, 1)), net.add(Activation("relu"), "input"))
    with pytest.raises(ModelError, match=r"no Hexagon kernel.*dsp-hexagon-sim\.tvm"):
        simulate(net.graph(x), DspHexagonSim())


def test_what_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(_: str) -> str:
        raise PackageNotFoundError

    monkeypatch.setattr("hwnas.profilers.hexagon_generated.version", absent)
    with pytest.raises(DeviceUnavailable, match=r"dsp-hexagon-sim\.tvm is not available here.*pip install"):
        DspHexagonSim(tvm=True)
