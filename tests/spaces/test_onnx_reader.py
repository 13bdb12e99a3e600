"""Networks of other families and exporters are read into kernels, with no multiply-accumulate lost."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper
from torch import nn
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode

from hwnas.spaces import Graph, ModelError

# torch's own exporters warn about torch's own internals
pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning", "ignore::UserWarning")


class Attention(nn.Module):
    """A transformer block as vision models write it."""

    def __init__(self, dim: int = 24, heads: int = 3) -> None:
        super().__init__()
        self.heads, self.norm1, self.norm2 = heads, nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.qkv, self.proj = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)
        self.up, self.down = nn.Linear(dim, 4 * dim), nn.Linear(4 * dim, dim)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        b, n, c = x.shape
        q, k, v = self.qkv(self.norm1(x)).reshape(b, n, 3, self.heads, c // self.heads).permute(2, 0, 3, 1, 4).unbind(0)
        weights = ((q * (c // self.heads) ** -0.5) @ k.transpose(-2, -1)).softmax(dim=-1)
        x = x + self.proj((weights @ v).transpose(1, 2).reshape(b, n, c))
        return x + self.down(functional.gelu(self.up(self.norm2(x))))


class VisionTransformer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.patches, self.block, self.head = nn.Conv2d(3, 24, 4, 4), Attention(), nn.Linear(24, 10)
        self.position = nn.Parameter(torch.zeros(1, 16, 24))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        tokens = self.patches(x).flatten(2).transpose(1, 2) + self.position
        return self.head(self.block(tokens).mean(dim=1))


class ConvNext(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.depthwise = nn.Conv2d(3, 16, 4, 4), nn.Conv2d(16, 16, 7, padding=3, groups=16)
        self.norm, self.up, self.down = nn.LayerNorm(16), nn.Linear(16, 64), nn.Linear(64, 16)
        self.gamma = nn.Parameter(torch.ones(16))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        y = self.depthwise(x).permute(0, 2, 3, 1)
        y = self.down(functional.gelu(self.up(self.norm(y)))) * self.gamma
        return x + y.permute(0, 3, 1, 2)


class DecomposedHardSwish(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.a(x)
        x = x * functional.relu6(x + 3) / 6
        x = self.b(x)
        return x * (functional.relu6(x + 3) / 6)


class SqueezeExcite(nn.Module):
    def __init__(self, act: type[nn.Module], gate: type[nn.Module]) -> None:
        super().__init__()
        self.stem, self.act, self.gate = nn.Conv2d(3, 16, 3), act(), gate()
        self.reduce, self.expand = nn.Conv2d(16, 4, 1), nn.Conv2d(4, 16, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        return x * self.gate(self.expand(self.act(self.reduce(x.mean((2, 3), keepdim=True)))))


class UNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.down, self.up = nn.Conv2d(3, 8, 3, 2, 1), nn.ConvTranspose2d(8, 4, 2, 2)
        self.norm, self.out = nn.GroupNorm(2, 8), nn.Conv2d(12, 2, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        low = functional.leaky_relu(self.norm(self.down(x)))
        large = functional.interpolate(low, scale_factor=2, mode="nearest")
        return self.out(torch.cat([self.up(low), large], dim=1)).softmax(dim=-1)


class Pools(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv2d(3, 8, 3, stride=2, bias=False), nn.Linear(16, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = functional.max_pool2d(self.conv(x), 3, 2, ceil_mode=True)
        parts = torch.cat([functional.avg_pool2d(x, 3, 1, 1), functional.elu(x)], dim=1)
        left, right = parts.chunk(2, dim=1)
        return self.head(torch.cat([left.amax((2, 3)), (right / 2 - left).mean((2, 3))], dim=1))


def export(module: nn.Module, x: torch.Tensor, path: Path, dynamo: bool, **more: Any) -> onnx.ModelProto:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(module.eval(), (x,), path, dynamo=dynamo, verbose=False, external_data=False, **more)
    return onnx.load(path)


@pytest.mark.parametrize("dynamo", [True, False], ids=["dynamo", "old exporter"])
@pytest.mark.parametrize(
    ("network", "kinds"),
    [
        (VisionTransformer(), {"conv", "linear", "matmul", "softmax", "layernorm", "add", "act"}),
        (ConvNext(), {"conv", "dwconv", "layernorm", "linear", "transpose", "act"}),
        (UNet(), {"conv", "deconv", "groupnorm", "resize", "concat", "softmax"}),
        (Pools(), {"conv", "pool", "slice", "reduce", "linear", "act", "concat"}),
    ],
    ids=["vit", "convnext", "unet", "pools"],
)
def test_no_product_is_lost(network: nn.Module, kinds: set[str], dynamo: bool, tmp_path: Path) -> None:
    x = torch.randn(1, 3, 16, 16)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network.eval()(x)
    graph = Graph.from_onnx(export(network, x, tmp_path / "model.onnx", dynamo))
    assert 2 * graph.macs == counter.get_total_flops()
    found = {node.kernel.op for node in graph.nodes}
    assert "opaque" not in found
    if not (network._get_name() == "UNet" and not dynamo):  # the old exporter takes group norms apart
        assert kinds <= found


@pytest.mark.parametrize("dynamo", [True, False], ids=["dynamo", "old exporter"])
def test_decomposed_hard_swish_is_one_activation(dynamo: bool, tmp_path: Path) -> None:
    graph = Graph.from_onnx(export(DecomposedHardSwish(), torch.randn(1, 3, 8, 8), tmp_path / "m.onnx", dynamo))
    assert [kernel.label for kernel in graph.kernels] == ["conv(act=hswish,o=8)", "conv(k=1,act=hswish,o=8)"]


@pytest.mark.parametrize("dynamo", [True, False], ids=["dynamo", "old exporter"])
@pytest.mark.parametrize(
    ("act", "gate", "label"),
    [
        (nn.ReLU, nn.Sigmoid, "se(r=4,gate=sigmoid)"),
        (nn.SiLU, nn.Sigmoid, "se(r=4,gate=sigmoid,act=swish)"),
        (nn.ReLU, nn.Hardsigmoid, "se(r=4)"),
    ],
)
def test_squeeze_excite_of_other_families(
    act: type[nn.Module], gate: type[nn.Module], label: str, dynamo: bool, tmp_path: Path
) -> None:
    graph = Graph.from_onnx(export(SqueezeExcite(act, gate), torch.randn(1, 3, 8, 8), tmp_path / "m.onnx", dynamo))
    assert [kernel.label for kernel in graph.kernels] == ["conv(p=0,o=16)", label]


def test_a_dynamic_batch_is_read_as_one(tmp_path: Path) -> None:
    x = torch.randn(2, 3, 16, 16)
    fixed = Graph.from_onnx(export(VisionTransformer(), x[:1], tmp_path / "fixed.onnx", True))
    batch = torch.export.Dim("batch", min=1, max=64)
    free = Graph.from_onnx(export(VisionTransformer(), x, tmp_path / "free.onnx", True, dynamic_shapes=({0: batch},)))
    old = export(
        VisionTransformer(), x, tmp_path / "old.onnx", False, input_names=["x"], dynamic_axes={"x": {0: "batch"}}
    )
    assert free.macs == Graph.from_onnx(old).macs == fixed.macs
    assert all(node.kernel.op != "opaque" for node in free.nodes)


def test_an_int8_model_has_the_kernels_of_its_float_model() -> None:
    from hwnas.quantize import quantize_for_timing
    from hwnas.spaces import get_space

    graph = get_space("mobilenet(resolution=16,width=0.25,depth=0.25)").lower([1] * 6)
    read = Graph.from_onnx(quantize_for_timing(graph.to_onnx()))
    assert read.macs == graph.macs
    assert all(node.kernel.op != "opaque" for node in read.nodes)


def test_quantised_operators_are_products_too() -> None:
    scales = [helper.make_tensor("s", TensorProto.FLOAT, [], [1.0]), helper.make_tensor("z", TensorProto.INT8, [], [0])]
    weights = [
        helper.make_tensor("w", TensorProto.INT8, [8, 3, 3, 3], np.zeros(216, np.int8)),
        helper.make_tensor("v", TensorProto.INT8, [8, 5], np.zeros(40, np.int8)),
        helper.make_tensor("flat", TensorProto.INT64, [2], [1, 8]),
    ]
    quantised = ["s", "z"]
    nodes = [
        helper.make_node("QLinearConv", ["x", *quantised, "w", *quantised, *quantised], ["a"], strides=[8, 8]),
        helper.make_node("Reshape", ["a", "flat"], ["b"]),
        helper.make_node("QLinearMatMul", ["b", *quantised, "v", *quantised, *quantised], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "quantised",
        [helper.make_tensor_value_info("x", TensorProto.INT8, [1, 3, 8, 8])],
        [helper.make_tensor_value_info("y", TensorProto.INT8, [1, 5])],
        [*scales, *weights],
    )
    read = Graph.from_onnx(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8))
    assert [kernel.label for kernel in read.kernels] == ["conv(s=8,p=0,o=8)", "reshape(to=1x8)", "linear(o=5)"]
    assert read.macs == 216 + 40


def test_networks_with_channels_last_and_same_padding() -> None:
    """As converters from TensorFlow write them: transposes, SAME padding, folded norms, clips, means that squeeze."""
    weights = [
        helper.make_tensor("w", TensorProto.FLOAT, [8, 3, 3, 3], np.zeros(216, np.float32)),
        helper.make_tensor("scale", TensorProto.FLOAT, [8, 1, 1], np.ones(8, np.float32)),
        helper.make_tensor("shift", TensorProto.FLOAT, [1, 8, 1, 1], np.ones(8, np.float32)),
        helper.make_tensor("low", TensorProto.FLOAT, [], [0.0]),
        helper.make_tensor("high", TensorProto.FLOAT, [], [6.0]),
        helper.make_tensor("v", TensorProto.FLOAT, [8, 5], np.zeros(40, np.float32)),
        helper.make_tensor("b", TensorProto.FLOAT, [5], np.zeros(5, np.float32)),
    ]
    nodes = [
        helper.make_node("Transpose", ["x"], ["nchw"], perm=[0, 3, 1, 2]),
        helper.make_node("Conv", ["nchw", "w"], ["conv"], auto_pad="SAME_UPPER", strides=[2, 2]),
        helper.make_node("Mul", ["conv", "scale"], ["scaled"]),
        helper.make_node("Add", ["scaled", "shift"], ["shifted"]),
        helper.make_node("Clip", ["shifted", "low", "high"], ["clipped"]),
        helper.make_node("ReduceMean", ["clipped"], ["mean"], axes=[2, 3], keepdims=0),
        helper.make_node("MatMul", ["mean", "v"], ["product"]),
        helper.make_node("Add", ["product", "b"], ["biased"]),
        helper.make_node("Softmax", ["biased"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "keras",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["unk", 10, 10, 3])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["unk", 5])],
        weights,
    )
    read = Graph.from_onnx(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8))
    assert [kernel.label for kernel in read.kernels] == [
        "transpose(perm=0x3x1x2)",
        "conv(s=2,act=relu6,p=0x0x1x1,o=8)",
        "globalpool",
        "linear(o=5)",
        "softmax",
    ]


def test_zeros_around_images() -> None:
    """Before a convolution they become its padding; before anything else they are a kernel; edges are no zeros."""

    def kernels(mode: str) -> list[str]:
        stored = [
            helper.make_tensor("w", TensorProto.FLOAT, [4, 3, 3, 3], np.zeros(108, np.float32)),
            helper.make_tensor("pads", TensorProto.INT64, [8], [0, 0, 1, 1, 0, 0, 1, 2]),
        ]
        nodes = [
            helper.make_node("Pad", ["x", "pads"], ["around"], mode=mode),
            helper.make_node("Conv", ["around", "w"], ["conv"]),
            helper.make_node("Pad", ["conv", "pads"], ["wider"], mode=mode),
            helper.make_node("MaxPool", ["wider"], ["y"], kernel_shape=[3, 3], strides=[2, 2]),
        ]
        value = helper.make_tensor_value_info
        graph = helper.make_graph(
            nodes,
            "padded",
            [value("x", TensorProto.FLOAT, [1, 3, 10, 10])],
            [value("y", TensorProto.FLOAT, None)],
            stored,
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
        return [kernel.label for kernel in Graph.from_onnx(model).kernels]

    assert kernels("constant") == [
        "conv(p=1x1x1x2,o=4)",
        "pad(pads=0x0x1x1x0x0x1x2)",
        "maxpool(k=3,s=2,p=0)",
    ]
    assert [label.partition("(")[0] for label in kernels("edge")] == ["opaque", "conv", "opaque", "maxpool"]


def test_damaged_weights_are_named() -> None:
    weight = onnx.numpy_helper.from_array(np.zeros((8, 64, 1, 1), np.float32), "w")
    weight.raw_data = weight.raw_data[:1000]
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        [helper.make_node("Conv", ["x", "w"], ["y"])],
        "short",
        [value("x", TensorProto.FLOAT, [1, 64, 10, 10])],
        [value("y", TensorProto.FLOAT, [1, 8, 10, 10])],
        [weight],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    with pytest.raises(ModelError, match="the weights 'w' of the model cannot be read"):
        Graph.from_onnx(model)


def test_operators_of_other_domains_are_opaque() -> None:
    graph = helper.make_graph(
        [helper.make_node("Strange", ["x"], ["a"], domain="elsewhere"), helper.make_node("Relu", ["a"], ["y"])],
        "odd",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 4])],
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("elsewhere", 1)]
    read = Graph.from_onnx(helper.make_model(graph, opset_imports=opsets, ir_version=8))
    assert next(node.kernel.op for node in read.nodes) == "opaque"
    assert len(read.nodes) == 2
