"""ONNX in and out: round trips, torch's own exporter as the independent check, broken files."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper

from hwnas.spaces import Graph, ModelError, SearchSpace, get_space
from tests.spaces.test_kernels import randomise
from tests.spaces.test_spaces import draw, spaces

# torch's own exporter warns about torch's own internals
exporter_warnings = pytest.mark.filterwarnings(
    "ignore::FutureWarning", "ignore::DeprecationWarning", "ignore::UserWarning"
)
chains = [space for space in spaces if space.is_chain]


def signatures(graph: Graph) -> Counter[str]:
    return Counter(kernel.signature for kernel in graph.kernels)


@pytest.mark.parametrize("space", spaces, ids=lambda space: space.name)
def test_round_trip_keeps_the_kernels(space: SearchSpace) -> None:
    for seed in range(5):
        graph = space.lower(draw(space, seed))
        again = Graph.from_onnx(graph.to_onnx())
        assert (again.macs, again.size) == (graph.macs, graph.size)
        if space.is_chain:  # elsewhere a ReLU may fuse into the convolution of another edge
            assert signatures(again) == signatures(graph)
            assert again.peak_memory == graph.peak_memory


@exporter_warnings
@pytest.mark.parametrize("space", spaces, ids=lambda space: space.name)
def test_same_numbers_and_kernels_as_torch_export(space: SearchSpace, tmp_path: Path) -> None:
    graph = space.lower(draw(space, 11))
    module = randomise(graph.to_module())
    x = torch.randn(space.input_shape)
    reference = torch.onnx.export(module, (x,), dynamo=True, verbose=False)
    assert reference is not None
    reference.save(tmp_path / "reference.onnx")
    theirs = onnxruntime.InferenceSession(tmp_path / "reference.onnx", providers=["CPUExecutionProvider"])
    ours = onnxruntime.InferenceSession(
        graph.to_onnx(module.state_dict()).SerializeToString(), providers=["CPUExecutionProvider"]
    )
    (expected,) = theirs.run(None, {theirs.get_inputs()[0].name: x.numpy()})
    (actual,) = ours.run(None, {"input": x.numpy()})
    assert np.abs(actual - expected).max() <= 1e-4 * np.abs(expected).max()
    read = Graph.from_onnx(tmp_path / "reference.onnx")
    assert read.macs == graph.macs
    if space.is_chain:
        assert signatures(read) == signatures(graph)


def test_a_dynamic_batch_computes_the_same() -> None:
    space = chains[-1]
    graph = space.lower(draw(space, 5))
    fixed = onnxruntime.InferenceSession(graph.to_onnx().SerializeToString(), providers=["CPUExecutionProvider"])
    model = graph.to_onnx(batch="batch")
    free = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    x = np.random.default_rng(0).standard_normal((3, *space.input_shape[1:])).astype(np.float32)
    whole = free.run(None, {"input": x})[0]
    single = np.concatenate([fixed.run(None, {"input": x[i : i + 1]})[0] for i in range(3)])
    assert np.allclose(whole, single, atol=1e-5)
    assert Graph.from_onnx(model).macs == graph.macs


def test_files_are_checked_and_carry_metadata() -> None:
    graph = chains[0].lower(draw(chains[0], 1))
    model = graph.to_onnx(metadata={"hwnas.space": chains[0].spec})
    onnx.checker.check_model(model, full_check=True)
    assert {p.key: p.value for p in model.metadata_props} == {"hwnas.space": chains[0].spec}
    block = graph.blocks[2].to_onnx()
    onnx.checker.check_model(block, full_check=True)
    assert block.metadata_props[0].value == graph.blocks[2].signature


def test_weights_must_fit() -> None:
    graph = chains[0].lower(draw(chains[0], 1))
    state = graph.to_module().state_dict()
    state.pop("stem/conv.conv.weight")
    with pytest.raises(ModelError, match=r"lack 'stem/conv\.conv\.weight'"):
        graph.to_onnx(state)
    with pytest.raises(ModelError, match="has shape"):
        graph.to_onnx({key: value.reshape(-1)[:1] for key, value in graph.to_module().state_dict().items()})


def test_unknown_operators_become_opaque() -> None:
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["a"], pads=[0, 0, 1, 1]),
        helper.make_node("Softplus", ["a"], ["b"]),
        helper.make_node("TopK", ["b", "k"], ["values", "indices"], axis=1),
    ]
    weights = [
        helper.make_tensor("w", TensorProto.FLOAT, [8, 3, 3, 3], np.zeros(216, np.float32)),
        helper.make_tensor("k", TensorProto.INT64, [1], [2]),
    ]
    graph = helper.make_graph(
        nodes,
        "odd",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3, 10, 10])],
        [helper.make_tensor_value_info("values", TensorProto.FLOAT, None)],
        weights,
    )
    read = Graph.from_onnx(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8))
    assert [node.kernel.op for node in read.nodes] == ["conv", "opaque", "opaque"]
    assert read.nodes[0].kernel.label == "conv(act=softplus,p=0x0x1x1,o=8)"
    assert read.macs == 9 * 9 * 8 * 27
    assert read.params == 216 + 1


@exporter_warnings
def test_decomposed_activations_and_heads_are_fused() -> None:
    class Head(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.linear = torch.nn.Conv2d(3, 8, 3, padding=1), torch.nn.Linear(8, 5)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.linear(torch.nn.functional.silu(self.conv(x)).mean((2, 3)))

    exported = torch.onnx.export(Head().eval(), (torch.randn(1, 3, 8, 8),), dynamo=True, verbose=False)
    assert exported is not None
    read = Graph.from_onnx(exported.model_proto)
    assert [kernel.label for kernel in read.kernels] == ["conv(act=swish,o=8)", "globalpool", "linear(o=5)"]


@pytest.mark.parametrize("content", [b"", b"not a model", b"\x80\x04\x95.", b"\x08\x08" * 50])
def test_broken_files_are_refused(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "broken.onnx"
    file.write_bytes(content)
    with pytest.raises(ModelError, match="ONNX"):
        Graph.from_onnx(file)


def test_truncated_and_missing_files_are_refused(tmp_path: Path) -> None:
    data = chains[0].lower(draw(chains[0], 1)).to_onnx().SerializeToString()
    with pytest.raises(ModelError, match="valid ONNX"):
        Graph.from_onnx(data[: len(data) // 2])
    with pytest.raises(ModelError, match="No such file"):
        Graph.from_onnx(tmp_path / "absent.onnx")


def test_a_symbolic_image_size_is_refused() -> None:
    model = get_space("mobilenet", resolution=8).lower([0] * 21).to_onnx()
    model.graph.input[0].type.tensor_type.shape.dim[2].dim_param = "height"
    with pytest.raises(ModelError, match="axis 2"):
        Graph.from_onnx(model)
