"""The space `nasbench201`: cells of six edges with five operators, as in the published tables."""

from __future__ import annotations

import math
from functools import cached_property
from typing import ClassVar

import numpy as np

from hwnas.spaces.errors import ConfigError
from hwnas.spaces.graph import Graph, GraphBuilder
from hwnas.spaces.kernels import Activation, Add, BatchNorm, Conv, GlobalPool, Linear, Pool, Zero
from hwnas.spaces.scaling import ScaledSpace, keep_strides, scale_depth
from hwnas.spaces.space import Architecture, Decision, Term

__all__ = ["EDGES", "OPERATORS", "NASBench201"]

OPERATORS = ("none", "skip_connect", "nor_conv_1x1", "nor_conv_3x3", "avg_pool_3x3")
NONE, SKIP = 0, 1
#: edges (from node, to node) in the order of the published architecture tables
EDGES = ((0, 1), (0, 2), (1, 2), (0, 3), (1, 3), (2, 3))
STEM, CELLS = 16, 5
PUBLISHED_HEAD_FLOPS = 5184


class NASBench201(ScaledSpace):
    """A cell of four nodes and six edges, five times in each of three stages (arXiv 2001.00326).

    Stages have 16, 32 and 64 channels; a residual block halves the resolution between them. An
    edge whose source cannot be reached from the cell's input, or whose end does not lead to its
    output, does nothing; `lower` leaves it out, and `build` with ``dead_edges=True`` keeps it, which
    is what the published parameter and FLOP counts include.

    Parameters
    ----------
    resolution, channels, classes
        Input height and width in pixels (a multiple of 4), input channels, and output classes.
    width, depth
        Multipliers of the channels and of the cells in each stage.
    """

    name: ClassVar[str] = "nasbench201"
    summary: ClassVar[str] = "cells of 6 edges x 5 operators, the space of the published tables"
    paper: ClassVar[str] = "NAS-Bench-201, arXiv 2001.00326"
    is_chain: ClassVar[bool] = False

    def __init__(
        self, resolution: int = 32, channels: int = 3, classes: int = 10, width: float = 1.0, depth: float = 1.0
    ) -> None:
        super().__init__(resolution, channels, classes, width, depth)

    def _lay_out(self) -> None:
        if self.resolution % 4:
            raise ConfigError(f"nasbench201 needs a resolution that is a multiple of 4, not {self.resolution}")
        self._strides = keep_strides(self.resolution, (2, 2))
        self._stem = max(1, round(STEM * self.width))
        self._cells = scale_depth(CELLS, self.depth)
        self.decisions = tuple(Decision(f"edge{source}to{target}", OPERATORS) for source, target in EDGES)

    def build(self, architecture: Architecture, *, dead_edges: bool = False) -> Graph:
        builder = GraphBuilder(self.input_shape)
        c = self._stem
        builder.block("stem", f"conv(k=3,s=1,o={c})")
        x = builder.add("stem/conv", Conv(o=c, k=3), "input")
        for stage in range(3):
            if stage:
                c *= 2
                x = _reduction(builder, f"reduce{stage}", x, s=self._strides[stage - 1], o=c)
            for cell in range(self._cells):
                x = _cell(builder, f"stage{stage}/{cell}", x, architecture, dead_edges)
        builder.block("head", f"head(n={self.classes},act=relu)")
        x = builder.add("head/bn", BatchNorm(act="relu"), x)
        x = builder.add("head/pool", GlobalPool(), x)
        return builder.graph(builder.add("head/classifier", Linear(o=self.classes), x))

    def published_counts(self, architecture: Architecture) -> tuple[int, int]:
        """Parameters and FLOPs by the counting rules of the published table.

        The table counts dead edges too, and besides multiply-accumulates 2 operations an element of
        a BatchNorm, 1 of a ReLU and ``k * k`` of a pooling window. What it counts for the classifier's
        pooling could not be derived; it is the same constant for all 15,625 architectures.
        """
        graph = self.build(self.validate(architecture), dead_edges=True)
        flops = graph.macs + PUBLISHED_HEAD_FLOPS
        for node in graph.nodes:
            kernel, elements = node.kernel, math.prod(graph.shapes[node.name])
            if isinstance(kernel, Pool) and isinstance(kernel.k, int):
                flops += elements * kernel.k**2
            elif isinstance(kernel, Activation):
                flops += elements
            elif isinstance(kernel, BatchNorm) or (isinstance(kernel, Conv) and kernel.bn):
                flops += (3 if kernel.act else 2) * elements
        return graph.params, flops

    @cached_property
    def _costs(self) -> tuple[tuple[Graph, ...], tuple[Term, ...]]:
        """One term over all six edges: what runs depends on which edges are alive, and so on all of them."""
        choices = self.all()
        alive, sums = _liveness(choices)
        # a few architectures that show every block: each operator on every edge, no path, each kind of sum
        rows = [[operator] * 6 for operator in range(len(OPERATORS))]
        kinds = sorted(set(map(tuple, sums.reshape(-1, 2).tolist())) - {(0, 0), (1, 1)})
        rows += [choices[np.argmax((sums == kind).all(axis=2).any(axis=1))].tolist() for kind in kinds]
        catalog: dict[str, Graph] = {}
        stages: list[dict[tuple[str, int], str]] = [{}, {}, {}]  # (label, inputs) to signature, per stage
        base: dict[str, int] = {}
        for number, row in enumerate(rows):
            for block in self.lower(row).blocks:
                catalog.setdefault(block.signature, block)
                if block.block.name.startswith("stage"):
                    stage = int(block.block.name.split("/")[0].removeprefix("stage"))
                    stages[stage][block.label, len(block.inputs)] = block.signature
                elif number == 0:
                    base[block.signature] = base.get(block.signature, 0) + 1
        column = {signature: index for index, signature in enumerate(catalog)}
        fixed = np.array([[base.get(signature, 0) for signature in catalog]], dtype=np.int64)
        table = np.zeros((len(choices), len(catalog)), dtype=np.int64)
        for signatures in stages:
            for operator, label in _EDGE_LABELS.items():
                running = (alive & (choices == OPERATORS.index(operator))).sum(axis=1)
                table[:, column[signatures[label, 1]]] += self._cells * running
            for count, distinct in kinds:
                occurs = (sums == (count, distinct)).all(axis=2).sum(axis=1)
                table[:, column[signatures[_sum_label(count), distinct]]] += self._cells * occurs
            table[:, column[signatures["zero", 1]]] += self._cells * ~alive.any(axis=1)
        return tuple(catalog.values()), (Term((), fixed), Term(tuple(range(6)), table))


