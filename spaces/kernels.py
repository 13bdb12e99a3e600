"""The kernels that the spaces are built of; `hwnas.spaces.kernel` says what a kernel is."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, TypeAlias

import numpy as np

from hwnas.spaces.errors import ModelError
from hwnas.spaces.kernel import Kernel, Shape, Weights, activation_module, sequential

if TYPE_CHECKING:
    from torch import nn

    from hwnas.spaces.onnx_writer import OnnxWriter

__all__ = [
    "Activation",
    "Add",
    "BatchNorm",
    "Conv",
    "DepthwiseConv",
    "GlobalPool",
    "Linear",
    "Pool",
    "SqueezeExcite",
    "Zero",
]

BN_EPS = 1e-5


def _pair(value: int | tuple[int, int]) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else value


#: padding: the same on all sides, height and width, or top, left, bottom and right
Padding: TypeAlias = int | tuple[int, int] | tuple[int, int, int, int]


def _sides(padding: Padding) -> tuple[int, int, int, int]:
    """Top, left, bottom, right."""
    if isinstance(padding, tuple) and len(padding) == 4:
        return padding
    ph, pw = _pair(padding)
    return ph, pw, ph, pw


def _spatial(size: int, k: int, s: int, p: int, d: int = 1) -> int:
    """Windows that fit on `size` pixels and `p` pixels of padding, both sides together."""
    return (size + p - d * (k - 1) - 1) // s + 1


@dataclass(frozen=True)
class _ConvBase(Kernel):
    """What plain and depthwise convolutions share: window, BatchNorm, activation."""

    k: int | tuple[int, int] = 3
    s: int | tuple[int, int] = 1
    act: str | None = None
    d: int = 1
    p: Padding | None = None
    bn: bool = True
    bias: bool = False

    hidden: ClassVar[frozenset[str]] = frozenset({"bn", "bias"})

    def _channels(self, inputs: tuple[Shape, ...]) -> tuple[int, int, int]:
        """Input channels, output channels, groups."""
        raise TypeError("a subclass says its channels")

    @property
    def padding(self) -> tuple[int, int, int, int]:
        """Padding at the top, left, bottom and right; "same" at stride 1 unless given."""
        if self.p is not None:
            return _sides(self.p)
        kh, kw = _pair(self.k)
        return _sides((self.d * (kh // 2), self.d * (kw // 2)))

    def output_shape(self, *inputs: Shape) -> Shape:
        if len(inputs) != 1 or len(inputs[0]) != 4:
            raise ModelError(f"{self.label} takes one 4-dimensional input, not {inputs}")
        (kh, kw), (sh, sw), (top, left, bottom, right) = _pair(self.k), _pair(self.s), self.padding
        _, out, _ = self._channels(inputs)
        n, _, h, w = inputs[0]
        height, width = _spatial(h, kh, sh, top + bottom, self.d), _spatial(w, kw, sw, left + right, self.d)
        if min(height, width) < 1:
            raise ModelError(f"{self.label} does not fit on an input of {h}x{w}")
        return (n, out, height, width)

    def macs(self, *inputs: Shape) -> int:
        into, out, groups = self._channels(inputs)
        _, _, h, w = self.output_shape(*inputs)
        return h * w * out * (into // groups) * math.prod(_pair(self.k))

    def weight_shapes(self, *inputs: Shape) -> dict[str, Shape]:
        into, out, groups = self._channels(inputs)
        shapes: dict[str, Shape] = {"conv.weight": (out, into // groups, *_pair(self.k))}
        if self.bias:
            shapes["conv.bias"] = (out,)
        if self.bn:
            shapes |= {f"bn.{name}": (out,) for name in ("weight", "bias", "running_mean", "running_var")}
        return shapes

    def deployed_params(self, *inputs: Shape) -> int:
        into, out, groups = self._channels(inputs)
        return out * (into // groups) * math.prod(_pair(self.k)) + (out if self.bn or self.bias else 0)

    def module(self, *inputs: Shape) -> nn.Module:
        from torch import nn

        into, out, groups = self._channels(inputs)
        top, left, bottom, right = self.padding
        even = (top, left) == (bottom, right)
        conv = nn.Conv2d(
            into, out, _pair(self.k), _pair(self.s), (top, left) if even else 0, self.d, groups, bias=self.bias
        )
        parts: list[tuple[str, nn.Module]] = [("conv", conv)]
        if not even:
            parts.insert(0, ("pad", nn.ZeroPad2d((left, right, top, bottom))))
        if self.bn:
            parts.append(("bn", nn.BatchNorm2d(out, eps=BN_EPS)))
        return sequential(*parts, *activation_module(self.act))

    def emit(self, writer: OnnxWriter, name: str, inputs: list[str], shapes: list[Shape], weights: Weights) -> str:
        _, _, groups = self._channels(tuple(shapes))
        kernel = weights["conv.weight"]
        bias = weights.get("conv.bias")
        if self.bn:
            kernel, bias = _fold(kernel, bias, weights)
        tensors = [writer.tensor(f"{name}/weight", kernel)]
        if bias is not None:
            tensors.append(writer.tensor(f"{name}/bias", bias))
        output = writer.node(
            "Conv",
            name,
            [*inputs, *tensors],
            kernel_shape=list(_pair(self.k)),
            strides=list(_pair(self.s)),
            pads=list(self.padding),
            dilations=[self.d, self.d],
            group=groups,
        )
        return writer.activation(self.act, name, output)


def _fold(kernel: np.ndarray, bias: np.ndarray | None, weights: Weights) -> tuple[np.ndarray, np.ndarray]:
    """Fold ``gamma * (conv(x) - mean) / sqrt(var + eps) + beta`` into the convolution."""
    scale = weights["bn.weight"] / np.sqrt(weights["bn.running_var"] + np.float32(BN_EPS))
    shift = weights["bn.bias"] - weights["bn.running_mean"] * scale
    folded = kernel * scale.reshape(-1, *([1] * (kernel.ndim - 1)))
    return folded, shift if bias is None else shift + bias * scale


@dataclass(frozen=True)
class Conv(_ConvBase):
    """Convolution to `o` channels, window `k`, stride `s`, `g` groups, then BatchNorm and activation."""

    o: int = 0
    g: int = 1

    op: ClassVar[str] = "conv"

    def _channels(self, inputs: tuple[Shape, ...]) -> tuple[int, int, int]:
        into = inputs[0][1]
        if self.o < 1 or into % self.g or self.o % self.g:
            raise ModelError(f"{self.label} cannot take {into} channels")
        return into, self.o, self.g


@dataclass(frozen=True)
class DepthwiseConv(_ConvBase):
    """Depthwise convolution: one filter a channel, then BatchNorm and activation."""

    op: ClassVar[str] = "dwconv"

    def _channels(self, inputs: tuple[Shape, ...]) -> tuple[int, int, int]:
        channels = inputs[0][1]
        return channels, channels, channels


@dataclass(frozen=True)
class Pool(Kernel):
    """Average or maximum pooling.

    Attributes
    ----------
    mode, k, s, p
        ``avg`` or ``max``, window, stride and padding.
    ceil
        1 if a last window may reach over the edge.
    include
        1 if averages count the padding.
    """

    mode: str = "avg"
    k: int | tuple[int, int] = 3
    s: int | tuple[int, int] = 1
    p: Padding = 1
    ceil: int = 0
    include: int = 0

    op: ClassVar[str] = "pool"

    @property
    def label(self) -> str:
        more = "".join(f",{name}=1" for name in ("ceil", "include") if getattr(self, name))
        return f"{self.mode}pool(k={_text(self.k)},s={_text(self.s)},p={_text(self.p)}{more})"

    def output_shape(self, *inputs: Shape) -> Shape:
        n, c, h, w = inputs[0]
        (kh, kw), (sh, sw), (top, left, bottom, right) = _pair(self.k), _pair(self.s), _sides(self.p)
        return (n, c, self._windows(h, kh, sh, top, bottom), self._windows(w, kw, sw, left, right))

    def _windows(self, size: int, k: int, s: int, before: int, after: int) -> int:
        count = _spatial(size, k, s, before + after + (s - 1 if self.ceil else 0))
        if self.ceil and (count - 1) * s >= size + before:  # a window that begins behind the image does not count
            count -= 1
        if count < 1:
            raise ModelError(f"{self.label} does not fit on {size} pixels")
        return count

    def module(self, *inputs: Shape) -> nn.Module:
        from torch import nn

        top, left, bottom, right = _sides(self.p)
        even = (top, left) == (bottom, right)
        window: Any = {"padding": (top, left) if even else 0, "ceil_mode": bool(self.ceil)}
        if self.mode == "avg":
            pool: nn.Module = nn.AvgPool2d(_pair(self.k), _pair(self.s), **window, count_include_pad=bool(self.include))
        else:
            pool = nn.MaxPool2d(_pair(self.k), _pair(self.s), **window)
        if even:
            return pool
        if self.mode == "avg" and not self.include:
            raise ModelError(f"{self.label} leaves out padding that differs between sides, which torch cannot do")
        return nn.Sequential(nn.ConstantPad2d((left, right, top, bottom), 0 if self.mode == "avg" else -math.inf), pool)

    def emit(self, writer: OnnxWriter, name: str, inputs: list[str], shapes: list[Shape], weights: Weights) -> str:
        window: dict[str, Any] = {"kernel_shape": list(_pair(self.k)), "strides": list(_pair(self.s))}
        window |= {"pads": list(_sides(self.p)), "ceil_mode": self.ceil}
        if self.mode == "avg":
            return writer.node("AveragePool", name, inputs, **window, count_include_pad=self.include)
        return writer.node("MaxPool", name, inputs, **window)


def _text(value: int | tuple[int, ...]) -> str:
    return str(value) if isinstance(value, int) else "x".join(map(str, value))


@dataclass(frozen=True)
class GlobalPool(Kernel):
    """Mean over height and width; the result is flat, ``(1, C)``."""

    op: ClassVar[str] = "globalpool"

    def output_shape(self, *inputs: Shape) -> Shape:
        return inputs[0][:2]

    def module(self, *inputs: Shape) -> nn.Module:
        from torch import nn

        return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())

    def emit(self, writer: OnnxWriter, name: str, inputs: list[str], shapes: list[Shape], weights: Weights) -> str:
        return writer.node("Flatten", f"{name}/flat", [writer.node("GlobalAveragePool", name, inputs)], axis=1)


@dataclass(frozen=True)
class Linear(Kernel):
    """Fully connected layer to `o` features along the last axis."""

    o: int = 0
    bias: bool = True

    op: ClassVar[str] = "linear"
    hidden: ClassVar[frozenset[str]] = frozenset({"bias"})

    def output_shape(self, *inputs: Shape) -> Shape:
        if len(inputs[0]) < 2 or self.o < 1:
            raise ModelError(f"{self.label} cannot take {inputs[0]}")
        return (*inputs[0][:-1], self.o)

    def macs(self, *inputs: Shape) -> int:
        return math.prod(inputs[0]) * self.o

    def weight_shapes(self, *inputs: Shape) -> dict[str, Shape]:
        weight = {"weight": (self.o, inputs[0][-1])}
        return weight | ({"bias": (self.o,)} if self.bias else {})

    def module(self, *inputs: Shape) -> nn.Module:
        from torch import nn

        return nn.Linear(inputs[0][-1], self.o, bias=self.bias)

    def emit(self, writer: OnnxWriter, name: str, inputs: list[str], shapes: list[Shape], weights: Weights) -> str:
        flat = len(shapes[0]) == 2  # Gemm takes matrices only
        weight = writer.tensor(f"{name}/weight", weights["weight"] if flat else weights["weight"].T)
        bias = [writer.tensor(f"{name}/bias", weights["bias"])] if self.bias else []
        if flat:
            return writer.node("Gemm", name, [*inputs, weight, *bias], transB=1)
        product = writer.node("MatMul", name, [*inputs, weight])
        return writer.node("Add", f"{name}/shifted", [product, *bias]) if bias else product


@dataclass(frozen=True)
class Add(Kernel):
    """Element-wise sum of two or more tensors of one shape, then an activation."""

    act: str | None = None

    op: ClassVar[str] = "add"

    def output_shape(self, *inputs: Shape) -> Shape:
        if any(shape != inputs[0] for shape in inputs):
            raise ModelError(f"add needs equal shapes, not {inputs}")
        return inputs[0]

    def module(self, *inputs: Shape) -> nn.Module:
        from torch import nn

        class Sum(nn.Module):
            def __init__(self, after: list[tuple[str, nn.Module]]) -> None:
                super().__init__()
                self.after = nn.Sequential(*(module for _, module in after))

            def forward(self, first: Any, *rest: Any) -> Any:
                for tensor in rest:
                    first = first + tensor
                return self.after(first)

        return Sum(activation_module(self.act))

    def emit(self, writer: OnnxWriter, name: str, inputs: list[str], shapes: list[Shape], weights: Weights) -> str:
        total = inputs[0]
        for index, tensor in enumerate(inputs[1:]):
            total = writer.node("Add", name if index == 0 else f"{name}/{index}", [total, tensor])
        return writer.activation(self.act, name, total)


@dataclass(frozen=True)
class SqueezeExcite(Kernel):
    """Squeeze-and-excitation: channels scaled by a gate computed from their means (arXiv 1709.01507)."""

    r: int = 0
    gate: str = "hsigmoid"
    act: str = "relu"

    op: ClassVar[str] = "se"

    def output_shape(self, *inputs: Shape) -> Shape:
        return inputs[0]

    def macs(self, *inputs: Shape) -> int:
        return 2 * inputs[0][1] * self.r

    def weight_shapes(self, *inputs: Shape) -> dict[str, Shape]:
        c = inputs[0][1]
        return {
            "reduce.weight": (self.r, c, 1, 1),
            "reduce.bias": (self.r,),
            "expand.weight": (c, self.r, 1, 1),
            "expand.bias": (c,),
        }

    def module(self, *inputs: Shape) -> nn.Module:
        from torch import nn

        channels, reduced = inputs[0][1], self.r
        act, gate = (activation_module(name)[0][1] for name in (self.act, self.gate))

        class Scale(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.pool = nn.AdaptiveAvgPool2d(1)
                self.reduce = nn.Conv2d(channels, reduced, 1)
                self.expand = nn.Conv2d(reduced, channels, 1)
                self.act, self.gate = act, gate

            def forward(self, x: Any) -> Any:
                return x * self.gate(self.expand(self.act(self.reduce(self.pool(x)))))

        return Scale()

    def emit(self, writer: OnnxWriter, name: str, inputs: list[str], shapes: list[Shape], weights: Weights) -> str:
        gate = writer.node("GlobalAveragePool", f"{name}/pool", inputs)
        for part, act in (("reduce", self.act), ("expand", self.gate)):
            tensors = [writer.tensor(f"{name}/{part}/{kind}", weights[f"{part}.{kind}"]) for kind in ("weight", "bias")]
            gate = writer.node("Conv", f"{name}/{part}", [gate, *tensors], kernel_shape=[1, 1])
            gate = writer.activation(act, f"{name}/{part}", gate)
        return writer.node("Mul", name, [*inputs, gate])


@dataclass(frozen=True)
class Activation(Kernel):
    """A non-linearity on its own."""

    act: str = "relu"

    op: ClassVar[str] = "act"

    @property
    def label(self) -> str:
        return f"act({self.act})"

    def output_shape(self, *inputs: Shape) -> Shape:
        return inputs[0]

    def module(self, *inputs: Shape) -> nn.Module:
        return activation_module(self.act)[0][1]

    def emit(self, writer: OnnxWriter, name: str, inputs: list[str], shapes: list[Shape], weights: Weights) -> str:
        return writer.activation(self.act, name, inputs[0])


@dataclass(frozen=True)
class BatchNorm(Kernel):
    """BatchNorm that no convolution can absorb (before an activation), then an activation."""

    act: str | None = None

    op: ClassVar[str] = "bn"

    def output_shape(self, *inputs: Shape) -> Shape:
        return inputs[0]

    def weight_shapes(self, *inputs: Shape) -> dict[str, Shape]:
        return {f"bn.{name}": (inputs[0][1],) for name in ("weight", "bias", "running_mean", "running_var")}

    def module(self, *inputs: Shape) -> nn.Module:
        from torch import nn

        return sequential(("bn", nn.BatchNorm2d(inputs[0][1], eps=BN_EPS)), *activation_module(self.act))

    def deployed_params(self, *inputs: Shape) -> int:
        return 4 * inputs[0][1]

    def emit(self, writer: OnnxWriter, name: str, inputs: list[str], shapes: list[Shape], weights: Weights) -> str:
        order = ("weight", "bias", "running_mean", "running_var")
        tensors = [writer.tensor(f"{name}/{part}", weights[f"bn.{part}"]) for part in order]
        normed = writer.node("BatchNormalization", name, [*inputs, *tensors], epsilon=BN_EPS)
        return writer.activation(self.act, name, normed)


@dataclass(frozen=True)
class Zero(Kernel):
    """All zeros, of the input's shape: what remains of a cell without a path from input to output."""

    op: ClassVar[str] = "zero"

    def output_shape(self, *inputs: Shape) -> Shape:
        return inputs[0]

    def module(self, *inputs: Shape) -> nn.Module:
        from torch import nn

        class Nothing(nn.Module):
            def forward(self, x: Any) -> Any:
                return x * 0.0

        return Nothing()

    def emit(self, writer: OnnxWriter, name: str, inputs: list[str], shapes: list[Shape], weights: Weights) -> str:
        return writer.node("Mul", name, [*inputs, writer.tensor(f"{name}/zero", np.zeros((), dtype=np.float32))])
