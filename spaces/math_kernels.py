"""Arithmetic, products and norms that no search space is built of, but that ONNX files from elsewhere hold.

Shapes may have any rank, with the batch axis in front.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from hwnas.spaces.errors import ModelError
from hwnas.spaces.kernel import Kernel, Shape, Weights, function_module

if TYPE_CHECKING:
    from torch import nn

    from hwnas.spaces.onnx_writer import OnnxWriter

__all__ = [
    "Binary",
    "GroupNorm",
    "LayerNorm",
    "MatMul",
    "Reduce",
    "Softmax",
    "TransposedConv",
    "Unary",
]

BINARY = {"add": "Add", "sub": "Sub", "mul": "Mul", "div": "Div", "max": "Max", "min": "Min", "pow": "Pow"}
UNARY = {
    "exp": "Exp",
    "sqrt": "Sqrt",
    "erf": "Erf",
    "abs": "Abs",
    "neg": "Neg",
    "log": "Log",
    "reciprocal": "Reciprocal",
}
REDUCE = {"mean": "ReduceMean", "max": "ReduceMax"}
NORM_EPS = 1e-5


def _broadcast(label: str, first: Shape, second: Shape) -> Shape:
    try:
        return tuple(int(size) for size in np.broadcast_shapes(first, second))
    except ValueError:
        raise ModelError(f"{label} cannot take shapes {first} and {second}") from None


def _as_tuple(value: int | tuple[int, ...]) -> tuple[int, ...]:
    return (value,) if isinstance(value, int) else value


@dataclass(frozen=True)
class Binary(Kernel):
    """Element-wise arithmetic of two tensors that broadcast, or of one and a stored one.

    Attributes
    ----------
    kind
        ``add``, ``sub``, ``mul``, ``div``, ``max``, ``min`` or ``pow``.
    const
        Shape of the stored operand; None if both are computed. A single number has the shape ``(1,)``.
    first
        Whether the stored operand is the first.
    """

    kind: str = "mul"
    const: int | tuple[int, ...] | None = None
    first: bool = False

    op: ClassVar[str] = "binary"
    hidden: ClassVar[frozenset[str]] = frozenset({"first"})

    @property
    def label(self) -> str:
        const = "" if self.const is None else f",const={'x'.join(map(str, _as_tuple(self.const)))}"
        return f"{self.op}(kind={self.kind}{const})"

    def output_shape(self, *inputs: Shape) -> Shape:
        if self.kind not in BINARY or len(inputs) != (2 if self.const is None else 1):
            raise ModelError(f"{self.label} cannot take {len(inputs)} inputs")
        other = inputs[1] if self.const is None else _as_tuple(self.const)
        return _broadcast(self.label, inputs[0], other)

    def weight_shapes(self, *inputs: Shape) -> dict[str, Shape]:
        return {} if self.const is None else {"operand": _as_tuple(self.const)}

    def module(self, *inputs: Shape) -> nn.Module:
        import torch

        functions: dict[str, Callable[..., Any]] = {
            "add": torch.add,
            "sub": torch.sub,
            "mul": torch.mul,
            "div": torch.div,
            "max": torch.maximum,
            "min": torch.minimum,
            "pow": torch.pow,
        }
        function = functions[self.kind]
        if self.const is None:
            return function_module(function)
        operand = torch.ones(_as_tuple(self.const))
        return function_module((lambda x, c: function(c, x)) if self.first else function, operand=operand)

    def emit(self, writer: OnnxWriter, name: str, inputs: list[str], shapes: list[Shape], weights: Weights) -> str:
        operands = list(inputs)
        if self.const is not None:
            operands.insert(0 if self.first else 1, writer.tensor(f"{name}/operand", weights["operand"]))
        return writer.node(BINARY[self.kind], name, operands)


@dataclass(frozen=True)
class Unary(Kernel):
    """An element-wise function that is no activation: ``exp``, ``sqrt``, ``erf``, ``abs``, ..."""

    kind: str = "exp"

    op: ClassVar[str] = "unary"

    @property
    def label(self) -> str:
        return f"{self.op}(kind={self.kind})"

    def output_shape(self, *inputs: Shape) -> Shape:
        return inputs[0]

    def module(self, *inputs: Shape) -> nn.Module:
        import torch

        return function_module(getattr(torch, self.kind))

    def emit(self, writer: OnnxWriter, name: str, inputs: list[str], shapes: list[Shape], weights: Weights) -> str:
        return writer.node(UNARY[self.kind], name, inputs)


@dataclass(frozen=True)
class MatMul(Kernel):
    """Matrix product of two computed tensors over their last two axes, the others broadcast (attention)."""

    op: ClassVar[str] = "matmul"

    def output_shape(self, *inputs: Shape) -> Shape:
        if len(inputs) != 2 or min(map(len, inputs)) < 2 or inputs[0][-1] != inputs[1][-2]:
            raise ModelError(f"matmul cannot take {inputs}")
        return (*_broadcast(self.label, inputs[0][:-2], inputs[1][:-2]), inputs[0][-2], inputs[1][-1])

    def macs(self, *inputs: Shape) -> int:
        return math.prod(self.output_shape(*inputs)) * inputs[0][-1]

    def module(self, *inputs: Shape) -> nn.Module:
        import torch

        return function_module(torch.matmul)

    def emit(self, writer: OnnxWriter, name: str, inputs: list[str], shapes: list[Shape], weights: Weights) -> str:
        return writer.node("MatMul", name, inputs)


@dataclass(frozen=True)
class Softmax(Kernel):
    """Softmax over the last axis."""

    op: ClassVar[str] = "softmax"

    def output_shape(self, *inputs: Shape) -> Shape:
        return inputs[0]

    def module(self, *inputs: Shape) -> nn.Module:
        from torch import nn

        return nn.Softmax(dim=-1)

    def emit(self, writer: OnnxWriter, name: str, inputs: list[str], shapes: list[Shape], weights: Weights) -> str:
        return writer.node("Softmax", name, inputs, axis=-1)


@dataclass(frozen=True)
class LayerNorm(Kernel):
    """Normalisation over the last axis, with scale and shift (arXiv 1607.06450)."""

    op: ClassVar[str] = "layernorm"

    def output_shape(self, *inputs: Shape) -> Shape:
        return inputs[0]

    def weight_shapes(self, *inputs: Shape) -> dict[str, Shape]:
        return {f"norm.{name}": (inputs[0][-1],) for name in ("weight", "bias")}

    def module(self, *inputs: Shape) -> nn.Module:
        from collections import OrderedDict

        from torch import nn

        return nn.Sequential(OrderedDict(norm=nn.LayerNorm(inputs[0][-1], eps=NORM_EPS)))

    def emit(self, writer: OnnxWriter, name: str, inputs: list[str], shapes: list[Shape], weights: Weights) -> str:
        tensors = [writer.tensor(f"{name}/{part}", weights[f"norm.{part}"]) for part in ("weight", "bias")]
        return writer.node("LayerNormalization", name, [*inputs, *tensors], axis=-1, epsilon=NORM_EPS)


@dataclass(frozen=True)
class GroupNorm(Kernel):
    """Normalisation of channels in `g` groups, with scale and shift (arXiv 1803.08494)."""

    g: int = 1

    op: ClassVar[str] = "groupnorm"

    def output_shape(self, *inputs: Shape) -> Shape:
        if inputs[0][1] % self.g:
            raise ModelError(f"{self.label} cannot take {inputs[0][1]} channels")
        return inputs[0]

    def weight_shapes(self, *inputs: Shape) -> dict[str, Shape]:
        return {f"norm.{name}": (inputs[0][1],) for name in ("weight", "bias")}

    def deployed_params(self, *inputs: Shape) -> int:
        return self.params(*inputs) + 2 * self.g

    def module(self, *inputs: Shape) -> nn.Module:
        from collections import OrderedDict

        from torch import nn

        return nn.Sequential(OrderedDict(norm=nn.GroupNorm(self.g, inputs[0][1], eps=NORM_EPS)))

    def emit(self, writer: OnnxWriter, name: str, inputs: list[str], shapes: list[Shape], weights: Weights) -> str:
        # opset 17 has no GroupNormalization: an instance norm of each group, as torch exports it
        channels = shapes[0][1]
        column = (channels, *([1] * (len(shapes[0]) - 2)))
        ones = writer.tensor(f"{name}/ones", np.ones(self.g, np.float32))
        zeros = writer.tensor(f"{name}/zeros", np.zeros(self.g, np.float32))
        apart = writer.tensor(f"{name}/apart", np.array([0, self.g, -1]))
        whole = writer.tensor(f"{name}/whole", np.array([0, *shapes[0][1:]]))
        value = writer.node("Reshape", f"{name}/grouped", [*inputs, apart])
        value = writer.node("InstanceNormalization", name, [value, ones, zeros], epsilon=NORM_EPS)
        value = writer.node("Reshape", f"{name}/merged", [value, whole])
        scale = writer.tensor(f"{name}/weight", weights["norm.weight"].reshape(column))
        shift = writer.tensor(f"{name}/bias", weights["norm.bias"].reshape(column))
        value = writer.node("Mul", f"{name}/scaled", [value, scale])
        return writer.node("Add", f"{name}/shifted", [value, shift])


@dataclass(frozen=True)
class Reduce(Kernel):
    """Mean or maximum over `axes`, which are kept with size 1 or dropped."""

    kind: str = "mean"
    axes: int | tuple[int, ...] = ()
    keep: int = 1

    op: ClassVar[str] = "reduce"

    @property
    def label(self) -> str:
        axes = "x".join(map(str, _as_tuple(self.axes)))
        return f"{self.op}(kind={self.kind},axes={axes}{'' if self.keep else ',keep=0'})"

    def output_shape(self, *inputs: Shape) -> Shape:
        axes = _as_tuple(self.axes)
        if not axes or not set(axes) <= set(range(1, len(inputs[0]))):
            raise ModelError(f"{self.label} does not fit the shape {inputs[0]}")
        sizes = [1 if axis in axes else size for axis, size in enumerate(inputs[0])]
        return tuple(size for axis, size in enumerate(sizes) if self.keep or axis not in axes)

    def module(self, *inputs: Shape) -> nn.Module:
        axes, keep = list(_as_tuple(self.axes)), bool(self.keep)
        if self.kind == "max":
            return function_module(lambda x: x.amax(axes, keep))
        return function_module(lambda x: x.mean(axes, keep))

    def emit(self, writer: OnnxWriter, name: str, inputs: list[str], shapes: list[Shape], weights: Weights) -> str:
        return writer.node(REDUCE[self.kind], name, inputs, axes=list(_as_tuple(self.axes)), keepdims=self.keep)


@dataclass(frozen=True)
class TransposedConv(Kernel):
    """Transposed convolution to `o` channels with bias: window `k`, stride `s`, padding `p`, `g` groups."""

    o: int = 0
    k: int = 2
    s: int = 2
    p: int = 0
    g: int = 1

    op: ClassVar[str] = "deconv"

    def output_shape(self, *inputs: Shape) -> Shape:
        n, c, h, w = inputs[0]
        if self.o < 1 or c % self.g or self.o % self.g:
            raise ModelError(f"{self.label} cannot take {c} channels")
        height, width = ((size - 1) * self.s - 2 * self.p + self.k for size in (h, w))
        return (n, self.o, height, width)

    def macs(self, *inputs: Shape) -> int:
        _, c, h, w = inputs[0]
        return h * w * c * (self.o // self.g) * self.k**2

    def weight_shapes(self, *inputs: Shape) -> dict[str, Shape]:
        return {"weight": (inputs[0][1], self.o // self.g, self.k, self.k), "bias": (self.o,)}

    def module(self, *inputs: Shape) -> nn.Module:
        from torch import nn

        return nn.ConvTranspose2d(inputs[0][1], self.o, self.k, self.s, self.p, groups=self.g)

    def emit(self, writer: OnnxWriter, name: str, inputs: list[str], shapes: list[Shape], weights: Weights) -> str:
        tensors = [writer.tensor(f"{name}/{part}", weights[part]) for part in ("weight", "bias")]
        window = {"kernel_shape": [self.k] * 2, "strides": [self.s] * 2, "pads": [self.p] * 4, "group": self.g}
        return writer.node("ConvTranspose", name, [*inputs, *tensors], **window)
