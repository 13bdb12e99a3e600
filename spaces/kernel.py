"""What a kernel is: one operator of a network, as a runtime executes it after fusion.

A kernel is one small frozen dataclass with the four readings that everything else is built on:

1. **shape** - `Kernel.output_shape`;
2. **cost** - `Kernel.macs`, `Kernel.params`, `Kernel.bytes`, all from shapes alone;
3. **torch** - `Kernel.module`, the `torch.nn.Module` that trains it;
4. **ONNX** - `Kernel.emit`, the nodes that deploy it, with BatchNorm folded away.

Adding a kernel is adding one class, to `hwnas.spaces.kernels`, `layout_kernels` or `math_kernels`, or anywhere:
nothing else needs to know it.
"""

from __future__ import annotations

import dataclasses
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from hwnas.spaces.errors import ModelError

if TYPE_CHECKING:
    from torch import nn

    from hwnas.spaces.onnx_writer import OnnxWriter

__all__ = ["ACTIVATIONS", "Kernel", "Opaque", "Shape", "Weights", "activation_module", "function_module", "sequential"]

Shape = tuple[int, ...]
Weights = Mapping[str, np.ndarray]

ACTIVATIONS = (
    "relu",
    "relu6",
    "hswish",
    "hsigmoid",
    "sigmoid",
    "swish",
    "tanh",
    "gelu",
    "leakyrelu",
    "elu",
    "softplus",
    "mish",
)


def activation_module(act: str | None) -> list[tuple[str, nn.Module]]:
    """The torch module of an activation as a named part for `sequential`; nothing for None."""
    from torch import nn

    modules: dict[str, type[nn.Module]] = {
        "relu": nn.ReLU,
        "relu6": nn.ReLU6,
        "hswish": nn.Hardswish,
        "hsigmoid": nn.Hardsigmoid,
        "sigmoid": nn.Sigmoid,
        "swish": nn.SiLU,
        "tanh": nn.Tanh,
        "gelu": nn.GELU,
        "leakyrelu": nn.LeakyReLU,
        "elu": nn.ELU,
        "softplus": nn.Softplus,
        "mish": nn.Mish,
    }
    return [("act", modules[act]())] if act else []


def sequential(*parts: tuple[str, nn.Module]) -> nn.Module:
    """Named modules one after the other."""
    from collections import OrderedDict

    from torch import nn

    return nn.Sequential(OrderedDict(parts))


def function_module(function: Callable[..., Any], **parameters: Any) -> nn.Module:
    """A torch module of a function, which is called with the inputs, then with `parameters` (tensors to learn)."""
    from torch import nn

    class Function(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            for name, value in parameters.items():
                self.register_parameter(name, nn.Parameter(value))

        def forward(self, *tensors: Any) -> Any:
            return function(*tensors, *(getattr(self, name) for name in parameters))

    return Function()


class Kernel(ABC):
    """One operator. Subclasses are frozen dataclasses; equal kernels are interchangeable.

    Shapes are those of one sample with the batch axis in front, such as ``(1, C, H, W)`` or ``(1, C)``.
    """

    op: ClassVar[str]
    #: fields that change neither shape nor speed and so stay out of the label
    hidden: ClassVar[frozenset[str]] = frozenset()

    @property
    def label(self) -> str:
        """Readable identity, such as ``conv(o=40,k=5,s=2,act=relu6)``; defaults are left out."""
        parts = []
        for field in dataclasses.fields(self):  # type: ignore[arg-type]
            value = getattr(self, field.name)
            if field.name not in self.hidden and value != field.default:
                text = "x".join(map(str, value)) if isinstance(value, tuple) else str(value)
                parts.append(f"{field.name}={text}")
        return f"{self.op}({','.join(parts)})" if parts else self.op

    @abstractmethod
    def output_shape(self, *inputs: Shape) -> Shape:
        """Shape of the output for these input shapes."""

    def macs(self, *inputs: Shape) -> int:
        """Multiply-accumulate operations of convolutions and matrix products for one sample."""
        return 0

    def weight_shapes(self, *inputs: Shape) -> dict[str, Shape]:
        """Names (as in the torch module's state dict) and shapes of everything that is learned or tracked."""
        return {}

    def params(self, *inputs: Shape) -> int:
        """Trainable parameters, as `torch.nn.Module.parameters` counts them."""
        return sum(math.prod(shape) for name, shape in self.weight_shapes(*inputs).items() if "running_" not in name)

    def deployed_params(self, *inputs: Shape) -> int:
        """Numbers stored in the deployed file, after BatchNorm is folded into the kernel before it."""
        return self.params(*inputs)

    def bytes(self, *inputs: Shape) -> int:
        """Bytes moved at 4 bytes a number: inputs read, output written, weights read once."""
        moved = sum(math.prod(shape) for shape in inputs) + math.prod(self.output_shape(*inputs))
        return 4 * (moved + self.deployed_params(*inputs))

    @abstractmethod
    def module(self, *inputs: Shape) -> nn.Module:
        """A fresh torch module, called with as many tensors as the kernel has inputs."""

    @abstractmethod
    def emit(self, writer: OnnxWriter, name: str, inputs: list[str], shapes: list[Shape], weights: Weights) -> str:
        """Write ONNX nodes and return the name of the output tensor.

        `weights` maps the names of `weight_shapes` to arrays.
        """


@dataclass(frozen=True)
class Opaque(Kernel):
    """An operator read from an ONNX file that hwnas has no kernel for: it can be counted and priced, not built."""

    type: str = ""
    out: Shape = ()
    weight_count: int = 0
    mac_count: int = 0

    op: ClassVar[str] = "opaque"
    hidden: ClassVar[frozenset[str]] = frozenset({"weight_count", "mac_count"})

    def output_shape(self, *inputs: Shape) -> Shape:
        return self.out

    def macs(self, *inputs: Shape) -> int:
        return self.mac_count

    def params(self, *inputs: Shape) -> int:
        return self.weight_count

    def module(self, *inputs: Shape) -> nn.Module:
        raise ModelError(f"the operator {self.type} was read from a file and cannot be trained by hwnas")

    def emit(self, writer: OnnxWriter, name: str, inputs: list[str], shapes: list[Shape], weights: Weights) -> str:
        raise ModelError(f"the operator {self.type} was read from a file and cannot be written by hwnas")
