"""Every kernel's four readings agree with torch, with onnxruntime and with an independent counter."""

from __future__ import annotations

import math

import numpy as np
import onnxruntime
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.flop_counter import FlopCounterMode

from hwnas.spaces import GraphBuilder, ModelError
from hwnas.spaces.kernel import ACTIVATIONS, Kernel, Opaque
from hwnas.spaces.kernels import (
    Activation,
    Add,
    BatchNorm,
    Conv,
    DepthwiseConv,
    GlobalPool,
    Linear,
    Pool,
    SqueezeExcite,
    Zero,
)
from hwnas.spaces.layout_kernels import ChannelShuffle, Concat, Pad, Pick, Reshape, Resize, Slice, Transpose
from hwnas.spaces.math_kernels import (
    Binary,
    GroupNorm,
    LayerNorm,
    MatMul,
    Reduce,
    Softmax,
    TransposedConv,
    Unary,
)
from hwnas.spaces.signature import kernel_graph
from hwnas.spaces.split_attention import SplitAttention

acts = st.sampled_from([None, *ACTIVATIONS])
convs = st.builds(
    Conv,
    k=st.sampled_from([1, 3, 5, (1, 7)]),
    s=st.sampled_from([1, 2]),
    act=acts,
    d=st.sampled_from([1, 2]),
    bn=st.booleans(),
    bias=st.booleans(),
    o=st.sampled_from([4, 12]),
    g=st.sampled_from([1, 2]),
)
depthwise = st.builds(
    DepthwiseConv, k=st.sampled_from([3, 5, 7]), s=st.sampled_from([1, 2]), act=acts, bn=st.booleans()
)
sides = st.sampled_from([0, 1, (0, 1), (0, 0, 1, 1), (1, 0, 0, 1)])
lopsided = st.builds(Conv, k=st.just(3), s=st.sampled_from([1, 2]), p=sides, o=st.just(4))
pools = st.builds(
    Pool,
    mode=st.sampled_from(["avg", "max"]),
    k=st.just(3),
    s=st.sampled_from([1, 2]),
    p=st.sampled_from([0, 1]),
    ceil=st.sampled_from([0, 1]),
    include=st.sampled_from([0, 1]),
)
unary = st.one_of(
    convs,
    lopsided,
    depthwise,
    pools,
    st.builds(Pool, mode=st.just("max"), p=sides, s=st.sampled_from([1, 2])),
    st.builds(
        TransposedConv, o=st.just(6), k=st.sampled_from([2, 3]), p=st.sampled_from([0, 1]), g=st.sampled_from([1, 2])
    ),
    st.builds(GroupNorm, g=st.sampled_from([1, 2, 4])),
    st.builds(Resize, o=st.sampled_from([4, 12, (10, 5)]), mode=st.sampled_from(["nearest", "linear"])),
    st.tuples(*[st.integers(0, 2)] * 6).map(lambda p: Pad((0, *p[:3], 0, *p[3:]))),
    st.builds(Reduce, kind=st.sampled_from(["mean", "max"]), axes=st.sampled_from([1, (2, 3)]), keep=st.integers(0, 1)),
    st.builds(Pick, axis=st.integers(1, 3), index=st.integers(0, 3)),
    st.builds(Slice, start=st.just(1), stop=st.just(4), axis=st.integers(1, 3), step=st.integers(1, 2)),
    st.permutations([1, 2, 3]).map(lambda perm: Transpose((0, *perm))),
    st.just(GlobalPool()),
    st.just(ChannelShuffle(g=2)),
    st.builds(Slice, start=st.integers(0, 2), stop=st.integers(3, 4)),
    st.builds(
        SqueezeExcite,
        r=st.sampled_from([2, 3]),
        gate=st.sampled_from(["hsigmoid", "sigmoid"]),
        act=st.sampled_from(["relu", "swish"]),
    ),
    st.builds(Activation, act=st.sampled_from(ACTIVATIONS)),
    st.builds(BatchNorm, act=acts),
    st.just(Zero()),
)


def randomise(module: torch.nn.Module) -> torch.nn.Module:
    for name, buffer in module.named_buffers():
        if name.endswith("running_mean"):
            buffer.normal_(0, 0.2)
        elif name.endswith("running_var"):
            buffer.uniform_(0.5, 1.5)
    for name, parameter in module.named_parameters():
        if name.endswith("bn.weight"):
            torch.nn.init.uniform_(parameter, 0.5, 1.5)
    return module.eval()


