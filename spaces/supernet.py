"""The supernet of any space: one set of weights for all of its architectures.

A node's name identifies its weights. Two architectures that make the same choice in the same place
have a node of the same name there, and so share it; nothing about a supernet is written by a space.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from torch import Tensor, nn

from hwnas.spaces.graph import Graph
from hwnas.spaces.module import run_graph
from hwnas.spaces.space import Architecture, SearchSpace

__all__ = ["Supernet", "covering_graphs"]


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
        for graph in covering_graphs(space):
            for node in graph.nodes:
                if node.name not in self.nodes:
                    self.nodes[node.name] = node.kernel.module(*graph.input_shapes(node))

    def graph(self, architecture: Sequence[int]) -> Graph:
        """The lowered architecture, from a cache."""
        return self._lower(tuple(int(choice) for choice in architecture))

    def _lowered(self, architecture: Architecture) -> Graph:
        """Lower, and add what this architecture runs beside the choices: additions and the like, without weights."""
        graph = self.space.lower(architecture)
        for node in graph.nodes:
            if node.name not in self.nodes:
                module = node.kernel.module(*graph.input_shapes(node))
                if module.state_dict():
                    raise RuntimeError(f"the covering graphs of {self.space.name} lack the weights of {node.name}")
                self.nodes[node.name] = module.train(self.training)
        return graph

    def forward(self, x: Tensor, architecture: Sequence[int]) -> Tensor:
        """Logits of a batch ``(N, C, H, W)`` along the path of `architecture`."""
        return run_graph(self.graph(architecture), self.nodes._modules, x)

    def active_modules(self, architecture: Sequence[int]) -> list[nn.Module]:
        """The kernel modules that `architecture` runs."""
        return [self.nodes[node.name] for node in self.graph(architecture).nodes]

    def weights_of(self, architecture: Architecture) -> dict[str, Tensor]:
        """State dict for ``space.lower(architecture).to_module()``, sharing storage with the supernet."""
        return {
            f"{node.name}.{key}": value
            for node in self.graph(architecture).nodes
            for key, value in self.nodes[node.name].state_dict().items()
        }


def covering_graphs(space: SearchSpace) -> list[Graph]:
    """Graphs of a few architectures that together contain every choice of every decision."""
    radices = space.radices
    rows = [np.full(len(radices), shift) % radices for shift in range(int(radices.max()))]
    return [space.lower(row.tolist()) for row in rows]
