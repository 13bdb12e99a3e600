"""What an NPU does for a kernel: layers of its tensor units, operators on its SHAVE processors, moves of numbers.

Tensor units take convolutions, pooling, sums and matrix products; ReLU and its kin cost nothing behind them. Other
activations, norms and softmax run on SHAVE. What only renames numbers (reshapes, concatenations, which are written in
place) costs nothing. Windows and strides that the hardware does not have are unfolded into 1x1 convolutions.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import singledispatchmethod
from typing import NamedTuple, TypeAlias

from hwnas.profilers.vpunn.platforms import Platform
from hwnas.profilers.vpunn.tiling import DpuLayer, round_up
from hwnas.spaces.kernel import Kernel, Shape
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
from hwnas.spaces.split_attention import SplitAttention

__all__ = ["DpuStep", "Lowering", "MoveStep", "ShaveStep", "Step"]

#: (width, height, channels)
_Size: TypeAlias = tuple[int, int, int]
#: kernel and stride as (width, height), padding as (top, bottom, left, right)
_Window: TypeAlias = tuple[tuple[int, int], tuple[int, int], tuple[int, int, int, int]]

_POINT: _Window = ((1, 1), (1, 1), (0, 0, 0, 0))
#: the tensor unit applies these to what it has computed
_FREE = frozenset({None, "relu", "relu6", "leakyrelu"})
#: arithmetic of two operands that takes as long as a product
_LIKE_PRODUCTS = frozenset({"add", "sub", "mul", "max", "min"})
#: channels are filled up to a multiple; a first convolution of so few is done without
_CHANNELS, _FEW = 16, 4
#: the largest that the hardware has
_KERNEL, _STRIDE = 15, 8


class DpuStep(NamedTuple):
    """A layer of the tensor units, so many times in a row."""

    layer: DpuLayer
    times: int = 1


class ShaveStep(NamedTuple):
    """An operator with so many outputs on the SHAVE processors."""

    operator: str
    elements: int


class MoveStep(NamedTuple):
    """Bytes moved within the tiles; `piece` is how many lie together, None if all do."""

    size: int
    piece: int | None = None


Step: TypeAlias = DpuStep | ShaveStep | MoveStep


class Lowering:
    """Turns kernels into what one NPU does for them.

    Parameters
    ----------
    platform
        The NPU.
    type_
        Of activations and weights: ``FLOAT16`` or ``UINT8``.
    """

    def __init__(self, platform: Platform, type_: str = "FLOAT16") -> None:
        self.platform, self.type = platform, type_
        self._bytes = 1 if type_ == "UINT8" else 2

    def lower(self, kernel: Kernel, shapes: Sequence[Shape]) -> list[Step]:
        """What the NPU does for a kernel on inputs of `shapes`; what is not known is bounded, see `knows`."""
        return self._rule(kernel, shapes)

    @staticmethod
    def knows(kernel: Kernel) -> bool:
        """Whether there is a rule for the kernel, so that what it costs is more than a guess from its size."""
        dispatch = Lowering.__dict__["_rule"].dispatcher.dispatch
        return dispatch(type(kernel)) is not dispatch(object)

    @singledispatchmethod
    def _rule(self, kernel: Kernel, shapes: Sequence[Shape]) -> list[Step]:
        """What has no rule: a 1x1 convolution with as many products, or else one pass of SHAVE over its numbers."""
        output, macs = kernel.output_shape(*shapes), kernel.macs(*shapes)
        elements = math.prod(output)
        if macs and elements:
            channels = _size(output)[2]
            return [self._product(max(1, elements // channels), max(1, macs // elements), channels)]
        return [ShaveStep("unknown", max([elements, *map(math.prod, shapes)]))]

    # ------------------------------------------------------------------ layers of the tensor units

    def _layer(self, operation: str, given: _Size, output: _Size, window: _Window = _POINT) -> DpuStep:
        few = operation == "CM_CONVOLUTION"
        return DpuStep(DpuLayer(operation, given if few else _filled(given), _filled(output), *window, self.type))

    def _product(self, rows: int, inputs: int, outputs: int) -> DpuStep:
        """A matrix product of `rows` rows."""
        return self._layer("CONVOLUTION", (*_plane(rows), inputs), (*_plane(rows), outputs))

    def _by_channel(self, operation: str, given: _Size, output: _Size, window: _Window = _POINT) -> DpuStep:
        """A depthwise convolution or pooling; larger windows than there are go over the image several times."""
        kernel, stride, padding = window
        kernel = (min(kernel[0], _KERNEL), min(kernel[1], _KERNEL))
        stride = (min(stride[0], _STRIDE), min(stride[1], _STRIDE))
        step = self._layer(operation, given, output, (kernel, stride, padding))
        return step._replace(times=-(-math.prod(window[0]) // math.prod(kernel)))

    def _sum(self, shape: Shape, operation: str = "ELTWISE") -> DpuStep:
        return self._layer(operation, _size(shape), _size(shape))

    def _scale(self, shape: Shape) -> DpuStep:
        """A factor and a shift for each channel."""
        return self._by_channel("DW_CONVOLUTION", _size(shape), _size(shape))

    def _mean(self, shape: Shape) -> list[Step]:
        """The mean of each channel, in several steps where the window would be too large."""
        width, height, channels = _size(shape)
        steps: list[Step] = []
        while width > 1 or height > 1:
            kernel = (_mean_window(width), _mean_window(height))
            # a window over everything needs no stride
            stride = (1 if kernel[0] == width else kernel[0], 1 if kernel[1] == height else kernel[1])
            given = (-(-width // kernel[0]) * kernel[0], -(-height // kernel[1]) * kernel[1], channels)
            width, height = given[0] // kernel[0], given[1] // kernel[1]
            steps.append(self._by_channel("AVEPOOL", given, (width, height, channels), (kernel, stride, (0, 0, 0, 0))))
        return steps

    def _convolve(self, given: _Size, output: _Size, window: _Window) -> list[Step]:
        """A dense convolution."""
        kernel, stride, _ = window
        if max(kernel) > _KERNEL or max(stride) > _STRIDE:
            taps = given[2] * math.prod(kernel)
            unfolded = (output[0], output[1], taps)
            return [MoveStep(math.prod(unfolded) * self._bytes), self._layer("CONVOLUTION", unfolded, output)]
        return [self._layer("CM_CONVOLUTION" if given[2] <= _FEW else "CONVOLUTION", given, output, window)]

    def _grouped(self, given: _Size, output: _Size, window: _Window, groups: int) -> list[Step]:
        """One dense convolution a group; the way for few channels is only that of a first layer."""
        given = (given[0], given[1], max(given[2] // groups, _FEW + 1))
        steps = self._convolve(given, (output[0], output[1], output[2] // groups), window)
        return [step._replace(times=groups) if isinstance(step, DpuStep) else step for step in steps]

    @_rule.register
    def _(self, kernel: Conv, shapes: Sequence[Shape]) -> list[Step]:
        result = kernel.output_shape(*shapes)
        given, output, window = _size(shapes[0]), _size(result), _window(kernel)
        if kernel.g == 1:
            steps = self._convolve(given, output, window)
        elif kernel.g == shapes[0][1]:  # several filters a channel
            one = self._by_channel("DW_CONVOLUTION", given, (output[0], output[1], given[2]), window)
            steps = [one._replace(times=one.times * (output[2] // given[2]))]
        else:
            steps = self._grouped(given, output, window, kernel.g)
        return [*steps, *_act(kernel.act, math.prod(result))]

    @_rule.register
    def _(self, kernel: DepthwiseConv, shapes: Sequence[Shape]) -> list[Step]:
        result = kernel.output_shape(*shapes)
        step = self._by_channel("DW_CONVOLUTION", _size(shapes[0]), _size(result), _window(kernel))
        return [step, *_act(kernel.act, math.prod(result))]

    @_rule.register
    def _(self, kernel: TransposedConv, shapes: Sequence[Shape]) -> list[Step]:
        # a convolution over the input with zeros between its pixels
        output = _size(kernel.output_shape(*shapes))
        before, after = kernel.k // 2, (kernel.k - 1) // 2
        window = ((kernel.k, kernel.k), (1, 1), (before, after, before, after))
        return self._grouped((output[0], output[1], shapes[0][1]), output, window, kernel.g)

    @_rule.register
    def _(self, kernel: Linear, shapes: Sequence[Shape]) -> list[Step]:
        return [self._product(math.prod(shapes[0][:-1]), shapes[0][-1], kernel.o)]

    @_rule.register
    def _(self, kernel: MatMul, shapes: Sequence[Shape]) -> list[Step]:
        output = kernel.output_shape(*shapes)
        one, count = self._product(output[-2], shapes[0][-1], output[-1]), math.prod(output[:-2])
        if count > 1:  # each tile takes whole products
            one = DpuStep(one.layer._replace(divide=False), -(-count // self.platform.tiles))
        # the second operand is laid out like weights first, and is not brought from memory
        return [MoveStep(math.prod(shapes[1]) * self._bytes), one._replace(layer=one.layer._replace(stored=False))]

    @_rule.register
    def _(self, kernel: Pool, shapes: Sequence[Shape]) -> list[Step]:
        (rows, columns), (down, right) = _pair(kernel.k), _pair(kernel.s)
        sides = kernel.p if isinstance(kernel.p, tuple) and len(kernel.p) == 4 else _pair(kernel.p) * 2
        window = ((columns, rows), (right, down), (sides[0], sides[2], sides[1], sides[3]))
        operation = "AVEPOOL" if kernel.mode == "avg" else "MAXPOOL"
        return [self._by_channel(operation, _size(shapes[0]), _size(kernel.output_shape(*shapes)), window)]

    @_rule.register
    def _(self, kernel: GlobalPool, shapes: Sequence[Shape]) -> list[Step]:
        return self._mean(shapes[0])

    @_rule.register
    def _(self, kernel: Reduce, shapes: Sequence[Shape]) -> list[Step]:
        axes = (kernel.axes,) if isinstance(kernel.axes, int) else kernel.axes
        if kernel.kind == "mean" and len(shapes[0]) == 4 and set(axes) == {2, 3}:
            return self._mean(shapes[0])
        return [ShaveStep("reduce", math.prod(shapes[0]))]

    @_rule.register
    def _(self, kernel: Add, shapes: Sequence[Shape]) -> list[Step]:
        sums = [self._sum(shapes[0])._replace(times=len(shapes) - 1)] if len(shapes) > 1 else []
        return [*sums, *_act(kernel.act, math.prod(shapes[0]))]

    @_rule.register
    def _(self, kernel: Activation, shapes: Sequence[Shape]) -> list[Step]:
        return [self._sum(shapes[0])] if kernel.act in _FREE else _act(kernel.act, math.prod(shapes[0]))

    @_rule.register
    def _(self, kernel: BatchNorm, shapes: Sequence[Shape]) -> list[Step]:
        return [self._scale(shapes[0]), *_act(kernel.act, math.prod(shapes[0]))]

    @_rule.register
    def _(self, kernel: Zero, shapes: Sequence[Shape]) -> list[Step]:
        return [self._scale(shapes[0])]

    @_rule.register
    def _(self, kernel: Binary, shapes: Sequence[Shape]) -> list[Step]:
        output = kernel.output_shape(*shapes)
        if kernel.const is None and all(shape == output for shape in shapes):
            if kernel.kind in ("add", "sub"):
                return [self._sum(output)]
            if kernel.kind == "mul" and "ELTWISE_MUL" in self.platform.modes:
                return [self._sum(output, "ELTWISE_MUL")]
        stored = kernel.weight_shapes(*shapes).get("operand")
        if stored and math.prod(stored) in (1, _size(output)[2]) and kernel.kind in ("add", "sub", "mul", "div"):
            return [self._scale(output)]
        return [ShaveStep("mul" if kernel.kind in _LIKE_PRODUCTS else kernel.kind, math.prod(output))]

    @_rule.register
    def _(self, kernel: SqueezeExcite, shapes: Sequence[Shape]) -> list[Step]:
        channels = shapes[0][1]
        return [
            *self._mean(shapes[0]),
            self._product(1, channels, kernel.r),
            *_act(kernel.act, kernel.r),
            self._product(1, kernel.r, channels),
            *_act(kernel.gate, channels),
            ShaveStep("mul", math.prod(shapes[0])),
        ]

    @_rule.register
    def _(self, kernel: SplitAttention, shapes: Sequence[Shape]) -> list[Step]:
        count, channels = len(shapes), shapes[0][1]
        # before the mean, and of the weighed maps
        sums = [self._sum(shapes[0])._replace(times=2 * (count - 1))] if count > 1 else []
        return [
            *sums,
            *self._mean(shapes[0]),
            self._product(1, channels, kernel.r),
            self._product(1, kernel.r, count * channels),
            ShaveStep("softmax" if count > 1 else "sigmoid", count * channels),
            ShaveStep("mul", count * math.prod(shapes[0])),
        ]

    # ------------------------------------------------------------------ SHAVE, and moves

    @_rule.register
    def _(self, kernel: Unary, shapes: Sequence[Shape]) -> list[Step]:
        return [ShaveStep(kernel.kind, math.prod(shapes[0]))]

    @_rule.register(Softmax)
    @_rule.register(LayerNorm)
    @_rule.register(GroupNorm)
    def _(self, kernel: Kernel, shapes: Sequence[Shape]) -> list[Step]:
        return [ShaveStep(kernel.op, math.prod(shapes[0]))]

    @_rule.register
    def _(self, kernel: Resize, shapes: Sequence[Shape]) -> list[Step]:
        output = kernel.output_shape(*shapes)
        if kernel.mode == "nearest":  # each pixel is read where it is wanted
            return [self._scale(output)]
        return [ShaveStep("resize", math.prod(output))]

    @_rule.register(Reshape)
    @_rule.register(Concat)
    def _(self, kernel: Kernel, shapes: Sequence[Shape]) -> list[Step]:
        return []

    @_rule.register(Slice)
    @_rule.register(Pick)
    @_rule.register(Pad)
    def _(self, kernel: Kernel, shapes: Sequence[Shape]) -> list[Step]:
        return [MoveStep(math.prod(kernel.output_shape(*shapes)) * self._bytes)]

    @_rule.register(ChannelShuffle)
    @_rule.register(Transpose)
    def _(self, kernel: Kernel, shapes: Sequence[Shape]) -> list[Step]:
        return [MoveStep(math.prod(shapes[0]) * self._bytes, self._bytes)]


def _size(shape: Shape) -> _Size:
    """Width, height and channels of a tensor with the batch in front."""
    if len(shape) < 3:
        return (1, 1, math.prod(shape))
    if len(shape) == 3:
        return (*_plane(shape[0] * shape[1]), shape[2])
    return (shape[-1], math.prod(shape[2:-1]) * shape[0], shape[1])


def _plane(rows: int) -> tuple[int, int]:
    """So many rows of a matrix as width and height: four high where that can be, as Intel's compiler lays them."""
    return (rows // 4, 4) if rows % 4 == 0 else (rows, 1)


def _filled(size: _Size) -> _Size:
    return (size[0], size[1], round_up(size[2], _CHANNELS))


def _pair(value: int | tuple[int, int]) -> tuple[int, int]:
    """(height, width), as kernels have it."""
    return (value, value) if isinstance(value, int) else (value[0], value[1])


def _act(name: str | None, elements: int) -> list[Step]:
    return [] if name in _FREE else [ShaveStep(str(name), elements)]


def _mean_window(length: int) -> int:
    if length <= _KERNEL:
        return length
    return next((window for window in range(_STRIDE, 1, -1) if length % window == 0), _STRIDE)


def _window(kernel: Conv | DepthwiseConv) -> _Window:
    (rows, columns), (down, right) = _pair(kernel.k), _pair(kernel.s)
    top, left, bottom, after = kernel.padding
    if kernel.d > 1:  # as costly as without, where only the padding is other
        top, bottom, left, after = rows // 2, (rows - 1) // 2, columns // 2, (columns - 1) // 2
    return (columns, rows), (right, down), (top, bottom, left, after)
