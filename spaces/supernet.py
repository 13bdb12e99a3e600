"""The supernet of any space: one set of weights for all of its architectures.

A node's name identifies its weights. Two architectures that make the same choice in the same place
have a node of the same name there, and so share it; nothing about a supernet is written by a space.
A space may also give one name to kernels of several sizes. Then the largest one's weights are kept, and the others
take slices of them: the first channels, the middle of a window. So the memory is that of the largest network, not of
the sum over the choices.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn

from hwnas.spaces.graph import Graph, Node
from hwnas.spaces.kernel import Kernel, Shape
from hwnas.spaces.module import run_graph
from hwnas.spaces.space import Architecture, SearchSpace

__all__ = ["Supernet", "covering_graphs"]

_Form = tuple[Kernel, tuple[Shape, ...]]


class Supernet(nn.Module):
    """Weights of every choice of `space`; an architecture picks a path through them (SPOS, arXiv 1904.00420).

    Parameters
    ----------
    space
        Any search space.
    """

    def __init__(self, space: SearchSpace) -> None:
        super().__init__()
        self.space = space
        self._lower = lru_cache(maxsize=8192)(self._lowered)
        self.nodes = nn.ModuleDict()
        self._forms: dict[str, _Form] = {}  # what each module of `nodes` is
        self._slices: dict[tuple[str, _Form], nn.Module] = {}  # smaller forms, on views of the same weights
        largest: dict[str, tuple[int, _Form]] = {}
        for graph in covering_graphs(space):
            for node in graph.nodes:
                form = (node.kernel, graph.input_shapes(node))
                size = node.kernel.params(*form[1])
                if node.name not in largest or size > largest[node.name][0]:
                    largest[node.name] = (size, form)
        for name, (_, form) in largest.items():
            self._add(name, form)

    def _add(self, name: str, form: _Form) -> None:
        kernel, shapes = form
        self._forms[name] = form
        self.nodes[name] = kernel.module(*shapes).train(self.training)

    def graph(self, architecture: Sequence[int]) -> Graph:
        """The lowered architecture, from a cache."""
        return self._lower(tuple(int(choice) for choice in architecture))

    def _lowered(self, architecture: Architecture) -> Graph:
        """Lower, and add what this architecture runs beside the choices: additions and the like, without weights."""
        graph = self.space.lower(architecture)
        for node in graph.nodes:
            if node.name not in self.nodes:
                if node.kernel.weight_shapes(*graph.input_shapes(node)):
                    raise RuntimeError(f"the covering graphs of {self.space.name} lack the weights of {node.name}")
                self._add(node.name, (node.kernel, graph.input_shapes(node)))
        return graph

    def _module(self, graph: Graph, node: Node) -> nn.Module:
        """The module of a node: its own if it is of the largest form, else a smaller one on slices of its weights."""
        form = (node.kernel, graph.input_shapes(node))
        if form == self._forms[node.name]:
            return self.nodes[node.name]
        key = (node.name, form)
        if key not in self._slices:
            with torch.device("meta"):  # only the wiring is wanted
                self._slices[key] = node.kernel.module(*form[1]).train(self.training)
        return _on_slices(self._slices[key], self.nodes[node.name], node.name)

    def forward(self, x: Tensor, architecture: Sequence[int]) -> Tensor:
        """Logits of a batch ``(N, C, H, W)`` along the path of `architecture`."""
        graph = self.graph(architecture)
        return run_graph(graph, {node.name: self._module(graph, node) for node in graph.nodes}, x)

    def train(self, mode: bool = True) -> Supernet:
        """Set training or evaluation mode, of the sliced modules as well."""
        super().train(mode)
        for module in self._slices.values():
            module.train(mode)
        return self

    def active_modules(self, architecture: Sequence[int]) -> list[nn.Module]:
        """The kernel modules that `architecture` runs."""
        graph = self.graph(architecture)
        return [self._module(graph, node) for node in graph.nodes]

    def weights_of(self, architecture: Architecture) -> dict[str, Tensor]:
        """State dict for ``space.lower(architecture).to_module()``, sharing storage with the supernet."""
        graph = self.graph(architecture)
        return {
            f"{node.name}.{key}": value
            for node in graph.nodes
            for key, value in self._module(graph, node).state_dict().items()
        }


def _on_slices(module: nn.Module, full: nn.Module, name: str) -> nn.Module:
    """Let `module` compute with views of the weights of `full`; made anew each time, as optimizers write in between."""
    parts = dict(full.named_modules())
    for path, part in module.named_modules():
        source = parts.get(path)
        for own, theirs in (("_parameters", "_parameters"), ("_buffers", "_buffers")):
            tensors: dict[str, Any] = getattr(part, own)
            for key, tensor in tensors.items():
                if tensor is None:
                    continue
                whole = None if source is None else getattr(source, theirs).get(key)
                if whole is None or any(small > large for small, large in zip(tensor.shape, whole.shape, strict=True)):
                    raise RuntimeError(f"the largest weights of {name} do not hold {path}.{key} {tuple(tensor.shape)}")
                tensors[key] = _slice(whole, tensor.shape)
    return module


def _slice(whole: Tensor, shape: Sequence[int]) -> Tensor:
    """The first channels, and the middle of what lies behind them."""
    for axis, size in enumerate(shape):
        if whole.shape[axis] != size:
            start = (whole.shape[axis] - size) // 2 if axis >= 2 else 0
            whole = whole.narrow(axis, start, size)
    return whole


def covering_graphs(space: SearchSpace) -> list[Graph]:
    """Graphs of a few architectures that together contain the weights of every choice."""
    return [space.lower(row.tolist()) for row in space.covering()]
