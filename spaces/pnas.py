"""The space `pnas`: cells of up to five blocks, as PNAS searches them."""

from __future__ import annotations

import itertools
import math
from functools import cached_property
from typing import ClassVar

import numpy as np

from hwnas.spaces.errors import ConfigError
from hwnas.spaces.graph import Graph, GraphBuilder
from hwnas.spaces.growing import Growing
from hwnas.spaces.kernels import Activation, Add, Conv, DepthwiseConv, GlobalPool, Linear, Pool
from hwnas.spaces.layout_kernels import Concat
from hwnas.spaces.scaling import ScaledSpace, keep_strides, scale_depth
from hwnas.spaces.space import Architecture, Decision, Term

__all__ = ["OPERATIONS", "PNAS"]

OPERATIONS = ("sep3", "sep5", "sep7", "conv7", "identity", "avg3", "max3", "dil3")
IDENTITY = OPERATIONS.index("identity")
FILTERS, REPEATS = 24, 2
#: A block is four decisions: which two tensors it reads, and what it does to each before they are added.
VARIABLES = ("input1", "input2", "op1", "op2")
#: More than any pair of an input and an operation: 2 cell inputs and 7 blocks, times 8.
_PAIRS = 72
MOST_BLOCKS = 5


class PNAS(ScaledSpace, Growing):
    """Cells of blocks, stacked: the space of PNAS (arXiv 1712.00559) for small images.

    A block adds the results of two operations, each on the output of one of the two cells before or of an earlier
    block of its cell; the cell's output is the concatenation of all its blocks. One cell is decided: three stages of
    it, where the first cell of the second and third has stride 2 and twice the channels. A cell's inputs are brought
    to its channels by a ReLU and a 1x1 convolution each, also the one that no block reads, as in the published code; a
    runtime drops that. Where the input before the last is larger, its convolution has a stride of 2 (the published
    code splits it into two).

    Parameters
    ----------
    resolution, channels, classes
        Input height and width in pixels, input channels, and output classes.
    width, depth
        Multipliers of the 24 channels of the first cell (F of the paper) and of the 2 repeats of a cell in each stage
        (N). PNASNet-5 for CIFAR-10 has ``width=2, depth=1.5``.
    blocks, fewest
        Most and fewest blocks of a cell, 1 to 5.

    Raises
    ------
    ConfigError
        If a parameter is out of range.
    """

    name: ClassVar[str] = "pnas"
    summary: ClassVar[str] = "cells of 1 to 5 blocks of two operations each, stacked in three stages"
    paper: ClassVar[str] = "PNAS, arXiv 1712.00559"
    is_chain: ClassVar[bool] = False

    def __init__(
        self,
        resolution: int = 32,
        channels: int = 3,
        classes: int = 10,
        width: float = 1.0,
        depth: float = 1.0,
        blocks: int = 5,
        fewest: int = 1,
    ) -> None:
        if not 1 <= fewest <= blocks <= MOST_BLOCKS:
            raise ConfigError(
                f"pnas needs fewest and blocks with 1 <= fewest <= blocks <= {MOST_BLOCKS}, not {fewest} and {blocks}"
            )
        self.blocks, self.fewest = blocks, fewest
        super().__init__(resolution, channels, classes, width, depth)

    def _lay_out(self) -> None:
        self._filters = max(1, round(FILTERS * self.width))
        strides = keep_strides(self.resolution, (2, 2))
        self._cells: list[tuple[str, int, int]] = []  # name, channels, stride
        for stage in range(3):
            for index in range(scale_depth(REPEATS, self.depth)):
                stride = strides[stage - 1] if stage and index == 0 else 1
                self._cells.append((f"stage{stage}/{index}", self._filters * 2**stage, stride))
        self.decisions = (
            Decision("blocks", tuple(str(count) for count in range(self.fewest, self.blocks + 1))),
            *(
                Decision(f"block{block + 1}/{variable}", labels)
                for block in range(self.blocks)
                for variable, labels in zip(VARIABLES, (_inputs(block),) * 2 + (OPERATIONS,) * 2, strict=True)
            ),
        )

    @property
    def layers(self) -> tuple[tuple[int, ...], ...]:
        """The number of blocks, and the four variables of each block."""
        return ((0,), *(tuple(range(4 * block + 1, 4 * block + 5)) for block in range(self.blocks)))

    def live(self, architectures: np.ndarray) -> np.ndarray:
        rows = np.atleast_2d(architectures)
        number = np.concatenate([[-1], np.repeat(np.arange(self.blocks), 4)])
        return np.asarray(number[None] < self.complexity(rows)[:, None])

    # ------------------------------------------------------------------ networks

    def build(self, architecture: Architecture) -> Graph:
        builder = GraphBuilder(self.input_shape)
        builder.block("stem", f"conv(k=3,s=1,o={self._filters})")
        before = last = builder.add("stem/conv", Conv(o=self._filters, k=3), "input")
        for name, channels, stride in self._cells:
            before, last = last, self._cell(builder, name, before, last, channels, stride, architecture)
        builder.block("head", f"head(n={self.classes},act=relu)")
        x = builder.add("head/relu", Activation("relu"), last)
        x = builder.add("head/pool", GlobalPool(), x)
        return builder.graph(builder.add("head/classifier", Linear(o=self.classes), x))

    def _cell(
        self,
        builder: GraphBuilder,
        name: str,
        before: str,
        last: str,
        channels: int,
        stride: int,
        architecture: Architecture,
    ) -> str:
        """Add a cell that reads the outputs of the two cells before, and return its output."""
        tensors = []
        for number, tensor in enumerate((before, last)):
            s = math.ceil(builder.shapes[tensor][2] / builder.shapes[last][2])
            builder.block(f"{name}/input{number}", f"enter(s={s},o={channels})")
            relu = builder.add(f"{name}/input{number}/relu", Activation("relu"), tensor)
            tensors.append(builder.add(f"{name}/input{number}/conv", Conv(o=channels, k=1, s=s), relu))
        for block in range(self.fewest + architecture[0]):
            *sources, first, second = architecture[4 * block + 1 : 4 * block + 5]
            sides = []
            for side, (source, operation) in enumerate(zip(sources, (first, second), strict=True)):
                s, code = stride if source < 2 else 1, OPERATIONS[operation]
                place = f"{name}/block{block + 1}/{side + 1}"
                builder.block(place, f"{code}(s={s})", 4 * block + 3 + side)
                sides.append(_operation(builder, f"{place}/{code}", tensors[source], code, s, channels))
            builder.block(f"{name}/block{block + 1}/add", "add")
            tensors.append(builder.add(f"{name}/block{block + 1}/add", Add(), *sides))
        if len(tensors) == 3:
            return tensors[2]
        builder.block(f"{name}/concat", "concat")
        return builder.add(f"{name}/concat", Concat(), *tensors[2:])

    def covering(self) -> np.ndarray:
        """Cells of all blocks that read the cell's inputs only, with each operation once."""
        rows = np.zeros((len(OPERATIONS), len(self.decisions)), dtype=np.int64)
        rows[:, 0] = self.blocks - self.fewest
        for block in range(self.blocks):
            rows[:, 4 * block + 3 : 4 * block + 5] = np.arange(len(OPERATIONS))[:, None]
        return rows

    @cached_property
    def _costs(self) -> tuple[tuple[Graph, ...], tuple[Term, ...]]:
        """One term for the number of blocks, and one for each operand: blocks, what it reads, what it does.

        Another one for each block has what is different where both operands are one tensor: their sum reads it once.
        """
        catalog: dict[str, Graph] = {}
        counts = self.blocks - self.fewest + 1
        structure: list[list[str]] = []
        same: list[list[str]] = []
        row = np.zeros(len(self.decisions), dtype=np.int64)
        row[2::4] = 1  # the second operand reads the cell before: all is used
        for count in range(counts):
            row[0] = count
            parts = [block for block in self.lower(row.tolist()).blocks if block.block.decision is None]
            catalog.update((block.signature, block) for block in parts)
            structure.append([block.signature for block in parts])
        for block, source in ((0, 0), (1, 2))[: self.blocks]:  # the sum of a cell's input, and of a block, with itself
            twice = row.copy()
            twice[4 * block + 1 : 4 * block + 5] = (source, source, IDENTITY, IDENTITY)
            parts = [part for part in self.lower(twice.tolist()).blocks if part.block.decision is None]
            catalog.update((part.signature, part) for part in parts)
            same.append([part.signature for part in parts])
        operands: dict[tuple[int, bool, int], list[str]] = {}  # decision, reads a cell's input, operation
        for operation, inner in itertools.product(range(len(OPERATIONS)), (False, True)):
            for block in range(self.blocks):
                row[4 * block + 1 : 4 * block + 3] = (2, 2) if inner and block else (0, 1)
                row[4 * block + 3 : 4 * block + 5] = operation
            for part in self.lower(row.tolist()).blocks:
                decision = part.block.decision
                if decision is not None and (not inner or decision > 4):
                    catalog.setdefault(part.signature, part)
                    operands.setdefault((decision, not inner, operation), []).append(part.signature)
        column = {signature: index for index, signature in enumerate(catalog)}

        def counted(signatures: list[str]) -> np.ndarray:
            return np.bincount([column[signature] for signature in signatures], minlength=len(catalog))

        terms = [Term((0,), np.stack([counted(signatures) for signatures in structure]))]
        for block, side in itertools.product(range(self.blocks), range(2)):
            reads, does = 4 * block + 1 + side, 4 * block + 3 + side
            shape = (counts, block + 2, len(OPERATIONS))
            table = np.zeros((*shape, len(catalog)), dtype=np.int64)
            for source, operation in itertools.product(range(block + 2), range(len(OPERATIONS))):
                found = counted(operands.get((does, source < 2, operation), []))
                table[max(0, block + 1 - self.fewest) :, source, operation] = found
            terms.append(Term((0, reads, does), table.reshape(-1, len(catalog))))
        other = [counted(signatures) - counted(structure[-1]) for signatures in same]
        for block in range(self.blocks):
            pairs = (counts, block + 2, block + 2, len(OPERATIONS), len(OPERATIONS))
            table = np.zeros((*pairs, len(catalog)), dtype=np.int64)
            for source in range(block + 2):
                table[max(0, block + 1 - self.fewest) :, source, source, IDENTITY, IDENTITY] = other[source >= 2]
            terms.append(Term((0, *range(4 * block + 1, 4 * block + 5)), table.reshape(-1, len(catalog))))
        return tuple(catalog.values()), tuple(terms)

    # ------------------------------------------------------------------ growth

    token_kinds: ClassVar[tuple[int, ...]] = (0, 0, 1, 1)

    @property
    def vocabularies(self) -> tuple[int, ...]:
        """Inputs, and operations."""
        return (self.blocks + 1, len(OPERATIONS))

    def parts(self, architectures: np.ndarray) -> np.ndarray:
        """The two inputs and two operations of each block."""
        rows = np.atleast_2d(architectures)
        absent = np.arange(self.blocks)[None, :, None] >= self.complexity(rows)[:, None, None]
        return np.where(absent, -1, rows[:, 1:].reshape(len(rows), self.blocks, 4))

    def complexity(self, architectures: np.ndarray) -> np.ndarray:
        """Blocks of each cell."""
        return np.asarray(np.atleast_2d(architectures)[:, 0] + self.fewest, dtype=np.int64)

    def canonical(self, architectures: np.ndarray) -> np.ndarray:
        """Operands of a block in order, and blocks in the order that gives the least number; what is unused is 0."""
        rows = np.atleast_2d(np.asarray(architectures, dtype=np.int64))
        found = np.zeros_like(rows)
        found[:, 0] = rows[:, 0]
        for count in range(self.fewest, self.blocks + 1):
            mine = np.flatnonzero(rows[:, 0] + self.fewest == count)
            found[mine, 1 : 4 * count + 1] = _canonical(rows[mine, 1 : 4 * count + 1].reshape(-1, count, 4))
        return found

    def seeds(self) -> np.ndarray:
        """Every different cell of the fewest blocks."""
        rows = np.zeros((1, len(self.decisions)), dtype=np.int64)
        for block in range(self.fewest):
            rows = self._with_block(rows, block)
        return self._distinct(rows)

    def expansions(self, architectures: np.ndarray) -> np.ndarray:
        """Every different cell of one block more; none of cells that have all blocks."""
        rows = np.atleast_2d(np.asarray(architectures, dtype=np.int64))
        rows = rows[rows[:, 0] + self.fewest < self.blocks]
        grown = np.zeros((0, len(self.decisions)), dtype=np.int64)
        for count in np.unique(rows[:, 0]).tolist():
            larger = rows[rows[:, 0] == count]
            larger[:, 0] += 1
            grown = np.concatenate([grown, self._with_block(larger, self.fewest + count)])
        return self._distinct(grown)

    def _with_block(self, rows: np.ndarray, block: int) -> np.ndarray:
        """Each of `rows` with every possible block in place `block`."""
        inputs, operations = range(block + 2), range(len(OPERATIONS))
        new = np.array([c for c in itertools.product(inputs, inputs, operations, operations) if c[0::2] <= c[1::2]])
        grown = np.repeat(rows, len(new), axis=0)
        grown[:, 4 * block + 1 : 4 * block + 5] = np.tile(new, (len(rows), 1))
        return grown

    def _distinct(self, rows: np.ndarray) -> np.ndarray:
        return np.unique(self.canonical(rows), axis=0)


