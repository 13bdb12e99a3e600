"""The space `nasbench201`: cells of six edges with five operators, as in the published tables."""

from __future__ import annotations

import math
from functools import cached_property
from typing import ClassVar

import numpy as np

from hwnas.spaces.errors import ConfigError
from hwnas.spaces.graph import Graph, GraphBuilder
from hwnas.spaces.growing import Growing
from hwnas.spaces.kernels import Activation, Add, BatchNorm, Conv, GlobalPool, Linear, Pool, Zero
from hwnas.spaces.scaling import ScaledSpace, keep_strides, scale_depth
from hwnas.spaces.space import Architecture, Decision, Term

__all__ = ["EDGES", "OPERATORS", "NASBench201"]

OPERATORS = ("none", "skip_connect", "nor_conv_1x1", "nor_conv_3x3", "avg_pool_3x3")
NONE, SKIP, CONVOLUTIONS, POOL = 0, 1, (2, 3), 4
#: edges (from node, to node) in the order of the published architecture tables
EDGES = ((0, 1), (0, 2), (1, 2), (0, 3), (1, 3), (2, 3))
#: the edges after the two inner nodes change places, if the edge between them is none
_TWIN = (1, 0, 2, 3, 5, 4)
STEM, CELLS = 16, 5
PUBLISHED_HEAD_FLOPS = 5184


class NASBench201(ScaledSpace, Growing):
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
        plan = _Plan(np.array([architecture]), dead_edges)
        for stage in range(3):
            if stage:
                c *= 2
                x = _reduction(builder, f"reduce{stage}", x, s=self._strides[stage - 1], o=c)
            for cell in range(self._cells):
                first, last = cell == 0, cell == self._cells - 1
                x = _cell(builder, f"stage{stage}/{cell}", x, architecture, plan, first=first, last=last)
        builder.block("head", f"head(n={self.classes},act=relu)")
        x = builder.add("head/bn", BatchNorm(act="relu"), x)
        x = builder.add("head/pool", GlobalPool(), x)
        return builder.graph(builder.add("head/classifier", Linear(o=self.classes), x))

    @property
    def layers(self) -> tuple[tuple[int, ...], ...]:
        """The edges that end in one node."""
        ends = sorted({end for _, end in EDGES})
        return tuple(tuple(index for index, (_, end) in enumerate(EDGES) if end == node) for node in ends)

    def live(self, architectures: np.ndarray) -> np.ndarray:
        return _alive(np.atleast_2d(architectures))

    # ------------------------------------------------------------------ growth

    token_kinds: ClassVar[tuple[int, ...]] = (0,)

    @property
    def vocabularies(self) -> tuple[int, ...]:
        """Each operator on each edge: what averages the tokens of an architecture can still tell which is where."""
        return (len(EDGES) * len(OPERATORS),)

    def parts(self, architectures: np.ndarray) -> np.ndarray:
        """A token for each live edge with its operator; a dead one is absent, and the live ones come first."""
        rows = np.atleast_2d(architectures)
        alive = _alive(rows)
        order = np.argsort(~alive, axis=1, kind="stable")
        tokens = order * len(OPERATORS) + np.take_along_axis(rows, order, axis=1)
        return np.where(np.take_along_axis(alive, order, axis=1), tokens, -1)[:, :, None]

    def complexity(self, architectures: np.ndarray) -> np.ndarray:
        """Live edges of each cell."""
        return np.asarray(_alive(np.atleast_2d(architectures)).sum(axis=1), dtype=np.int64)

    def canonical(self, architectures: np.ndarray) -> np.ndarray:
        """Without operators on dead edges, and of two nodes that do not read each other the lesser order."""
        rows = np.atleast_2d(np.asarray(architectures, dtype=np.int64))
        rows = np.where(_alive(rows), rows, NONE)
        swapped = np.where(rows[:, [2]] == NONE, rows[:, _TWIN], rows)
        shape = (len(OPERATORS),) * len(EDGES)
        less = np.ravel_multi_index(tuple(swapped.T), shape) < np.ravel_multi_index(tuple(rows.T), shape)
        return np.where(less[:, None], swapped, rows)

    @cached_property
    def _distinct(self) -> np.ndarray:
        """Every different cell that computes something."""
        rows = np.unique(self.canonical(self.all()), axis=0)
        return rows[self.complexity(rows) > 0]

    @cached_property
    def _sets(self) -> np.ndarray:
        """The operators of each different cell as a set of bits."""
        return _set(self._distinct)

    def seeds(self) -> np.ndarray:
        """The cells that are a single path from the input to the output: of one, two or three edges."""
        cells = self._distinct
        alone = [(self._sets & ~bits == 0).sum() == 1 for bits in self._sets]  # holds no other cell than itself
        return np.asarray(cells[np.array(alone)])

    def expansions(self, architectures: np.ndarray) -> np.ndarray:
        """Cells with one live edge more, or two where neither lives alone, that keep the edges they have."""
        found = np.zeros(len(self._distinct), dtype=bool)
        sizes = self.complexity(self._distinct)
        for row in self.canonical(architectures):
            kept = np.zeros(len(found), dtype=bool)
            for spelling in (row, row[list(_TWIN)]) if row[2] == NONE else (row,):
                bits = _set(spelling[None])[0]
                kept |= self._sets & bits == bits
            found |= kept & np.isin(sizes - (row != NONE).sum(), (1, 2))
        return self._distinct[found]

    # ------------------------------------------------------------------ costs

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
                flops += 0 if node.name.startswith("stage") else elements
            elif isinstance(kernel, BatchNorm) or (isinstance(kernel, Conv) and kernel.bn):
                # in a cell every convolution has a ReLU of its own, which `build` lets neighbours share
                flops += (3 if kernel.act or node.name.startswith("stage") else 2) * elements
        return graph.params, flops

    @cached_property
    def _costs(self) -> tuple[tuple[Graph, ...], tuple[Term, ...]]:
        """One term over all six edges: what runs depends on which edges are alive, and so on all of them."""
        choices = self.all()
        kinds = _Plan(choices).kinds(self._cells)
        catalog: dict[str, Graph] = {}
        stages: list[dict[tuple[str, int], str]] = [{}, {}, {}]  # (label, inputs) to signature, per stage
        base: dict[str, int] = {}
        # the architectures that are the first to show a block of a cell show all of them
        for number, row in enumerate(sorted({int(np.argmax(occurs > 0)) for occurs in kinds.values() if occurs.any()})):
            for block in self.lower(choices[row].tolist()).blocks:
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
            for kind, occurs in kinds.items():
                if occurs.any():
                    table[:, column[signatures[kind]]] += occurs
        return tuple(catalog.values()), (Term((), fixed), Term(tuple(range(6)), table))


