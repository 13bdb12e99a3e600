"""The kernels that the spaces are built of; `hwnas.spaces.kernel` says what a kernel is."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

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
    "ChannelShuffle",
    "Concat",
    "Conv",
    "DepthwiseConv",
    "GlobalPool",
    "Linear",
    "Pool",
    "Slice",
    "SqueezeExcite",
    "Zero",
]

BN_EPS = 1e-5


def _pair(value: int | tuple[int, int]) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else value


def _spatial(size: int, k: int, s: int, p: int, d: int = 1) -> int:
    return (size + 2 * p - d * (k - 1) - 1) // s + 1


@dataclass(frozen=True)
class _ConvBase(Kernel):
    """What plain and depthwise convolutions share: window, BatchNorm, activation."""

    k: int | tuple[int, int] = 3
    s: int | tuple[int, int] = 1
    act: str | None = None
    d: int = 1
    p: int | tuple[int, int] | None = None
    bn: bool = True
    bias: bool = False

    hidden: ClassVar[frozenset[str]] = frozenset({"bn", "bias"})

    def _channels(self, inputs: tuple[Shape, ...]) -> tuple[int, int, int]:
        """Input channels, output channels, groups."""
        raise TypeError("a subclass says its channels")

    @property
    def padding(self) -> tuple[int, int]:
        """Padding on both sides of height and width; "same" at stride 1 unless given."""
        if self.p is not None:
            return _pair(self.p)
        kh, kw = _pair(self.k)
        return self.d * (kh // 2), self.d * (kw // 2)

    def output_shape(self, *inputs: Shape) -> Shape:
        if len(inputs) != 1 or len(inputs[0]) != 4:
            raise ModelError(f"{self.label} takes one 4-dimensional input, not {inputs}")
        (kh, kw), (sh, sw), (ph, pw) = _pair(self.k), _pair(self.s), self.padding
        _, out, _ = self._channels(inputs)
        n, _, h, w = inputs[0]
        height, width = _spatial(h, kh, sh, ph, self.d), _spatial(w, kw, sw, pw, self.d)
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
        conv = nn.Conv2d(
            into, out, _pair(self.k), _pair(self.s), self.padding, self.d, groups, bias=self.bias
        )  # fmt: skip
        parts: list[tuple[str, nn.Module]] = [("conv", conv)]
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
        ph, pw = self.padding
        output = writer.node(
            "Conv",
            name,
            [*inputs, *tensors],
            kernel_shape=list(_pair(self.k)),
            strides=list(_pair(self.s)),
            pads=[ph, pw, ph, pw],
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
    """Average or maximum pooling; averages leave out the padding."""

    mode: str = "avg"
    k: int | tuple[int, int] = 3
    s: int | tuple[int, int] = 1
    p: int | tuple[int, int] = 1

    op: ClassVar[str] = "pool"

    @property
    def label(self) -> str:
        return f"{self.mode}pool(k={_text(self.k)},s={_text(self.s)},p={_text(self.p)})"

    def output_shape(self, *inputs: Shape) -> Shape:
        n, c, h, w = inputs[0]
        (kh, kw), (sh, sw), (ph, pw) = _pair(self.k), _pair(self.s), _pair(self.p)
        return (n, c, _spatial(h, kh, sh, ph), _spatial(w, kw, sw, pw))

    def module(self, *inputs: Shape) -> nn.Module:
        from torch import nn

        if self.mode == "avg":
            return nn.AvgPool2d(_pair(self.k), _pair(self.s), _pair(self.p), count_include_pad=False)
        return nn.MaxPool2d(_pair(self.k), _pair(self.s), _pair(self.p))

    def emit(self, writer: OnnxWriter, name: str, inputs: list[str], shapes: list[Shape], weights: Weights) -> str:
        ph, pw = _pair(self.p)
        window = {"kernel_shape": list(_pair(self.k)), "strides": list(_pair(self.s)), "pads": [ph, pw, ph, pw]}
        if self.mode == "avg":
            return writer.node("AveragePool", name, inputs, **window, count_include_pad=0)
        return writer.node("MaxPool", name, inputs, **window)


def _text(value: int | tuple[int, int]) -> str:
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
    """Fully connected layer with bias to `o` features."""

    o: int = 0

    op: ClassVar[str] = "linear"

    def output_shape(self, *inputs: Shape) -> Shape:
        if len(inputs[0]) != 2:
            raise ModelError(f"{self.label} takes a flat input, not {inputs[0]}")
        return (inputs[0][0], self.o)

    def macs(self, *inputs: Shape) -> int:
        return inputs[0][1] * self.o

    def weight_shapes(self, *inputs: Shape) -> dict[str, Shape]:
        return {"weight": (self.o, inputs[0][1]), "bias": (self.o,)}

    def module(self, *inputs: Shape) -> nn.Module:
        from torch import nn

        return nn.Linear(inputs[0][1], self.o)

    def emit(self, writer: OnnxWriter, name: str, inputs: list[str], shapes: list[Shape], weights: Weights) -> str:
        tensors = [writer.tensor(f"{name}/{part}", weights[part]) for part in ("weight", "bias")]
        return writer.node("Gemm", name, [*inputs, *tensors], transB=1)


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
class Concat(Kernel):
    """Concatenation along the channels."""

    op: ClassVar[str] = "concat"

    def output_shape(self, *inputs: Shape) -> Shape:
        if any(shape[:1] + shape[2:] != inputs[0][:1] + inputs[0][2:] for shape in inputs):
            raise ModelError(f"concat needs equal sizes apart from channels, not {inputs}")
        return (inputs[0][0], sum(shape[1] for shape in inputs), *inputs[0][2:])

    def module(self, *inputs: Shape) -> nn.Module:
        import torch
        from torch import nn

        class Join(nn.Module):
            def forward(self, *tensors: Any) -> Any:
                return torch.cat(tensors, dim=1)

        return Join()

    def emit(self, writer: OnnxWriter, name: str, inputs: list[str], shapes: list[Shape], weights: Weights) -> str:
        return writer.node("Concat", name, inputs, axis=1)


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
class Slice(Kernel):
    """Channels `start` to `stop`."""

    start: int = 0
    stop: int = 0

    op: ClassVar[str] = "slice"

    def output_shape(self, *inputs: Shape) -> Shape:
        if not 0 <= self.start < self.stop <= inputs[0][1]:
            raise ModelError(f"{self.label} does not fit {inputs[0][1]} channels")
        return (inputs[0][0], self.stop - self.start, *inputs[0][2:])

    def module(self, *inputs: Shape) -> nn.Module:
        from torch import nn

        start, stop = self.start, self.stop

        class Part(nn.Module):
            def forward(self, tensor: Any) -> Any:
                return tensor[:, start:stop]

        return Part()

    def emit(self, writer: OnnxWriter, name: str, inputs: list[str], shapes: list[Shape], weights: Weights) -> str:
        bounds = [
            writer.tensor(f"{name}/{part}", np.array([value], dtype=np.int64))
            for part, value in (("start", self.start), ("stop", self.stop), ("axis", 1))
        ]
        return writer.node("Slice", name, [*inputs, *bounds])


@dataclass(frozen=True)
class SqueezeExcite(Kernel):
    """Squeeze-and-excitation: channels scaled by a gate computed from their means (arXiv 1709.01507)."""

    r: int = 0
    gate: str = "hsigmoid"

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

        channels, reduced, gate = inputs[0][1], self.r, self.gate

        class Scale(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.pool = nn.AdaptiveAvgPool2d(1)
                self.reduce = nn.Conv2d(channels, reduced, 1)
                self.expand = nn.Conv2d(reduced, channels, 1)
                self.gate = activation_module(gate)[0][1]

            def forward(self, x: Any) -> Any:
                return x * self.gate(self.expand(self.reduce(self.pool(x)).relu()))

        return Scale()

    def emit(self, writer: OnnxWriter, name: str, inputs: list[str], shapes: list[Shape], weights: Weights) -> str:
        gate = writer.node("GlobalAveragePool", f"{name}/pool", inputs)
        for part, act in (("reduce", "relu"), ("expand", self.gate)):
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
