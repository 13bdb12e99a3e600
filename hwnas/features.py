"""What a predictor of latency sees of a network: sums over its kernels, and its longest paths.

Features come in named groups, because a group is weighed as a whole: which ones matter differs between devices.
Runtimes that run branches side by side follow the longest path, others the sum.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from hwnas.spaces.graph import Graph, Node
from hwnas.spaces.space import SearchSpace

__all__ = ["architecture_features", "graph_features"]


def graph_features(graphs: Iterable[Graph]) -> dict[str, np.ndarray]:
    """Features of networks, or of any graphs; one row each.

    Returns
    -------
    dict
        ``totals``: number of kernels, multiply-accumulates, and bytes moved; ``kernels``: the same for every kind of
        kernel (its operator, with its window where it has one); ``path``: the longest path from input to output by
        number of kernels, by multiply-accumulates, by bytes, and by number of kernels of each kind.
    """
    rows = list(graphs)
    kinds = {kind: index for index, kind in enumerate(sorted({_kind(node) for graph in rows for node in graph.nodes}))}
    kernels = np.zeros((len(rows), len(kinds), 3))
    paths = np.zeros((len(rows), 3 + len(kinds)))
    for row, graph in enumerate(rows):
        longest = {name: np.zeros(3 + len(kinds)) for name in graph.inputs}
        for node in graph.nodes:
            shapes, kind = graph.input_shapes(node), kinds[_kind(node)]
            cost = np.array([1.0, node.kernel.macs(*shapes), node.kernel.bytes(*shapes)])
            kernels[row, kind] += cost
            here = np.max([longest[name] for name in node.inputs], axis=0) if node.inputs else np.zeros(paths.shape[1])
            here[:3] += cost
            here[3 + kind] += 1.0
            longest[node.name] = here
        paths[row] = np.max([longest[name] for name in graph.outputs], axis=0)
    return {"totals": kernels.sum(axis=1), "kernels": kernels.reshape(len(rows), -1), "path": paths}


def architecture_features(
    space: SearchSpace, architectures: np.ndarray | Sequence[Sequence[int]]
) -> dict[str, np.ndarray]:
    """Features of a space's architectures: those of their graphs, and ``choices``, one column a choice.

    A chain has no path of its own: its longest path is the whole network.
    """
    rows = np.asarray(architectures)
    features = {"choices": space.encode(rows)}
    if space.is_chain:  # every block is one of the catalog
        parts, counts = graph_features(space.catalog), space.counts(rows)
        return {**features, **{name: counts @ parts[name] for name in ("totals", "kernels")}}
    return {**features, **graph_features(space.lower(row) for row in rows.tolist())}


def _kind(node: Node) -> str:
    window = getattr(node.kernel, "k", "")
    mode = getattr(node.kernel, "mode", "")
    return f"{node.kernel.op}{mode}{window}"