class _Plan:
    """How the cells of many architectures run: which edges are alive, what is added to what, who shares a result.

    Runtimes fuse a convolution with an addition behind it and with a ReLU behind both, and compute twice what is the
    same only once. A cell's blocks are cut accordingly: what arrives in a node without a convolution is added first,
    each convolution then adds its result, and the last one applies the ReLU if nothing but convolutions reads the
    node. A convolution whose only reader is a skip connection into a sum adds there. Equal poolings are one.

    Parameters
    ----------
    choices
        Operators, shape ``(n, 6)``.
    dead_edges
        Whether edges run that nothing depends on, each on its own.

    Attributes
    ----------
    alive, adds, relu
        Of each edge, ``(n, 6)``: whether it runs, whether it is a convolution that adds what arrived before it,
        and whether it is the last convolution of a node that only convolutions read.
    late
        Of each node, ``(n, 4)``: whether it is a single convolution that runs where its only reader adds it.
    tensor
        Of each node, ``(n, 4)``: the node whose tensor it passes on, itself unless it only skips.
    needed, pooled
        Of each tensor, ``(n, 4)``: whether a ReLU, and whether a pooling of it is computed on its own.
    plain, distinct
        Of each node, ``(n, 4)``: how many tensors arrive without a convolution, and how many different ones.
    joins
        ``(n,)``: whether the last convolution into a cell's output also applies the next cell's ReLU.
    last
        ``(n, 6)``: whether the edge is the last convolution into the cell's output.
    """

    def __init__(self, choices: np.ndarray, dead_edges: bool = False) -> None:
        n, everyone = len(choices), np.arange(len(choices))
        self.choices, self.dead_edges = choices, dead_edges
        self.alive = choices != NONE if dead_edges else _alive(choices)
        convolution = self.alive & np.isin(choices, CONVOLUTIONS)
        into = {target: [index for index, (_, end) in enumerate(EDGES) if end == target] for target in (1, 2, 3)}
        arriving = np.stack([np.zeros(n, int), *(self.alive[:, into[target]].sum(axis=1) for target in into)], axis=1)

        self.tensor = np.tile(np.arange(4), (n, 1))
        pooling = np.tile(np.arange(10, 14), (n, 1))  # whose tensor the pooling of each tensor is
        rectified, raw, self.pooled = (np.zeros((n, 4), dtype=np.int64) for _ in range(3))  # readers of each tensor
        for target, edges in into.items():
            for index in edges:
                source = self.tensor[:, EDGES[index][0]]
                skips = self.alive[:, index] & (choices[:, index] == SKIP)
                rectified[everyone, source] += convolution[:, index]
                raw[everyone, source] += skips & ((arriving[:, target] > 1) | np.bool_(dead_edges))
                self.pooled[everyone, source] += self.alive[:, index] & (choices[:, index] == POOL)
                alone = self.alive[:, index] & (arriving[:, target] == 1) & ~np.bool_(dead_edges)
                pools = alone & (choices[:, index] == POOL)
                known = pools & (pooling[everyone, source] < 10)
                pooling[everyone, source] = np.where(pools & ~known, target, pooling[everyone, source])
                same = np.where(known, pooling[everyone, source], source)
                self.tensor[:, target] = np.where((skips & alone) | known, same, self.tensor[:, target])
        output = self.tensor[:, 3]
        raw[everyone, output] += 1
        single = np.stack([np.zeros(n, bool), *(convolution[:, edges].any(axis=1) for edges in into.values())], axis=1)
        self.late = single & (arriving == 1) & (raw == 1) & (rectified + self.pooled == 0) & ~np.bool_(dead_edges)
        self.late[everyone, output] = False

        self.plain, self.distinct = np.zeros((n, 4), dtype=np.int64), np.zeros((n, 4), dtype=np.int64)
        self.adds, ends_in = np.zeros((n, 6), dtype=bool), np.zeros((n, 4), dtype=bool)
        final = np.full((n, 4), -1)  # the last convolution into each node
        for target, edges in into.items():
            postponed = np.zeros((n, len(edges)), dtype=bool)
            names = np.full((n, len(edges)), -1)
            for place, index in enumerate(edges):
                source = self.tensor[:, EDGES[index][0]]
                skips, plain = choices[:, index] == SKIP, self.alive[:, index] & ~convolution[:, index]
                postponed[:, place] = plain & skips & (arriving[:, target] > 1) & self.late[everyone, source]
                result = np.where(skips, source, index + 20 if dead_edges else pooling[everyone, source])
                names[:, place] = np.where(plain & ~postponed[:, place], result, -1)
            self.plain[:, target] = (names >= 0).sum(axis=1)
            ordered = np.sort(names, axis=1)
            self.distinct[:, target] = (ordered[:, 0] >= 0) + ((np.diff(ordered) != 0) & (ordered[:, 1:] >= 0)).sum(
                axis=1
            )
            before = self.plain[:, target] > 0
            for index in edges:
                self.adds[:, index] = convolution[:, index] & before
                before |= convolution[:, index]
                final[:, target] = np.where(convolution[:, index], index, final[:, target])
            for place, index in enumerate(edges):
                runs = np.flatnonzero(postponed[:, place])
                edge = final[runs, self.tensor[runs, EDGES[index][0]]]
                self.adds[runs, edge] = before[runs]
                before[runs] = True
                final[runs, target] = edge
            ends_in[:, target] = final[:, target] >= 0
        inner = (rectified > 0) & (raw + self.pooled == 0) & ends_in
        lone = (rectified[:, 0] > 0) & (raw[:, 0] + self.pooled[:, 0] == 0)
        self.joins = lone & (output != 0) & ends_in[everyone, output]
        self.last, self.relu = np.zeros((n, 6), dtype=bool), np.zeros((n, 6), dtype=bool)
        for node in (1, 2, 3):
            closing = final[:, node]
            rows = np.flatnonzero(inner[:, node])
            self.relu[rows, closing[rows]] = True
            rows = np.flatnonzero((output == node) & (closing >= 0))
            self.last[rows, closing[rows]] = True
        self.needed = (rectified > 0) & ~inner

    def kinds(self, cells: int) -> dict[tuple[str, int], np.ndarray]:
        """How often each block, by label and number of input tensors, occurs in a stage of `cells`; ``(n,)`` each."""
        joins = self.joins[:, None] & self.last
        found = {
            ("relu", 1): cells * self.needed.sum(axis=1) - (cells - 1) * self.joins,
            (OPERATORS[POOL], 1): cells * (self.pooled > 0).sum(axis=1),
            ("zero", 1): cells * ~self.alive.any(axis=1),
        }
        for count in (2, 3):
            for distinct in range(1, count + 1):
                occurs = (self.plain == count) & (self.distinct == distinct)
                found[f"sum(n={count})", distinct] = cells * occurs.sum(axis=1)
        for operator in CONVOLUTIONS:
            for adds in (False, True):
                runs = self.alive & (self.choices == operator) & (self.adds == adds)
                with_relu = cells * (runs & self.relu).sum(axis=1) + (cells - 1) * (runs & joins).sum(axis=1)
                inputs = 2 if adds else 1
                found[_label(operator, adds, True), inputs] = with_relu
                found[_label(operator, adds, False), inputs] = cells * runs.sum(axis=1) - with_relu
        return found


