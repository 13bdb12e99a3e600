"""Kernels in their places: what one costs depends on its neighbours, and on how much else passes through the cache.

Runtimes fuse an operator into the one before it, change layouts where fast kernels meet others, and find a weight in
the cache only if the rest of the network has left it there.
"""

from __future__ import annotations

from dataclasses import dataclass

from hwnas.spaces.graph import Graph

__all__ = ["PlacedKernel", "Placement", "place_kernels"]


@dataclass(frozen=True)
class PlacedKernel:
    """A kernel and its neighbours.

    Attributes
    ----------
    signature
        What it is, see `Graph.signature`.
    after
        Operators that compute what only this kernel reads, in the order of its inputs, joined by ``+``: what it could
        be fused into. Empty for inputs of the network and for what others read, too.
    before
        Operator of the only kernel that reads its result; empty if there are several or none.
    """

    signature: str
    after: str = ""
    before: str = ""


@dataclass(frozen=True)
class Placement:
    """All kernels of a network in order, and what they move together.

    Attributes
    ----------
    kernels
        The kernels.
    weights, activations, largest
        Bytes of all weights, of all that kernels read and write besides, and the most of that for one kernel.
    """

    kernels: tuple[PlacedKernel, ...]
    weights: int
    activations: int
    largest: int


def place_kernels(graph: Graph) -> Placement:
    """Every kernel of a network in its place."""
    writer = {node.name: node for node in graph.nodes}
    readers: dict[str, list[str]] = {name: [] for name in writer}
    for node in graph.nodes:
        for name in dict.fromkeys(node.inputs):
            if name in readers:
                readers[name].append(node.kernel.op)
    for name in graph.outputs:
        if name in readers:
            readers[name].append("")
    placed, moved = [], [0]
    for node, kernel in zip(graph.nodes, graph.kernels, strict=True):
        own = [name for name in dict.fromkeys(node.inputs) if name in writer and len(readers[name]) == 1]
        following = readers[node.name]
        before = following[0] if len(following) == 1 else ""
        placed.append(PlacedKernel(kernel.signature, "+".join(writer[name].kernel.op for name in own), before))
        moved.append(kernel.bytes - kernel.size)
    return Placement(tuple(placed), graph.size, sum(moved), max(moved))
