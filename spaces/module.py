"""Graphs as torch modules."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from torch import Tensor, nn

if TYPE_CHECKING:
    from hwnas.spaces.graph import Graph

__all__ = ["GraphModule", "run_graph"]


def run_graph(graph: Graph, modules: Mapping[str, nn.Module], *inputs: Tensor) -> Tensor:
    """Run a graph of one output with the given module of every node.

    Parameters
    ----------
    graph
        The wiring.
    modules
        Node name to module; more nodes than the graph has are fine (a supernet's).
    inputs
        Input batches, ``(N, C, H, W)``, in the order of the graph's inputs.
    """
    last: dict[str, int] = {}
    for index, node in enumerate(graph.nodes):
        for name in node.inputs:
            last[name] = index
    (target,) = graph.outputs
    values = dict(zip(graph.inputs, inputs, strict=True))
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

    def forward(self, *inputs: Tensor) -> Tensor:
        """Logits of a batch ``(N, C, H, W)``; a part of a network can have several inputs."""
        return run_graph(self.graph, self._modules, *inputs)  # type: ignore[arg-type]