def _set(cells: np.ndarray) -> np.ndarray:
    """Cells as integers with a bit for each operator on each edge, ``(n,)``; none has no bit."""
    edges = np.arange(len(EDGES)) * (len(OPERATORS) - 1)
    return np.asarray(np.where(cells == NONE, 0, 1 << (edges + np.maximum(cells - 1, 0))).sum(axis=1))


def _label(operator: int, adds: bool, relu: bool) -> str:
    return f"{OPERATORS[operator]}{'+add' if adds else ''}{'+relu' if relu else ''}"


def _alive(choices: np.ndarray) -> np.ndarray:
    """Which edges, ``(n, 6)``, carry information: on a path from the cell's input to its output, without `none`."""
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
    return np.stack([used[:, i] & reached[:, s] & leads[:, t] for i, (s, t) in enumerate(EDGES)], axis=1)


def _cell(
    builder: GraphBuilder, name: str, x: str, architecture: Architecture, plan: _Plan, *, first: bool, last: bool
) -> str:
    """Add one cell and return its output node; `plan` is that of the one architecture."""
    nodes = {0: x}
    late: dict[int, int] = {}  # nodes whose convolution has yet to run, and its edge
    rectified: dict[str, str] = {}
    pooled: dict[str, str] = {}
    if not first and plan.joins[0]:
        rectified[x] = x  # the cell before has applied the ReLU

    def pool(index: int) -> str:
        edge, tensor = "{}/edge{}to{}".format(name, *EDGES[index]), nodes[EDGES[index][0]]
        if tensor not in pooled or plan.dead_edges:
            builder.block(edge, OPERATORS[POOL])
            pooled[tensor] = builder.add(f"{edge}/{OPERATORS[POOL]}", Pool("avg", k=3, s=1, p=1), tensor)
        return pooled[tensor]

    def convolve(index: int, total: str | None) -> str:
        source, operator = EDGES[index][0], architecture[index]
        tensor = nodes[source]
        if tensor not in rectified:
            builder.block(f"{name}/node{source}/relu", "relu")
            rectified[tensor] = builder.add(f"{name}/node{source}/relu", Activation("relu"), tensor)
        edge = "{}/edge{}to{}".format(name, *EDGES[index])
        applies = bool(plan.relu[0, index] or (plan.joins[0] and plan.last[0, index] and not last))
        builder.block(edge, _label(operator, total is not None, applies))
        prefix, k = f"{edge}/{OPERATORS[operator]}", 3 if OPERATORS[operator] == "nor_conv_3x3" else 1
        y = builder.add(f"{prefix}/conv", Conv(o=builder.shapes[tensor][1], k=k), rectified[tensor])
        if total is not None:
            y = builder.add(f"{prefix}/add", Add(), total, y)
        if applies:
            y = builder.add(f"{prefix}/relu", Activation("relu"), y)
            rectified[y] = y
        return y

    for target in (1, 2, 3):
        into = [index for index, (_, end) in enumerate(EDGES) if end == target and plan.alive[0, index]]
        arriving, convolutions, postponed = [], [], []
        for index in into:
            source = EDGES[index][0]
            if architecture[index] in CONVOLUTIONS:
                convolutions.append(index)
            elif architecture[index] == POOL:
                arriving.append(pool(index))
            elif source in late:
                postponed.append(late[source])
            else:
                arriving.append(nodes[source])
        origin = int(plan.tensor[0, target])
        if plan.late[0, origin]:  # this node, or the one that it passes on
            late[target] = late[origin] if origin in late else into[0]
            continue
        total = arriving[0] if arriving else None
        if len(arriving) > 1:
            builder.block(f"{name}/node{target}", f"sum(n={len(arriving)})")
            for number, tensor in enumerate(arriving[1:], start=1):
                total = builder.add(f"{name}/node{target}/add{number}", Add(), str(total), tensor)
        for index in (*convolutions, *postponed):
            total = convolve(index, total)
        if total is None and (target == 3 or plan.dead_edges):
            builder.block(f"{name}/node{target}/zero", "zero")
            total = builder.add(f"{name}/node{target}/zero", Zero(), x)
        if total is not None:
            nodes[target] = total
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