def check(kernel: Kernel, *shapes: tuple[int, ...]) -> None:
    builder = GraphBuilder(shapes[0])
    builder.shapes.update({f"input{i}": shape for i, shape in enumerate(shapes[1:])})
    builder._inputs.update({f"input{i}": shape for i, shape in enumerate(shapes[1:])})
    graph = builder.graph(builder.add("node", kernel, *builder._inputs))
    torch.manual_seed(0)
    module = randomise(kernel.module(*shapes))
    tensors = [torch.randn(shape) for shape in shapes]
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        expected = module(*tensors).numpy()
    assert expected.shape == graph.shapes["node"]
    assert counter.get_total_flops() == 2 * graph.macs
    assert sum(p.numel() for p in module.parameters()) == graph.params
    state = {f"node.{key}": value for key, value in module.state_dict().items() if "num_batches" not in key}
    assert {key.removeprefix("node."): tuple(v.shape) for key, v in state.items()} == kernel.weight_shapes(*shapes)
    model = graph.to_onnx(state)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    feeds = {value.name: tensor.numpy() for value, tensor in zip(session.get_inputs(), tensors, strict=True)}
    (actual,) = session.run(None, feeds)
    scale = max(1e-6, float(np.abs(expected).max()))
    assert np.abs(actual - expected).max() / scale < 1e-4
    stored = sum(math.prod(tensor.dims) for tensor in model.graph.initializer if tensor.data_type == 1)
    spare = 2 if "relu6" in kernel.label else 4 if kernel.op == "resize" or "gelu" in kernel.label else 1
    assert graph.size <= 4 * stored <= graph.size + 4 * spare


@settings(max_examples=120, deadline=None)
@given(unary, st.integers(5, 9))
def test_readings_agree(kernel: Kernel, size: int) -> None:
    if isinstance(kernel, Conv) and kernel.d == 2 and kernel.k == 5:
        size = 9
    check(kernel, (1, 4, size, size))


@pytest.mark.parametrize("count", [2, 3])
@pytest.mark.parametrize("act", [None, "relu", "swish"])
def test_add(count: int, act: str | None) -> None:
    check(Add(act=act), *[(1, 4, 6, 6)] * count)


@pytest.mark.parametrize("splits", [1, 2, 4])
def test_split_attention(splits: int) -> None:
    check(SplitAttention(r=3), *[(1, 4, 6, 6)] * splits)
    with pytest.raises(ModelError, match="feature maps of one shape"):
        SplitAttention(r=3).output_shape((1, 4, 6, 6), (1, 5, 6, 6))


def test_one_split_is_squeeze_and_excitation() -> None:
    one, other = SplitAttention(r=3).module((1, 4, 6, 6)), SqueezeExcite(r=3, gate="sigmoid").module((1, 4, 6, 6))
    other.load_state_dict({key.replace("expand0", "expand"): value for key, value in one.state_dict().items()})
    x = torch.randn(2, 4, 6, 6)
    assert torch.allclose(one(x), other(x))


def test_concat_and_linear() -> None:
    check(Concat(), (1, 4, 6, 6), (1, 3, 6, 6))
    check(Concat(axis=2), (1, 4, 6), (1, 4, 3))
    check(Linear(o=7), (1, 12))


@pytest.mark.parametrize("bias", [True, False])
def test_linear_on_tokens(bias: bool) -> None:
    check(Linear(o=7, bias=bias), (1, 5, 12))


@pytest.mark.parametrize("kind", ["add", "sub", "mul", "div", "max", "min"])
def test_arithmetic(kind: str) -> None:
    check(Binary(kind), (1, 4, 6, 6), (1, 4, 6, 6))
    check(Binary(kind), (1, 4, 6, 6), (1, 4, 1, 1))
    check(Binary(kind, const=(4, 1, 1)), (1, 4, 6, 6))
    check(Binary(kind, const=1, first=True), (1, 4))


@pytest.mark.parametrize("kind", ["exp", "erf", "abs", "neg"])
def test_element_wise_functions(kind: str) -> None:
    check(Unary(kind), (1, 4, 6))


