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
    ChannelShuffle,
    Concat,
    Conv,
    DepthwiseConv,
    GlobalPool,
    Linear,
    Pool,
    Slice,
    SqueezeExcite,
    Zero,
)

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
pools = st.builds(
    Pool, mode=st.sampled_from(["avg", "max"]), k=st.just(3), s=st.sampled_from([1, 2]), p=st.sampled_from([0, 1])
)
unary = st.one_of(
    convs,
    depthwise,
    pools,
    st.just(GlobalPool()),
    st.just(ChannelShuffle(g=2)),
    st.builds(Slice, start=st.integers(0, 2), stop=st.integers(3, 4)),
    st.builds(SqueezeExcite, r=st.sampled_from([2, 3]), gate=st.sampled_from(["hsigmoid", "sigmoid"])),
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
    spare = 2 if "relu6" in kernel.label else 4 if "gelu" in kernel.label else 1
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


def test_concat_and_linear() -> None:
    check(Concat(), (1, 4, 6, 6), (1, 3, 6, 6))
    check(Linear(o=7), (1, 12))


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
        (Linear(o=2), [(1, 4, 8, 8)]),
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
