"""What a predictor of latency sees of a network: sums over its kernels, and its longest paths.

Features come in named groups, because a group is weighed as a whole: which ones matter differs between devices.
Runtimes that run branches side by side follow the longest path, others the sum.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import combinations

import numpy as np

from hwnas.spaces.errors import ConfigError, ModelError
from hwnas.spaces.graph import Graph, Node
from hwnas.spaces.space import SearchSpace

__all__ = ["SMALL", "architecture_features", "choice_features", "graph_features", "kernel_kinds"]

#: the largest space whose choices are told apart in twos and threes
SMALL = 20_000


def graph_features(graphs: Iterable[Graph], kinds: Sequence[str] | None = None) -> dict[str, np.ndarray]:
    """Features of networks, or of any graphs; one row each.

    Parameters
    ----------
    graphs
        The networks.
    kinds
        Kinds of kernels that have columns, as `kernel_kinds` lists them: features of different calls compare only if
        it is given. If not, those of `graphs`.

    Returns
    -------
    dict
        ``totals``: number of kernels, multiply-accumulates, and bytes moved; ``kernels``: the same for every kind of
        kernel (its operator, with its window where it has one); ``path``: the longest path from input to output by
        number of kernels, by multiply-accumulates, by bytes, and by number of kernels of each kind.

    Raises
    ------
    ModelError
        If a graph has a kernel of a kind that has no columns.
    """
    rows = list(graphs)
    columns = {kind: column for column, kind in enumerate(kernel_kinds(rows) if kinds is None else kinds)}
    kernels = np.zeros((len(rows), len(columns), 3))
    paths = np.zeros((len(rows), 3 + len(columns)))
    for row, graph in enumerate(rows):
        longest = {name: np.zeros(paths.shape[1]) for name in graph.inputs}
        for node in graph.nodes:
            shapes, kind = graph.input_shapes(node), columns.get(_kind(node))
            if kind is None:
                raise ModelError(f"the kernel {node.kernel.label} is of the kind {_kind(node)}, which has no column")
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
    """Features of a space's architectures: those of their graphs, their choices, and how often each operator runs.

    ``choices`` has one column for each choice of each decision; ``operators`` one for each choice by its name, with the
    number of decisions that take it and take part in the computation. A chain has no ``path``: its longest path is the
    whole network.
    """
    rows = np.asarray(architectures)
    features = {"choices": space.encode(rows), "operators": _operators(space, rows)}
    if space.is_chain:  # every block is one of the catalog
        parts, counts = graph_features(space.catalog), space.counts(rows)
        return {**features, **{name: counts @ parts[name] for name in ("totals", "kernels")}}
    return {**features, **graph_features(map(space.lower, rows.tolist()), kernel_kinds(space.catalog))}


def choice_features(space: SearchSpace, architectures: np.ndarray | Sequence[Sequence[int]]) -> dict[str, np.ndarray]:
    """Features of the cells of a small space: which choices take part in the computation, one, two and three at a time.

    A sum over single choices misses what a runtime makes of neighbours, such as an addition that it hides behind a
    convolution. With hundreds of measurements, pairs and triples of choices tell that; with few, the first two groups
    count. No graph is built, so that all architectures of a space take a second.

    Parameters
    ----------
    space
        A space of at most `SMALL` architectures.
    architectures
        Shape ``(n, decisions)``.

    Returns
    -------
    dict
        ``operators``: how often each operator runs, and how many tensors are added to others; ``live``: which choice
        each decision took, or that it takes no part; ``pairs`` and ``triples``: products of these columns over two and
        three decisions.

    Raises
    ------
    ConfigError
        If the space is larger.
    """
    if space.size > SMALL:
        raise ConfigError(f"{space.name} has {space.size:.2g} architectures; choices are told apart up to {SMALL:,}")
    everything, rows = space.all(), np.atleast_2d(np.asarray(architectures))
    ever, live = space.live(everything), space.live(rows)
    single = []
    for decision in range(len(space.decisions)):
        absent = np.where(live[:, decision], rows[:, decision], -1)
        choices = np.unique(np.where(ever[:, decision], everything[:, decision], -1))
        single.append((absent[:, None] == choices).astype(float))
    joins = [np.maximum(live[:, layer].sum(axis=1) - 1, 0) for layer in map(list, space.layers) if not space.is_chain]
    operators = np.column_stack([_operators(space, rows), np.sum(joins, axis=0) if joins else np.zeros(len(rows))])
    groups = {"operators": operators, "live": np.concatenate(single, axis=1)}
    for name, count in (("pairs", 2), ("triples", 3)):
        if len(single) >= count:
            groups[name] = np.concatenate([_products(parts) for parts in combinations(single, count)], axis=1)
    return groups


def _products(parts: Sequence[np.ndarray]) -> np.ndarray:
    product = parts[0]
    for part in parts[1:]:
        product = (product[:, :, None] * part[:, None, :]).reshape(len(part), -1)
    return product


def _operators(space: SearchSpace, rows: np.ndarray) -> np.ndarray:
    names = {name: column for column, name in enumerate(sorted({c for d in space.decisions for c in d.choices}))}
    live, counts = space.live(rows), np.zeros((len(rows), len(names)))
    for index, decision in enumerate(space.decisions):
        column = np.array([names[choice] for choice in decision.choices])[rows[:, index]]
        counts[np.arange(len(rows)), column] += live[:, index]
    return counts


def kernel_kinds(graphs: Iterable[Graph]) -> list[str]:
    """The kinds of kernels in graphs, sorted: operators, with their window where they have one."""
    return sorted({_kind(node) for graph in graphs for node in graph.nodes})


def _kind(node: Node) -> str:
    window = getattr(node.kernel, "k", "")
    mode = getattr(node.kernel, "mode", "")
    return f"{node.kernel.op}{mode}{window}"