def _inputs(block: int) -> tuple[str, ...]:
    return ("before last", "last", *(f"block{number + 1}" for number in range(block)))


def _canonical(cells: np.ndarray) -> np.ndarray:
    """The least spelling of cells of equal size, ``(n, blocks, 4)`` to ``(n, 4 * blocks)``.

    A spelling is a number with one digit a block, the digit made of its two (input, operation) pairs in order. All
    orders of the blocks in which each reads only what is before it are tried.
    """
    n, count, _ = cells.shape
    least = np.full(n, np.iinfo(np.int64).max)
    for order in itertools.permutations(range(count)):
        place = np.concatenate([[0, 1], 2 + np.argsort(order)])  # of each tensor, after the change
        moved = cells[:, order, :]
        sources = place[moved[:, :, :2]]
        possible = (sources < 2 + np.arange(count)[None, :, None]).all(axis=(1, 2))
        if not possible.any():
            continue
        pairs = np.sort(sources[possible] * len(OPERATIONS) + moved[possible][:, :, 2:], axis=2)
        digits = pairs[:, :, 0] * _PAIRS + pairs[:, :, 1]
        number = np.zeros(len(digits), dtype=np.int64)
        for digit in digits.T:
            number = number * _PAIRS**2 + digit
        least[possible] = np.minimum(least[possible], number)
    found = np.zeros((n, count, 4), dtype=np.int64)
    for block in reversed(range(count)):
        least, digit = np.divmod(least, _PAIRS**2)
        pairs = np.stack(np.divmod(digit, _PAIRS), axis=1)
        found[:, block, :2], found[:, block, 2:] = pairs // len(OPERATIONS), pairs % len(OPERATIONS)
    return found.reshape(n, 4 * count)


def _operation(builder: GraphBuilder, name: str, x: str, code: str, s: int, o: int) -> str:
    """Add one operation; an identity without a stride is nothing."""
    if code == "identity" and s == 1:
        return x
    if code in ("avg3", "max3"):
        return builder.add(f"{name}/pool", Pool(code[:3], k=3, s=s, p=1), x)
    x = builder.add(f"{name}/relu", Activation("relu"), x)
    if code == "identity":
        return builder.add(f"{name}/conv", Conv(o=o, k=1, s=s), x)
    if code == "dil3":
        return builder.add(f"{name}/conv", Conv(o=o, k=3, s=s, d=2), x)
    if code == "conv7":
        x = builder.add(f"{name}/across", Conv(o=o, k=(1, 7), s=(1, s), act="relu"), x)
        return builder.add(f"{name}/down", Conv(o=o, k=(7, 1), s=(s, 1)), x)
    k = int(code[3:])
    for number, stride in ((1, s), (2, 1)):
        x = builder.add(f"{name}/depthwise{number}", DepthwiseConv(k=k, s=stride, bn=False), x)
        x = builder.add(f"{name}/pointwise{number}", Conv(o=o, k=1, act="relu" if number == 1 else None), x)
    return x
