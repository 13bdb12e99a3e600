"""A new kernel is one class: its shape, its cost, its torch module, its ONNX nodes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from hwnas.spaces.kernel import Kernel, Shape, Weights

if TYPE_CHECKING:
    from torch import Tensor, nn

    from hwnas.spaces.onnx_writer import OnnxWriter

__all__ = ["LayerScale"]


@dataclass(frozen=True)
class LayerScale(Kernel):
    """One learned factor per channel (CaiT, arXiv 2103.17239), starting at `init`."""

    init: float = 1.0

    op: ClassVar[str] = "layerscale"
    hidden: ClassVar[frozenset[str]] = frozenset({"init"})  # changes neither shape nor speed

    def output_shape(self, *inputs: Shape) -> Shape:
        return inputs[0]

    def weight_shapes(self, *inputs: Shape) -> dict[str, Shape]:
        return {"gamma": (inputs[0][1], 1, 1)}

    def module(self, *inputs: Shape) -> nn.Module:
        import torch
        from torch import nn

        start = torch.full(self.weight_shapes(*inputs)["gamma"], self.init)

        class Scale(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.gamma = nn.Parameter(start)

            def forward(self, x: Tensor) -> Tensor:
                return x * self.gamma

        return Scale()

    def emit(self, writer: OnnxWriter, name: str, inputs: list[str], shapes: list[Shape], weights: Weights) -> str:
        return writer.node("Mul", name, [*inputs, writer.tensor(f"{name}/gamma", weights["gamma"])])