_EDGE_LABELS = {
    "nor_conv_1x1": "edge(nor_conv_1x1)",
    "nor_conv_3x3": "edge(nor_conv_3x3)",
    "avg_pool_3x3": "edge(avg_pool_3x3)",
}


def _sum_label(width: int) -> str:
    return f"sum(n={width})"


def _liveness(choices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Which edges carry information, and what joins in each node.

    Parameters
    ----------
    choices
        Operators, shape ``(n, 6)``.

    Returns
    -------
    alive
        Shape ``(n, 6)``: on a path from the cell's input to its output, without `none`.
    sums
        Shape ``(n, 4, 2)``: how many tensors are added up in each node, and how many of them are
        distinct (skip connections can bring the same tensor twice).
    """
    used = choices != NONE
    reached = np.zeros((len(choices), 4), dtype=bool)
    reached[:, 0] = True
    for index, (source, target) in enumerate(EDGES):
        reached[:, target] |= used[:, index] & reached[:, source]
    leads = np.zeros_like(reached)
    leads[:, 3] = True
    for index in reversed(range(len(EDGES))):
        source, target = EDGES[index]
        leads[:, source] |= used[:, index] & leads[:, target]
    alive = np.stack([used[:, i] & reached[:, s] & leads[:, t] for i, (s, t) in enumerate(EDGES)], axis=1)
    sums = np.zeros((len(choices), 4, 2), dtype=np.int64)
    tensor = np.tile(np.arange(4), (len(choices), 1))  # which node's tensor a node passes on
    for target in (1, 2, 3):
        into = [index for index, (_, end) in enumerate(EDGES) if end == target]
        # an operator's output is a tensor of its own, numbered by its edge
        arriving = np.stack(
            [np.where(choices[:, i] == SKIP, tensor[:, EDGES[i][0]], 10 + i) for i in into], axis=1
        )  # fmt: skip
        arriving = np.where(alive[:, into], arriving, -1)
        ordered = np.sort(arriving, axis=1)
        fresh = np.concatenate([ordered[:, :1] >= 0, (np.diff(ordered) != 0) & (ordered[:, 1:] >= 0)], axis=1)
        sums[:, target, 0] = (arriving >= 0).sum(axis=1)
        sums[:, target, 1] = fresh.sum(axis=1)
        single = (sums[:, target, 0] == 1) & (ordered[:, -1] < 10)
        tensor[:, target] = np.where(single, ordered[:, -1], target)
    return alive, sums


def _edge(builder: GraphBuilder, name: str, x: str, operator: str) -> str:
    """Add one operator; a convolution is ReLU, convolution, BatchNorm."""
    builder.block(name, _EDGE_LABELS[operator])
    prefix = f"{name}/{operator}"
    if operator == "avg_pool_3x3":
        return builder.add(prefix, Pool("avg", k=3, s=1, p=1), x)
    k = 3 if operator == "nor_conv_3x3" else 1
    y = builder.add(f"{prefix}/relu", Activation("relu"), x)
    return builder.add(f"{prefix}/conv", Conv(o=builder.shapes[x][1], k=k), y)


def _cell(builder: GraphBuilder, name: str, x: str, architecture: Architecture, dead_edges: bool) -> str:
    """Add one cell and return its output node."""
    alive, _ = _liveness(np.array([architecture]))
    nodes = {0: x}
    for target in (1, 2, 3):
        arriving = []
        for index, (source, end) in enumerate(EDGES):
            operator = OPERATORS[architecture[index]]
            if end != target or source not in nodes or operator == "none" or not (alive[0, index] or dead_edges):
                continue
            tensor = nodes[source]
            if operator != "skip_connect":
                tensor = _edge(builder, f"{name}/edge{source}to{target}", tensor, operator)
            arriving.append(tensor)
        if len(arriving) > 1:
            builder.block(f"{name}/node{target}", _sum_label(len(arriving)))
            total = arriving[0]
            for number, tensor in enumerate(arriving[1:], start=1):
                total = builder.add(f"{name}/node{target}/add{number}", Add(), total, tensor)
            nodes[target] = total
        elif arriving:
            nodes[target] = arriving[0]
        elif target == 3 or dead_edges:
            builder.block(f"{name}/node{target}/zero", "zero")
            nodes[target] = builder.add(f"{name}/node{target}/zero", Zero(), x)
    return nodes[3]


def _reduction(builder: GraphBuilder, name: str, x: str, *, s: int, o: int) -> str:
    """Add the residual block between stages: two convolutions beside an average pool and a 1x1 convolution."""
    builder.block(name, f"residual(s={s},o={o})")
    y = builder.add(f"{name}/a/relu", Activation("relu"), x)
    y = builder.add(f"{name}/a/conv", Conv(o=o, k=3, s=s, act="relu"), y)
    y = builder.add(f"{name}/b/conv", Conv(o=o, k=3), y)
    if s == 2:
        x = builder.add(f"{name}/shortcut/pool", Pool("avg", k=2, s=2, p=0), x)
    x = builder.add(f"{name}/shortcut/conv", Conv(o=o, k=1, bn=False), x)
    return builder.add(f"{name}/add", Add(), x, y)
