"""Graphs as torch modules."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from torch import Tensor, nn

if TYPE_CHECKING:
    from hwnas.spaces.graph import Graph

__all__ = ["GraphModule", "run_graph"]


def run_graph(graph: Graph, modules: Mapping[str, nn.Module], x: Tensor) -> Tensor:
    """Run a one-input, one-output graph with the given module of every node.

    Parameters
    ----------
    graph
        The wiring.
    modules
        Node name to module; more nodes than the graph has are fine (a supernet's).
    x
        Input batch, ``(N, C, H, W)``.
    """
    last: dict[str, int] = {}
    for index, node in enumerate(graph.nodes):
        for name in node.inputs:
            last[name] = index
    (source,), (target,) = graph.inputs, graph.outputs
    values = {source: x}
    for index, node in enumerate(graph.nodes):
        values[node.name] = modules[node.name](*(values[name] for name in node.inputs))
        for name in set(node.inputs):
            if last[name] == index and name != target:
                del values[name]
    return values[target]


class GraphModule(nn.Module):
    """A graph with its own weights; parameters are named ``<node>.<parameter>``."""

    def __init__(self, graph: Graph) -> None:
        super().__init__()
        self.graph = graph
        for node in graph.nodes:
            self.add_module(node.name, node.kernel.module(*graph.input_shapes(node)))

    def forward(self, x: Tensor) -> Tensor:
        """Logits of a batch ``(N, C, H, W)``."""
        return run_graph(self.graph, self._modules, x)  # type: ignore[arg-type]
