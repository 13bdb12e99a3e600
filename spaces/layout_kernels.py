"""Kernels that move numbers and compute nothing: concatenation, slices, shuffles, changes of shape and of size."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from hwnas.spaces.errors import ModelError
from hwnas.spaces.kernel import Kernel, Shape, Weights, function_module

if TYPE_CHECKING:
    from torch import nn

    from hwnas.spaces.onnx_writer import OnnxWriter

__all__ = ["ChannelShuffle", "Concat", "Pad", "Pick", "Reshape", "Resize", "Slice", "Transpose"]


@dataclass(frozen=True)
class Concat(Kernel):
    """Concatenation along `axis`: the channels unless given."""

    axis: int = 1

    op: ClassVar[str] = "concat"

    def output_shape(self, *inputs: Shape) -> Shape:
        axis = self.axis
        if any(shape[:axis] + shape[axis + 1 :] != inputs[0][:axis] + inputs[0][axis + 1 :] for shape in inputs):
            raise ModelError(f"concat needs equal sizes apart from axis {axis}, not {inputs}")
        return (*inputs[0][:axis], sum(shape[axis] for shape in inputs), *inputs[0][axis + 1 :])

    def module(self, *inputs: Shape) -> nn.Module:
        import torch

        axis = self.axis
        return function_module(lambda *tensors: torch.cat(tensors, dim=axis))

    def emit(self, writer: OnnxWriter, name: str, inputs: list[str], shapes: list[Shape], weights: Weights) -> str:
        return writer.node("Concat", name, inputs, axis=self.axis)


@dataclass(frozen=True)
class Slice(Kernel):
    """Indices `start` to `stop` of `axis`, every `step`-th: channels unless given."""

    start: int = 0
    stop: int = 0
    axis: int = 1
    step: int = 1

    op: ClassVar[str] = "slice"

    def output_shape(self, *inputs: Shape) -> Shape:
        (shape,) = inputs
        if self.axis >= len(shape) or not 0 <= self.start < self.stop <= shape[self.axis]:
            raise ModelError(f"{self.label} does not fit the shape {shape}")
        size = len(range(self.start, self.stop, self.step))
        return (*shape[: self.axis], size, *shape[self.axis + 1 :])

    def module(self, *inputs: Shape) -> nn.Module:
        index = (*[slice(None)] * self.axis, slice(self.start, self.stop, self.step))
        return function_module(lambda tensor: tensor[index])

    def emit(self, writer: OnnxWriter, name: str, inputs: list[str], shapes: list[Shape], weights: Weights) -> str:
        bounds = {"start": self.start, "stop": self.stop, "axis": self.axis}
        if self.step != 1:
            bounds["step"] = self.step
        tensors = [writer.tensor(f"{name}/{part}", np.array([value])) for part, value in bounds.items()]
        return writer.node("Slice", name, [*inputs, *tensors])


@dataclass(frozen=True)
class ChannelShuffle(Kernel):
    """ShuffleNet's channel shuffle: channels in `g` groups are interleaved (arXiv 1707.01083)."""

    g: int = 2

    op: ClassVar[str] = "shuffle"

    def output_shape(self, *inputs: Shape) -> Shape:
        if inputs[0][1] % self.g:
            raise ModelError(f"{self.label} cannot take {inputs[0][1]} channels")
        return inputs[0]

    def module(self, *inputs: Shape) -> nn.Module:
        from torch import nn

        return nn.ChannelShuffle(self.g)

    def emit(self, writer: OnnxWriter, name: str, inputs: list[str], shapes: list[Shape], weights: Weights) -> str:
        _, c, h, w = shapes[0]
        # a 0 copies that axis, so the same nodes serve any batch
        apart = writer.tensor(f"{name}/apart", np.array([0, self.g, c // self.g, h, w], dtype=np.int64))
        together = writer.tensor(f"{name}/together", np.array([0, c, h, w], dtype=np.int64))
        grouped = writer.node("Reshape", f"{name}/group", [*inputs, apart])
        swapped = writer.node("Transpose", name, [grouped], perm=[0, 2, 1, 3, 4])
        return writer.node("Reshape", f"{name}/merge", [swapped, together])


@dataclass(frozen=True)
class Reshape(Kernel):
    """The same numbers as the shape `to`, batch included; runtimes move nothing."""

    to: int | tuple[int, ...] = ()

    op: ClassVar[str] = "reshape"

    @property
    def _shape(self) -> Shape:
        return (self.to,) if isinstance(self.to, int) else self.to

    def output_shape(self, *inputs: Shape) -> Shape:
        shape = self._shape
        if math.prod(shape) != math.prod(inputs[0]):
            raise ModelError(f"{self.label} does not fit the shape {inputs[0]}")
        return shape

    def module(self, *inputs: Shape) -> nn.Module:
        shape = self._shape
        return function_module(lambda x: x.reshape(shape))

    def emit(self, writer: OnnxWriter, name: str, inputs: list[str], shapes: list[Shape], weights: Weights) -> str:
        # a 0 copies that axis, so the same node serves any batch
        to = np.array([0 if self._shape[0] == shapes[0][0] else self._shape[0], *self._shape[1:]])
        return writer.node("Reshape", name, [*inputs, writer.tensor(f"{name}/to", to)])


@dataclass(frozen=True)
class Transpose(Kernel):
    """Axes in the order `perm`."""

    perm: tuple[int, ...] = ()

    op: ClassVar[str] = "transpose"

    def output_shape(self, *inputs: Shape) -> Shape:
        if sorted(self.perm) != list(range(len(inputs[0]))):
            raise ModelError(f"{self.label} does not fit a shape of {len(inputs[0])} axes")
        return tuple(inputs[0][axis] for axis in self.perm)

    def module(self, *inputs: Shape) -> nn.Module:
        perm = self.perm
        return function_module(lambda x: x.permute(perm).contiguous())

    def emit(self, writer: OnnxWriter, name: str, inputs: list[str], shapes: list[Shape], weights: Weights) -> str:
        return writer.node("Transpose", name, inputs, perm=list(self.perm))


@dataclass(frozen=True)
class Pad(Kernel):
    """Zeros around: `pads` says how many before the first index of each axis, then how many after the last."""

    pads: tuple[int, ...] = ()

    op: ClassVar[str] = "pad"

    def output_shape(self, *inputs: Shape) -> Shape:
        shape, rank = inputs[0], len(inputs[0])
        if len(self.pads) != 2 * rank or min(self.pads) < 0:
            raise ModelError(f"{self.label} does not fit a shape of {rank} axes")
        return tuple(size + self.pads[axis] + self.pads[rank + axis] for axis, size in enumerate(shape))

    def module(self, *inputs: Shape) -> nn.Module:
        from torch import nn

        rank = len(inputs[0])
        # torch wants pairs, the last axis first
        pairs = [side for axis in reversed(range(rank)) for side in (self.pads[axis], self.pads[rank + axis])]
        return function_module(lambda x: nn.functional.pad(x, pairs))

    def emit(self, writer: OnnxWriter, name: str, inputs: list[str], shapes: list[Shape], weights: Weights) -> str:
        pads = writer.tensor(f"{name}/pads", np.array(self.pads, np.int64))
        return writer.node("Pad", name, [*inputs, pads])


@dataclass(frozen=True)
class Pick(Kernel):
    """One index of one axis, which is dropped: a class token, or one of query, key and value."""

    axis: int = 1
    index: int = 0

    op: ClassVar[str] = "pick"

    def output_shape(self, *inputs: Shape) -> Shape:
        if self.axis >= len(inputs[0]) or not 0 <= self.index < inputs[0][self.axis]:
            raise ModelError(f"{self.label} does not fit the shape {inputs[0]}")
        return tuple(size for axis, size in enumerate(inputs[0]) if axis != self.axis)

    def module(self, *inputs: Shape) -> nn.Module:
        axis, index = self.axis, self.index
        return function_module(lambda x: x.select(axis, index))

    def emit(self, writer: OnnxWriter, name: str, inputs: list[str], shapes: list[Shape], weights: Weights) -> str:
        index = writer.tensor(f"{name}/index", np.array(self.index))
        return writer.node("Gather", name, [*inputs, index], axis=self.axis)


@dataclass(frozen=True)
class Resize(Kernel):
    """Images resized to `o` pixels, height and width, by ``nearest`` or ``linear`` interpolation."""

    o: int | tuple[int, int] = 0
    mode: str = "nearest"

    op: ClassVar[str] = "resize"

    @property
    def _size(self) -> tuple[int, int]:
        return (self.o, self.o) if isinstance(self.o, int) else self.o

    def output_shape(self, *inputs: Shape) -> Shape:
        if len(inputs[0]) != 4:
            raise ModelError(f"{self.label} takes images, not {inputs[0]}")
        return (*inputs[0][:2], *self._size)

    def module(self, *inputs: Shape) -> nn.Module:
        from torch import nn

        if self.mode == "nearest":
            return nn.Upsample(self._size, mode="nearest")
        return nn.Upsample(self._size, mode="bilinear", align_corners=False)

    def emit(self, writer: OnnxWriter, name: str, inputs: list[str], shapes: list[Shape], weights: Weights) -> str:
        scales = [1.0, 1.0, *(new / old for new, old in zip(self._size, shapes[0][2:], strict=True))]
        factors = writer.tensor(f"{name}/scales", np.array(scales, np.float32))
        nearest = {"coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
        linear = {"coordinate_transformation_mode": "half_pixel"}
        how = nearest if self.mode == "nearest" else linear
        return writer.node("Resize", name, [*inputs, "", factors], mode=self.mode, **how)
