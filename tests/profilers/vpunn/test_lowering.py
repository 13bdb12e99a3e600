"""What an NPU does for each kind of kernel."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from hwnas.profilers.vpunn.lowering import DpuStep, Lowering, MoveStep, ShaveStep, Step
from hwnas.profilers.vpunn.platforms import get_platform
from hwnas.profilers.vpunn.tiling import DpuLayer
from hwnas.spaces import get_space, layout_kernels, list_spaces, math_kernels
from hwnas.spaces.kernel import Kernel, Opaque, Shape
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
from hwnas.spaces.split_attention import SplitAttention

IMAGE: Shape = (1, 32, 56, 56)
SIZE = (56, 56, 32)


def lower(kernel: Kernel, *shapes: Shape, key: str = "npu4000", type_: str = "FLOAT16") -> list[Step]:
    return Lowering(get_platform(key), type_).lower(kernel, shapes)


def layer(kernel: Kernel, *shapes: Shape, **options: Any) -> DpuLayer:
    (step,) = lower(kernel, *shapes, **options)
    assert isinstance(step, DpuStep)
    assert step.times == 1
    return step.layer


def test_convolutions() -> None:
    found = layer(Conv(o=48, k=(3, 5), s=(2, 1), act="relu6"), IMAGE)
    assert found == DpuLayer("CONVOLUTION", SIZE, (56, 28, 48), (5, 3), (1, 2), (1, 1, 2, 2))
    first = layer(Conv(o=24, k=3, s=2), (1, 3, 224, 224), type_="UINT8")
    assert first == DpuLayer(
        "CM_CONVOLUTION", (224, 224, 3), (112, 112, 32), (3, 3), (2, 2), (1, 1, 1, 1), type="UINT8"
    )
    assert layer(Conv(o=20, k=1), (1, 24, 7, 7)) == DpuLayer("CONVOLUTION", (7, 7, 32), (7, 7, 32))
    depthwise = DpuLayer("DW_CONVOLUTION", SIZE, SIZE, (5, 5), (1, 1), (2, 2, 2, 2))
    assert layer(DepthwiseConv(k=5), IMAGE) == layer(Conv(o=32, g=32, k=5), IMAGE) == depthwise
    assert lower(Conv(o=96, g=32, k=5), IMAGE) == [DpuStep(depthwise, 3)]
    assert lower(Conv(o=64, g=4, k=3), IMAGE) == [DpuStep(layer(Conv(o=16), (1, 8, 56, 56)), 4)]
    # dilation moves the taps apart, and adds none
    assert layer(Conv(o=32, k=3, d=2), IMAGE) == layer(Conv(o=32, k=3), IMAGE)


def test_an_activation_the_tensor_unit_lacks_runs_on_shave() -> None:
    plain = lower(Conv(o=32, k=3), IMAGE)
    assert lower(Conv(o=32, k=3, act="leakyrelu"), IMAGE) == plain
    assert lower(Conv(o=32, k=3, act="hswish"), IMAGE) == [*plain, ShaveStep("hswish", 32 * 56 * 56)]
    assert lower(Activation("relu"), IMAGE) == lower(Add(), IMAGE, IMAGE)
    assert lower(Activation("gelu"), IMAGE) == [ShaveStep("gelu", 32 * 56 * 56)]


def test_windows_that_the_hardware_lacks() -> None:
    unfolded = lower(Conv(o=32, k=17), IMAGE)
    taps = 17 * 17 * 32
    assert unfolded == [
        MoveStep(56 * 56 * taps * 2),
        DpuStep(DpuLayer("CONVOLUTION", (56, 56, taps), SIZE)),
    ]
    (step,) = lower(DepthwiseConv(k=31), IMAGE)
    assert isinstance(step, DpuStep)
    assert step.layer.kernel == (15, 15)
    assert step.times * 15 * 15 >= 31 * 31 > (step.times - 1) * 15 * 15
    (step,) = lower(Pool(mode="max", k=2, s=16, p=0), IMAGE)
    assert isinstance(step, DpuStep)
    assert step.layer.stride == (8, 8)


def test_means_take_several_steps_over_large_images() -> None:
    def windows(size: int) -> list[tuple[Any, Any, Any]]:
        steps = [step.layer for step in lower(GlobalPool(), (1, 32, size, size)) if isinstance(step, DpuStep)]
        assert {step.operation for step in steps} == {"AVEPOOL"}
        assert steps[-1].output == (1, 1, 32)
        for before, after in pairwise(steps):
            assert before.output == after.input
        return [(step.input[0], step.kernel[0], step.stride[0]) for step in steps]

    assert windows(7) == [(7, 7, 1)]
    assert windows(15) == [(15, 15, 1)]
    assert windows(56) == [(56, 8, 8), (7, 7, 1)]
    assert windows(17) == [(24, 8, 8), (3, 3, 1)]  # a prime, filled up
    assert lower(GlobalPool(), (1, 32, 1, 1)) == []


def test_pooling_sums_and_scales() -> None:
    assert layer(Pool(mode="max", k=3, s=2, p=1), IMAGE) == DpuLayer(
        "MAXPOOL", SIZE, (28, 28, 32), (3, 3), (2, 2), (1, 1, 1, 1)
    )
    assert layer(Pool(mode="avg", k=(2, 3), s=1, p=(0, 1, 1, 2)), IMAGE).padding == (0, 1, 1, 2)
    assert lower(Add(), IMAGE, IMAGE, IMAGE) == [DpuStep(DpuLayer("ELTWISE", SIZE, SIZE), 2)]
    scale = DpuLayer("DW_CONVOLUTION", SIZE, SIZE)
    assert layer(BatchNorm(), IMAGE) == layer(Zero(), IMAGE) == scale
    assert layer(math_kernels.Binary("mul", const=(1, 32, 1, 1)), IMAGE) == scale
    product = math_kernels.Binary("mul")
    assert layer(product, IMAGE, IMAGE, key="npu5010").operation == "ELTWISE_MUL"
    assert lower(product, IMAGE, IMAGE) == [ShaveStep("mul", 32 * 56 * 56)]
    assert lower(math_kernels.Binary("pow"), IMAGE, IMAGE) == [ShaveStep("pow", 32 * 56 * 56)]


def test_matrix_products() -> None:
    assert layer(Linear(o=1000), (1, 1280)) == DpuLayer("CONVOLUTION", (1, 1, 1280), (1, 1, 1008))
    assert layer(Linear(o=64), (1, 196, 48)) == DpuLayer("CONVOLUTION", (49, 4, 48), (49, 4, 64))
    moved, step = lower(math_kernels.MatMul(), (1, 8, 196, 48), (1, 8, 48, 196))
    assert moved == MoveStep(8 * 48 * 196 * 2)
    assert isinstance(step, DpuStep)
    assert step.times == 2  # 8 heads on 6 tiles
    assert (step.layer.divide, step.layer.weight_bytes) == (False, 0)


def test_attention_to_channels() -> None:
    units = [type(step).__name__[0] for step in lower(SqueezeExcite(r=8), IMAGE)]
    assert units == ["D", "D", "D", "D", "S", "S"]  # two steps of a mean, two products, the gate, the factor
    kinds = [step.operator for step in lower(SplitAttention(r=8), IMAGE, IMAGE) if isinstance(step, ShaveStep)]
    assert kinds == ["softmax", "mul"]
    kinds = [step.operator for step in lower(SplitAttention(r=8), IMAGE) if isinstance(step, ShaveStep)]
    assert kinds == ["sigmoid", "mul"]


def test_layouts() -> None:
    pixels = 32 * 56 * 56
    assert lower(layout_kernels.Concat(), IMAGE, IMAGE) == []
    assert lower(layout_kernels.Reshape(to=(1, -1)), IMAGE) == []
    assert lower(layout_kernels.Slice(0, 16), IMAGE) == [MoveStep(pixels)]
    assert lower(layout_kernels.ChannelShuffle(2), IMAGE) == [MoveStep(2 * pixels, 2)]
    assert lower(layout_kernels.ChannelShuffle(2), IMAGE, type_="UINT8") == [MoveStep(pixels, 1)]
    nearest, linear = layout_kernels.Resize(112), layout_kernels.Resize(112, "linear")
    assert layer(nearest, IMAGE).operation == "DW_CONVOLUTION"
    assert lower(linear, IMAGE) == [ShaveStep("resize", 4 * pixels)]


@pytest.mark.parametrize("name", list_spaces())
def test_every_kernel_of_every_space_has_a_rule(name: str) -> None:
    space = get_space(name)
    (architecture,) = space.sample(1, np.random.default_rng(0))
    graph = space.lower(architecture)
    for key in ("npu3700", "npu5010"):
        for node in graph.nodes:
            assert Lowering.knows(node.kernel), node.kernel
            lower(node.kernel, *graph.input_shapes(node), key=key)


def _kinds(cls: type[Kernel]) -> Iterator[type[Kernel]]:
    for kind in cls.__subclasses__():
        if not kind.__name__.startswith("_"):
            yield kind
        yield from _kinds(kind)


def test_only_what_is_opaque_has_no_rule_and_is_bounded() -> None:
    known = [kind for kind in _kinds(Kernel) if kind.__module__.startswith("hwnas.spaces.")]
    without = [kind for kind in known if not Lowering.knows(kind())]
    assert without == [Opaque]
    with_products = Opaque("Einsum", (1, 196, 64), 0, 196 * 64 * 48)
    assert not Lowering.knows(with_products)
    (step,) = lower(with_products, (1, 196, 48))
    assert isinstance(step, DpuStep)
    assert (step.layer.input, step.layer.output) == ((49, 4, 48), (49, 4, 64))
    assert lower(Opaque("Sort", (1, 10)), (1, 100)) == [ShaveStep("unknown", 100)]
