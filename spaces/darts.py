"""The space `darts`: cells of fourteen edges with eight operations each."""

from __future__ import annotations

import itertools
import math
from functools import cached_property
from typing import ClassVar

import numpy as np

from hwnas.spaces.errors import ConfigError
from hwnas.spaces.graph import Graph, GraphBuilder
from hwnas.spaces.kernels import Activation, Add, Conv, DepthwiseConv, GlobalPool, Linear, Pool, Zero
from hwnas.spaces.layout_kernels import Concat
from hwnas.spaces.scaling import ScaledSpace, keep_strides, scale_depth
from hwnas.spaces.space import Architecture, Decision, Term

__all__ = ["DARTS", "EDGES", "NONE", "OPERATIONS"]

OPERATIONS = ("none", "max3", "avg3", "skip", "sep3", "sep5", "dil3", "dil5")
NONE, SKIP = 0, OPERATIONS.index("skip")
#: What a node does with what arrives.
JOINS = ("zero", "copy", "add")
#: Nodes 0 and 1 are the two cells before; each of the nodes 2 to 5 reads all that are before it.
NODES = (2, 3, 4, 5)
EDGES = tuple((source, node) for node in NODES for source in range(node))
CHANNELS, CELLS, STEM = 16, 8, 3


class DARTS(ScaledSpace):
    """Cells of four nodes, each the sum of what its edges bring, stacked: the space of DARTS (arXiv 1806.09055).

    A third and two thirds down the stack a reduction cell halves the resolution and doubles the channels. A cell's
    inputs are brought to its channels by a ReLU and a 1x1 convolution each, of stride 2 where the input is larger (the
    published code splits that one into two), and so is a skip connection of stride 2. The output is the concatenation
    of the four nodes.

    An architecture has an operation, or none, on every edge. DARTS keeps the two strongest edges of each node
    (`derive`), and compares with random cells of that kind (`sample_derived`).

    Parameters
    ----------
    resolution, channels, classes
        Input height and width in pixels, input channels, and output classes.
    width, depth
        Multipliers of the 16 channels of the first cell and of the 8 cells. The published networks for CIFAR-10 have
        ``width=2.25, depth=2.5``.
    cells
        ``shared``: all normal cells are alike, and all reduction cells; ``own``: each cell is decided for itself, as in
        MANAS (arXiv 1909.01051).

    Raises
    ------
    ConfigError
        If a parameter is out of range.
    """

    name: ClassVar[str] = "darts"
    summary: ClassVar[str] = "cells of 14 edges x 8 operations, shared or each of its own"
    paper: ClassVar[str] = "DARTS, arXiv 1806.09055"
    is_chain: ClassVar[bool] = False

    def __init__(
        self,
        resolution: int = 32,
        channels: int = 3,
        classes: int = 10,
        width: float = 1.0,
        depth: float = 1.0,
        cells: str = "shared",
    ) -> None:
        if cells not in ("shared", "own"):
            raise ConfigError(f"darts has cells=shared or cells=own, not {cells!r}")
        self.cells = cells
        super().__init__(resolution, channels, classes, width, depth)

    def _lay_out(self) -> None:
        count = scale_depth(CELLS, self.depth)
        reductions = sorted({count // 3, 2 * count // 3})
        strides = dict(zip(reductions, keep_strides(self.resolution, (2, 2)), strict=False))
        self._first = max(1, round(CHANNELS * self.width))
        self._layers: list[tuple[str, int, int, int]] = []  # of each cell: name, channels, stride, first decision
        kinds: dict[str, int] = {}
        normal: dict[int, None] = {}
        for index in range(count):
            kind = f"cell{index}" if self.cells == "own" else "reduce" if index in strides else "normal"
            first = kinds.setdefault(kind, len(EDGES) * len(kinds))
            if index not in strides:
                normal[first // len(EDGES)] = None
            channels = self._first * 2 ** sum(index >= reduction for reduction in reductions)
            self._layers.append((f"cell{index}", channels, strides.get(index, 1), first))
        #: Which of the cells that are decided (14 decisions each) are no reduction cells.
        self.normal = tuple(normal)
        self.decisions = tuple(
            Decision(f"{kind}/edge{source}to{node}", OPERATIONS) for kind in kinds for source, node in EDGES
        )

    @property
    def kinds(self) -> int:
        """Cells that are decided, 14 decisions each."""
        return len(self.decisions) // len(EDGES)

    @property
    def cells_of_stack(self) -> tuple[tuple[str, int], ...]:
        """Of each cell in the network: its name, and its first decision."""
        return tuple((name, first) for name, _, _, first in self._layers)

    @property
    def layers(self) -> tuple[tuple[int, ...], ...]:
        """The edges that end in one node of one kind of cell."""
        return tuple(
            tuple(first + index for index, (_, end) in enumerate(EDGES) if end == node)
            for first in range(0, len(self.decisions), len(EDGES))
            for node in NODES
        )

    # ------------------------------------------------------------------ what DARTS keeps

    def derive(self, weights: np.ndarray) -> Architecture:
        """Keep the two edges of each node whose best operation weighs most, each with that operation.

        Parameters
        ----------
        weights
            Of each operation on each edge, ``(decisions, operations)``; that of `none` does not count.
        """
        strongest = np.asarray(weights)[:, NONE + 1 :]
        choices = np.zeros(len(self.decisions), dtype=np.int64)
        for edges in self.layers:
            ranked = sorted(edges, key=lambda edge: -strongest[edge].max())
            for edge in ranked[:2]:
                choices[edge] = NONE + 1 + int(strongest[edge].argmax())
        return tuple(choices.tolist())

    def sample_derived(self, count: int, rng: np.random.Generator) -> np.ndarray:
        """Draw cells in which each node has two different inputs and an operation on each; ``(count, decisions)``."""
        return np.array([self.derive(rng.random((len(self.decisions), len(OPERATIONS)))) for _ in range(count)])

    # ------------------------------------------------------------------ networks

    def build(self, architecture: Architecture) -> Graph:
        builder = GraphBuilder(self.input_shape)
        stem = STEM * self._first
        builder.block("stem", f"conv(k=3,s=1,o={stem})")
        before = last = builder.add("stem/conv", Conv(o=stem, k=3), "input")
        for name, channels, stride, first in self._layers:
            choices = architecture[first : first + len(EDGES)]
            before, last = last, _cell(builder, name, (before, last), channels, stride, choices, first)
        builder.block("head", f"head(n={self.classes})")
        x = builder.add("head/pool", GlobalPool(), last)
        return builder.graph(builder.add("head/classifier", Linear(o=self.classes), x))

    @cached_property
    def _costs(self) -> tuple[tuple[Graph, ...], tuple[Term, ...]]:
        """A term for each edge, one for what each node does with what arrives (all its edges), and what is fixed."""
        catalog: dict[str, Graph] = {}
        fixed: list[str] = []
        chosen: dict[tuple[int, int], list[str]] = {}  # of an edge and its operation
        joined: dict[tuple[str, str], str] = {}  # of a node of a cell, and how it joins what arrives
        rows = [[operation] * len(self.decisions) for operation in range(len(OPERATIONS))]
        rows.append([SKIP if edge in self._lone else NONE for edge in range(len(self.decisions))])
        for row in rows:
            for block in self.lower(row).blocks:
                catalog.setdefault(block.signature, block)
                decision, label = block.block.decision, block.label
                if label in JOINS:
                    joined[block.block.name, label] = block.signature
                elif decision is not None and row in rows[:-1]:
                    chosen.setdefault((decision, row[0]), []).append(block.signature)
                elif decision is None and row is rows[0]:
                    fixed.append(block.signature)
        column = {signature: index for index, signature in enumerate(catalog)}

        def counted(signatures: list[str]) -> np.ndarray:
            return np.bincount([column[signature] for signature in signatures], minlength=len(catalog))

        terms = [Term((), counted(fixed)[None])]
        for edge in range(len(self.decisions)):
            terms.append(Term((edge,), np.stack([counted(chosen.get((edge, o), [])) for o in range(len(OPERATIONS))])))
        for edges in self.layers:
            joint = np.indices((len(OPERATIONS),) * len(edges)).reshape(len(edges), -1)
            live = (joint != NONE).sum(axis=0)
            table = np.zeros((joint.shape[1], len(catalog)), dtype=np.int16)
            for name, _, stride, first in self._layers:
                if not first <= edges[0] < first + len(EDGES):
                    continue
                place = f"{name}/node{len(edges)}"
                passes = (joint if stride == 1 else joint[2:]) == SKIP  # what costs nothing on its edge
                table[:, column[joined[place, "add"]]] += np.maximum(live - 1, 0).astype(np.int16)
                table[:, column[joined[place, "zero"]]] += live == 0
                if len(passes):
                    table[:, column[joined[place, "copy"]]] += (live == 1) & passes.any(axis=0)
            terms.append(Term(edges, table))
        return tuple(catalog.values()), tuple(terms)

    @property
    def _lone(self) -> set[int]:
        """The last edge of each node: the one that a reduction does not change, if the node has such."""
        return {edges[-1] for edges in self.layers}


def _cell(
    builder: GraphBuilder,
    name: str,
    inputs: tuple[str, str],
    channels: int,
    stride: int,
    choices: tuple[int, ...],
    first: int,
) -> str:
    """Add a cell and return its output; `first` is the decision of its first edge."""
    tensors = []
    for number, tensor in enumerate(inputs):
        s = math.ceil(builder.shapes[tensor][2] / builder.shapes[inputs[1]][2])
        builder.block(f"{name}/input{number}", f"enter(s={s},o={channels})")
        relu = builder.add(f"{name}/input{number}/relu", Activation("relu"), tensor)
        tensors.append(builder.add(f"{name}/input{number}/conv", Conv(o=channels, k=1, s=s), relu))
    edges = list(zip(EDGES, choices, itertools.count(first), strict=False))
    for node in NODES:
        into = [(source, choice, decision) for (source, end), choice, decision in edges if end == node]
        place, owner = f"{name}/node{node}", into[0][2]
        arriving = []
        for source, choice, decision in into:
            s = stride if source < 2 else 1
            if choice != NONE:
                code = OPERATIONS[choice]
                edge = f"{name}/edge{source}to{node}"
                if code != "skip" or s != 1:
                    builder.block(edge, f"{code}(s={s})", decision)
                arriving.append(_operation(builder, f"{edge}/{code}", tensors[source], code, s, channels))
        if not arriving:
            builder.block(place, "zero", owner)
            x = tensors[0]
            if stride != 1:
                x = builder.add(f"{place}/pool", Pool("max", k=3, s=stride, p=1), x)
            arriving = [builder.add(f"{place}/zero", Zero(), x)]
        elif arriving[0] in tensors and len(arriving) == 1:  # a tensor of its own, so that what reads it reads no other
            builder.block(place, "copy", owner)
            arriving = [builder.add(f"{place}/copy", Pool("max", k=1, s=1, p=0), arriving[0])]
        total = arriving[0]
        for number, tensor in enumerate(arriving[1:], start=1):
            builder.block(place if number == 1 else f"{place}/{number}", "add", owner)
            total = builder.add(f"{place}/add{number}", Add(), total, tensor)
        tensors.append(total)
    builder.block(f"{name}/concat", "concat")
    return builder.add(f"{name}/concat", Concat(), *tensors[2:])


def _operation(builder: GraphBuilder, name: str, x: str, code: str, s: int, o: int) -> str:
    """Add one operation; a skip connection without a stride is nothing."""
    if code == "skip" and s == 1:
        return x
    if code in ("avg3", "max3"):
        return builder.add(f"{name}/pool", Pool(code[:3], k=3, s=s, p=1), x)
    x = builder.add(f"{name}/relu", Activation("relu"), x)
    if code == "skip":
        return builder.add(f"{name}/conv", Conv(o=o, k=1, s=s), x)
    k = int(code[3:])
    if code.startswith("dil"):
        x = builder.add(f"{name}/depthwise", DepthwiseConv(k=k, s=s, d=2, bn=False), x)
        return builder.add(f"{name}/pointwise", Conv(o=o, k=1), x)
    for number, stride in ((1, s), (2, 1)):
        x = builder.add(f"{name}/depthwise{number}", DepthwiseConv(k=k, s=stride, bn=False), x)
        x = builder.add(f"{name}/pointwise{number}", Conv(o=o, k=1, act="relu" if number == 1 else None), x)
    return x