def test_attention_and_norms() -> None:
    check(MatMul(), (1, 2, 5, 3), (1, 2, 3, 7))
    check(Softmax(), (1, 2, 5, 5))
    check(LayerNorm(), (1, 5, 12))
    check(Reshape((1, 5, 3, 4)), (1, 5, 12))
    check(Reduce(axes=1, keep=0), (1, 5, 12))


def test_a_signature_reads_back_to_its_kernel() -> None:
    for kernel, shape in [
        (Conv(o=4, p=(0, 0, 1, 1)), (1, 4, 8, 8)),
        (Pool("max", ceil=1), (1, 4, 8, 8)),
        (Binary("div", const=(4, 1, 1)), (1, 4, 8, 8)),
        (Reshape((1, 64, 4)), (1, 4, 8, 8)),
        (Transpose((0, 2, 3, 1)), (1, 4, 8, 8)),
        (Reduce(axes=(2, 3), keep=0), (1, 4, 8, 8)),
        (Unary("sqrt"), (1, 4)),
        (Linear(o=3), (1, 8, 4)),
        (SplitAttention(r=8), (1, 8, 4, 4)),
    ]:
        builder = GraphBuilder(shape)
        (part,) = builder.graph(builder.add("node", kernel, "input")).kernels
        assert kernel_graph(part.signature).nodes[0].kernel == kernel


def test_bytes_count_reads_writes_and_weights() -> None:
    assert Conv(o=8, k=1).bytes((1, 4, 3, 3)) == 4 * (4 * 9 + 8 * 9 + 8 * 4 + 8)
    assert Add().bytes((1, 4, 3, 3), (1, 4, 3, 3)) == 4 * 3 * 36


@pytest.mark.parametrize(
    ("kernel", "shapes"),
    [
        (Conv(o=8, k=7, p=0), [(1, 4, 3, 3)]),
        (Conv(o=8, g=3), [(1, 4, 8, 8)]),
        (Conv(), [(1, 4, 8, 8)]),
        (Add(), [(1, 4, 8, 8), (1, 4, 4, 4)]),
        (Concat(), [(1, 4, 8, 8), (1, 4, 4, 4)]),
        (Slice(0, 9), [(1, 4, 8, 8)]),
        (ChannelShuffle(g=3), [(1, 4, 8, 8)]),
        (Linear(), [(1, 4)]),
        (Pool(k=5, p=0), [(1, 4, 3, 3)]),
        (Concat(axis=2), [(1, 4, 8), (1, 3, 8)]),
        (Binary(), [(1, 4, 8, 8), (1, 3, 8, 8)]),
        (Binary(), [(1, 4, 8, 8)]),
        (MatMul(), [(1, 4, 8), (1, 4, 8)]),
        (GroupNorm(g=3), [(1, 4, 8, 8)]),
        (Resize(o=3), [(1, 4, 8)]),
        (Pad((0, 0, 1, 1)), [(1, 4, 8)]),
        (Reshape((1, 9)), [(1, 8)]),
        (Transpose((0, 2, 1)), [(1, 8)]),
        (Reduce(axes=2), [(1, 8)]),
        (Pick(axis=1, index=8), [(1, 8)]),
        (TransposedConv(o=3, g=2), [(1, 4, 8, 8)]),
    ],
)
def test_shapes_that_do_not_fit_are_refused(kernel: Kernel, shapes: list[tuple[int, ...]]) -> None:
    with pytest.raises(ModelError):
        kernel.output_shape(*shapes)


def test_labels_are_readable_and_tell_kernels_apart() -> None:
    assert Conv(o=40, k=5, s=2, act="relu6").label == "conv(k=5,s=2,act=relu6,o=40)"
    assert Conv(o=40, bn=False, bias=True).label == Conv(o=40).label
    assert Pool("max", k=3, s=2, p=1).label == "maxpool(k=3,s=2,p=1)"


def test_opaque_kernels_are_counted_but_not_built() -> None:
    kernel = Opaque("Einsum", (1, 4), 10, 99)
    assert kernel.macs((1, 4)) == 99
    assert kernel.params((1, 4)) == 10
    with pytest.raises(ModelError, match="Einsum"):
        kernel.module((1, 4))
