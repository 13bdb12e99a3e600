"""The kernel `SplitAttention`: several feature maps, weighed channel by channel against each other."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from hwnas.spaces.errors import ModelError
from hwnas.spaces.kernel import Kernel, Shape, Weights

if TYPE_CHECKING:
    from torch import nn

    from hwnas.spaces.onnx_writer import OnnxWriter

__all__ = ["SplitAttention"]


@dataclass(frozen=True)
class SplitAttention(Kernel):
    """Sum of its inputs, each channel weighed by a softmax over the inputs (ResNeSt, arXiv 2004.08955).

    The weights are computed from the channel means of the plain sum, through `r` channels. With one input the softmax
    is a sigmoid, which makes it squeeze-and-excitation.
    """

    r: int = 0

    op: ClassVar[str] = "splitattention"

    def output_shape(self, *inputs: Shape) -> Shape:
        if len(set(inputs)) != 1:
            raise ModelError(f"{self.label} takes feature maps of one shape, not {inputs}")
        return inputs[0]

    def macs(self, *inputs: Shape) -> int:
        return (1 + len(inputs)) * inputs[0][1] * self.r

    def weight_shapes(self, *inputs: Shape) -> dict[str, Shape]:
        c = inputs[0][1]
        shapes: dict[str, Shape] = {"reduce.weight": (self.r, c, 1, 1), "reduce.bias": (self.r,)}
        for split in range(len(inputs)):
            shapes |= {f"expand{split}.weight": (c, self.r, 1, 1), f"expand{split}.bias": (c,)}
        return shapes

    def module(self, *inputs: Shape) -> nn.Module:
        import torch
        from torch import nn

        channels, reduced = inputs[0][1], self.r

        class Attend(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.pool, self.act = nn.AdaptiveAvgPool2d(1), nn.ReLU()
                self.reduce = nn.Conv2d(channels, reduced, 1)
                for split in range(len(inputs)):
                    self.add_module(f"expand{split}", nn.Conv2d(reduced, channels, 1))

            def forward(self, *maps: Any) -> Any:
                middle = self.act(self.reduce(self.pool(sum(maps[1:], start=maps[0]))))
                gates = [getattr(self, f"expand{split}")(middle) for split in range(len(maps))]
                if len(maps) == 1:
                    return maps[0] * torch.sigmoid(gates[0])
                shares = torch.softmax(torch.cat(gates, dim=2), dim=2)
                return sum(x * shares[:, :, split : split + 1] for split, x in enumerate(maps))

        return Attend()

    def emit(self, writer: OnnxWriter, name: str, inputs: list[str], shapes: list[Shape], weights: Weights) -> str:
        def conv(part: str, value: str) -> str:
            tensors = [writer.tensor(f"{name}/{part}/{kind}", weights[f"{part}.{kind}"]) for kind in ("weight", "bias")]
            return writer.node("Conv", f"{name}/{part}", [value, *tensors], kernel_shape=[1, 1])

        total = inputs[0]
        for split, value in enumerate(inputs[1:], start=1):
            total = writer.node("Add", f"{name}/sum{split}", [total, value])
        middle = conv("reduce", writer.node("GlobalAveragePool", f"{name}/pool", [total]))
        middle = writer.node("Relu", f"{name}/reduce/relu", [middle])
        gates = [conv(f"expand{split}", middle) for split in range(len(inputs))]
        if len(inputs) == 1:
            return writer.node("Mul", name, [inputs[0], writer.node("Sigmoid", f"{name}/gate", gates)])
        joined = writer.node("Concat", f"{name}/gates", gates, axis=2)
        shares = writer.node("Softmax", f"{name}/shares", [joined], axis=2)
        axis = writer.tensor(f"{name}/axis", np.array([2]))
        parts = []
        for split, value in enumerate(inputs):
            start = writer.tensor(f"{name}/start{split}", np.array([split]))
            stop = writer.tensor(f"{name}/stop{split}", np.array([split + 1]))
            share = writer.node("Slice", f"{name}/share{split}", [shares, start, stop, axis])
            parts.append(writer.node("Mul", f"{name}/weighed{split}", [value, share]))
        total = parts[0]
        for split, value in enumerate(parts[1:], start=1):
            last = split == len(parts) - 1
            total = writer.node("Add", name if last else f"{name}/part{split}", [total, value])
        return total
