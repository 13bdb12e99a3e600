"""What a predictor sees of a kernel: its size, its settings, its neighbours, and the network around it.

Numbers become columns that are the same for every kernel; names (an activation, a neighbour) become flags, one for each
name that a `Vocabulary` has met.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from hwnas.spaces.graph import Graph
from hwnas.spaces.kernel import Shape
from hwnas.spaces.placement import PlacedKernel, Placement
from hwnas.spaces.signature import kernel_graph, kernel_op

__all__ = ["KernelFacts", "Vocabulary", "kernel_facts"]


@dataclass(frozen=True)
class KernelFacts:
    """A kernel out of its place.

    Attributes
    ----------
    family
        What is predicted together: the operator, with convolutions divided into 1x1, wider, and grouped ones.
    macs, bytes
        Of one inference.
    numbers
        Sizes and numeric settings.
    names
        Settings that are names, as ``setting=name``.
    """

    family: str
    macs: int
    bytes: int
    numbers: tuple[float, ...]
    names: tuple[str, ...]


def _pair(value: Any) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else tuple(value)


@lru_cache(maxsize=65536)
def kernel_facts(signature: str) -> KernelFacts:
    """Read the facts of a kernel from its signature.

    Raises
    ------
    ModelError
        If it is no signature of a kernel that hwnas has.
    """
    graph = kernel_graph(signature)
    kernel, inputs = graph.nodes[0].kernel, [*graph.inputs.values()]
    settings = {field.name: getattr(kernel, field.name) for field in dataclasses.fields(kernel)}  # type: ignore[arg-type]
    names = tuple(
        f"{name}={value}"
        for name, value in settings.items()
        if name not in kernel.hidden and name != "to" and (isinstance(value, str) or name in ("perm", "axes"))
    )
    window, groups = math.prod(_pair(settings.get("k", 1))), settings.get("g", 1)
    op = kernel_op(signature)
    family = op
    if op == "conv":
        family = "conv grouped" if groups > 1 else "conv 1x1" if window == 1 else "conv"
    return KernelFacts(family, graph.macs, graph.bytes, _numbers(graph, settings, inputs, window, groups), names)


def _numbers(
    graph: Graph, settings: dict[str, Any], inputs: list[Shape], window: int, groups: int
) -> tuple[float, ...]:
    output = graph.shapes[graph.outputs[0]]
    read, written = sum(math.prod(shape) for shape in inputs), math.prod(output)
    weights = graph.size // 4
    into, out = (shape[1] if len(shape) > 1 else 1 for shape in (inputs[0], output))
    sizes = [graph.macs, read, written, weights, graph.macs / max(1, read + written + weights)]
    channels = [into, out, into / groups, out / groups]
    # vector units take 8 or 16 channels at a time, and runtimes have other code for what is left
    rest = [into % 8, out % 8, into % 16, out % 16, into // groups % 16]
    places = [math.prod(inputs[0][2:]), math.prod(output[2:]), inputs[0][-1], output[-1]]
    numeric = [window, _pair(settings.get("k", 1))[0], _pair(settings.get("s", 1))[0], groups, settings.get("d", 1)]
    others = [settings.get("r", 0), settings.get("index", 0), settings.get("start", 0), len(inputs), len(inputs[0])]
    axis = settings.get("axis", 0)
    return tuple(map(float, (*sizes, *channels, *rest, *places, *numeric, *others, axis)))


def _flags(kernel: PlacedKernel, facts: KernelFacts) -> Iterable[str]:
    yield from facts.names
    for op in filter(None, kernel.after.split("+")):
        yield f"after={op}"
    if kernel.before:
        yield f"before={kernel.before}"


class Vocabulary:
    """The flags of one family, in the order of their columns.

    Parameters
    ----------
    names
        The flags.
    """

    def __init__(self, names: Sequence[str]) -> None:
        self.names = tuple(names)
        self._column = {name: index for index, name in enumerate(self.names)}

    @classmethod
    def of(cls, kernels: Iterable[PlacedKernel]) -> Vocabulary:
        """Every flag of some kernels."""
        return cls(sorted({flag for kernel in kernels for flag in _flags(kernel, kernel_facts(kernel.signature))}))

    def row(self, kernel: PlacedKernel, network: Placement) -> list[float]:
        """The features of one kernel in a network."""
        facts = kernel_facts(kernel.signature)
        flags = [0.0] * len(self.names)
        for flag in _flags(kernel, facts):
            if flag in self._column:
                flags[self._column[flag]] = 1.0
        around = (network.weights, network.activations, network.largest, len(network.kernels))
        return [*facts.numbers, *map(float, around), *flags]

    def rows(self, kernels: Sequence[tuple[PlacedKernel, Placement]]) -> np.ndarray:
        """The features of many, shape ``(kernels, columns)``."""
        return np.array([self.row(kernel, network) for kernel, network in kernels], dtype=np.float32)
