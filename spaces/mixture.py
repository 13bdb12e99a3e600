"""The mixture of all operations on every edge of `darts`, weighed by the architecture's parameters (arXiv 1806.09055).

It runs on the weights of a `Supernet`, so what was trained in the mixture can be looked at path by path.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hwnas.spaces.darts import DARTS, EDGES, NODES, NONE, OPERATIONS, SKIP
from hwnas.spaces.errors import ConfigError
from hwnas.spaces.graph import Graph
from hwnas.spaces.module import run_graph
from hwnas.spaces.supernet import Supernet

__all__ = ["Mixture"]


class Mixture(nn.Module):
    """A network in which every edge is ``sum_o share[edge, o] * o(x)``.

    Every operation of every edge is computed, and is in memory until the backward pass: eight times what a single
    path needs. The result of a pooling is normalised (without parameters), as in the published code: else its scale
    would decide.

    Parameters
    ----------
    supernet
        Weights of all operations, of the space `darts` or of one trained for a task.
    operations
        Which are mixed, by their numbers; all if not given.

    Raises
    ------
    ConfigError
        If the supernet is of another space.
    """

    def __init__(self, supernet: Supernet, operations: Sequence[int] | None = None) -> None:
        super().__init__()
        space: Any = getattr(supernet.space, "space", supernet.space)  # a task's space holds the space
        if not isinstance(space, DARTS):
            raise ConfigError(f"a mixture is of the space darts, not of {supernet.space.name}")
        self.supernet, self._cells = supernet, space.cells_of_stack
        chosen = range(len(OPERATIONS)) if operations is None else operations
        self._operations = [operation for operation in chosen if operation != NONE]
        if not self._operations:
            raise ConfigError("a mixture needs an operation other than none")
        # of an operation on an edge of a cell: its nodes, each reading the one before
        chains: dict[str, list[str]] = {}
        for operation in self._operations:
            for node in supernet.graph([operation] * len(space.decisions)).nodes:
                cell, _, place = node.name.partition("/")
                if place.startswith("edge"):
                    chains.setdefault("/".join((cell, *place.split("/")[:2])), []).append(node.name)
        self._chains = chains
        whole = supernet.graph([SKIP] * len(space.decisions))
        last = max(index for index, node in enumerate(whole.nodes) if node.name.startswith("cell"))
        first = min(index for index, node in enumerate(whole.nodes) if node.name.startswith("cell"))
        self._stem = Graph(whole.nodes[:first], whole.inputs, [whole.nodes[first - 1].name])
        end = whole.nodes[last].name
        self._head = Graph(whole.nodes[last + 1 :], {end: whole.shapes[end]}, whole.outputs)

    def forward(self, x: Tensor, shares: Tensor) -> Tensor:
        """Logits of a batch.

        Parameters
        ----------
        x
            ``(N, C, H, W)``.
        shares
            Of each operation on each edge, ``(decisions, operations)``.
        """
        nodes: Any = self.supernet.nodes
        x = run_graph(self._stem, nodes, x)
        before, last = x, x
        for name, first in self._cells:
            tensors = []
            for number, tensor in enumerate((before, last)):
                relu = nodes[f"{name}/input{number}/relu"](tensor)
                tensors.append(nodes[f"{name}/input{number}/conv"](relu))
            for node in NODES:
                total: Tensor | None = None
                for index, (source, end) in enumerate(EDGES):
                    if end == node:
                        mixed = self._edge(f"{name}/edge{source}to{node}", tensors[source], shares[first + index])
                        total = mixed if total is None else total + mixed
                assert total is not None
                tensors.append(total)
            before, last = last, torch.cat(tensors[2:], dim=1)
        return run_graph(self._head, nodes, last)

    def _edge(self, place: str, x: Tensor, shares: Tensor) -> Tensor:
        total: Tensor | None = None
        for operation in self._operations:
            code, y = OPERATIONS[operation], x
            for node in self._chains.get(f"{place}/{code}", ()):
                y = self.supernet.nodes[node](y)
            if code in ("max3", "avg3"):
                y = F.batch_norm(y, None, None, training=True)
            part = shares[operation] * y
            total = part if total is None else total + part
        assert total is not None
        return total
