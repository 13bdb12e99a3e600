"""What an architecture costs, for whole matrices of architectures at once.

Three kinds of cost cover every constraint: an `AdditiveCost` is a sum of table look-ups, one per
decision or joint group of decisions (latency, MACs, parameters, weight bytes); a `MaxCost` is the
largest of such look-ups (peak memory of a chain of blocks); a `GraphCost` lowers each architecture
and reads its graph (peak memory of anything else), and remembers what it read. NaN means "no such
number": an architecture with a NaN cost meets no bound.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from hwnas.spaces.errors import ModelError
from hwnas.spaces.space import SearchSpace

__all__ = ["AdditiveCost", "Cost", "GraphCost", "MaxCost", "Part", "RatioCost", "architecture_matrix"]

#: Rows priced at a time: the transposed indices and the sums of one chunk stay in the second-level cache.
CHUNK = 8192


def architecture_matrix(radices: np.ndarray, architectures: np.ndarray | Sequence[Sequence[int]]) -> np.ndarray:
    """Return `architectures` as an index matrix, shape ``(n, decisions)``.

    Raises
    ------
    ModelError
        If the number of decisions or any choice does not fit `radices`.
    """
    matrix = np.asarray(architectures)
    if matrix.size == 0:
        return np.empty((0, len(radices)), dtype=np.intp)
    if not np.issubdtype(matrix.dtype, np.integer):
        raise ModelError(f"architectures are lists of integers, not of {matrix.dtype}")
    matrix = np.atleast_2d(matrix)
    if matrix.ndim != 2 or matrix.shape[1] != len(radices):
        raise ModelError(f"the space has {len(radices)} decisions, but the architectures have {matrix.shape[-1]}")
    if matrix.min() < 0 or (matrix.max(axis=0) >= radices).any():
        raise ModelError("an architecture has a choice outside its space; choices count from 0")
    return matrix.astype(np.intp, copy=False)


class Cost(Protocol):
    """Anything that prices a matrix of architectures."""

    def values(self, architectures: np.ndarray) -> np.ndarray:
        """Price `architectures`, shape ``(n, decisions)``; returns ``(n,)``, float64, NaN where there is no value."""
        ...


@dataclass(frozen=True, eq=False)
class Part:
    """A look-up over one decision, or jointly over a few.

    Attributes
    ----------
    decisions
        Indices of the decisions, increasing.
    table
        Float64, one value for every joint choice, in C order.
    """

    decisions: tuple[int, ...]
    table: np.ndarray


def _space_parts(space: SearchSpace, tables: Iterable[np.ndarray]) -> tuple[list[Part], list[float]]:
    """Turn one table per term into parts over increasing decisions, and the values of terms over none."""
    parts: list[Part] = []
    fixed: list[float] = []
    for term, table in zip(space.terms, tables, strict=True):
        if not term.decisions:
            fixed.append(float(table[0]))
            continue
        order = np.argsort(term.decisions)
        shape = [int(space.radices[d]) for d in term.decisions]
        ordered = np.transpose(table.reshape(shape), order).ravel()
        parts.append(Part(tuple(sorted(term.decisions)), ordered.astype(np.float64)))
    return parts, fixed


class _Tabular:
    """What `AdditiveCost` and `MaxCost` share: parts, a constant, and the loop over chunks."""

    def __init__(self, radices: np.ndarray, parts: Iterable[Part], constant: float) -> None:
        self.radices = np.asarray(radices, dtype=np.int64)
        self.parts = tuple(parts)
        self.constant = float(constant)
        for part in self.parts:
            if len(part.table) != math.prod(int(self.radices[d]) for d in part.decisions):
                raise ModelError(f"a table over the decisions {part.decisions} has {len(part.table)} values")

    def _reduce(self, architectures: np.ndarray, reduction: np.ufunc) -> np.ndarray:
        matrix = architecture_matrix(self.radices, architectures)
        result = np.full(len(matrix), self.constant)
        for start in range(0, len(matrix), CHUNK):
            columns = np.ascontiguousarray(matrix[start : start + CHUNK].T)
            total = result[start : start + CHUNK]
            for part in self.parts:
                index = columns[part.decisions[0]]
                for decision in part.decisions[1:]:
                    index = index * self.radices[decision] + columns[decision]
                # the matrix is checked above, so clipping never happens: it only skips numpy's own check
                reduction(total, part.table.take(index, mode="clip"), out=total)
        return result

    def _restrict(self, choices: Sequence[np.ndarray]) -> list[Part]:
        """The parts over the sub-space in which decision `d` keeps only ``choices[d]``."""
        parts = []
        for part in self.parts:
            if len(part.decisions) == 1:
                table = part.table[choices[part.decisions[0]]]
            else:
                cube = part.table.reshape([int(self.radices[d]) for d in part.decisions])
                table = cube[np.ix_(*(choices[d] for d in part.decisions))].ravel()
            parts.append(Part(part.decisions, table))
        return parts


class AdditiveCost(_Tabular):
    """A constant plus one look-up per part.

    Parameters
    ----------
    radices
        Choices of each decision of the space, shape ``(decisions,)``.
    parts
        The look-ups; several over the same decisions are added up.
    constant
        What every architecture costs.
    """

    def __init__(self, radices: np.ndarray, parts: Iterable[Part], constant: float = 0.0) -> None:
        merged: dict[tuple[int, ...], np.ndarray] = {}
        for part in parts:
            known = merged.get(part.decisions)
            merged[part.decisions] = part.table if known is None else known + part.table
        super().__init__(radices, (Part(decisions, table) for decisions, table in merged.items()), constant)

    @classmethod
    def from_space(cls, space: SearchSpace, values: np.ndarray) -> AdditiveCost:
        """Sum a per-block value, shape ``(len(space.catalog),)``, over the blocks of an architecture."""
        parts, fixed = _space_parts(space, (term.counts @ values for term in space.terms))
        return cls(space.radices, parts, sum(fixed))

    def values(self, architectures: np.ndarray) -> np.ndarray:
        """Price `architectures`, shape ``(n, decisions)``; returns ``(n,)``."""
        return self._reduce(architectures, np.add)

    def scaled(self, slope: float, intercept: float = 0.0) -> AdditiveCost:
        """``intercept + slope * cost``."""
        parts = (Part(part.decisions, part.table * slope) for part in self.parts)
        return AdditiveCost(self.radices, parts, self.constant * slope + intercept)

    def plus(self, other: AdditiveCost) -> AdditiveCost:
        """The sum of two costs of the same space."""
        return AdditiveCost(self.radices, [*self.parts, *other.parts], self.constant + other.constant)

    def restricted(self, choices: Sequence[np.ndarray]) -> AdditiveCost:
        """The same cost over a sub-space: decision `d` keeps ``choices[d]``, renumbered from 0."""
        return AdditiveCost(np.array([len(c) for c in choices]), self._restrict(choices), self.constant)

    def marginals(self) -> list[np.ndarray]:
        """What depends on each decision, a value a choice, averaged over the other decisions as if each were uniform.

        Zeros where nothing depends on a decision; NaN parts are left out of an average.
        """
        found = [np.zeros(int(radix)) for radix in self.radices]
        for part in self.parts:
            cube = part.table.reshape([int(self.radices[d]) for d in part.decisions])
            for axis, decision in enumerate(part.decisions):
                flat = np.moveaxis(cube, axis, 0).reshape(cube.shape[axis], -1)
                known = ~np.isnan(flat)
                total, count = np.where(known, flat, 0.0).sum(axis=1), known.sum(axis=1)
                found[decision] += np.where(count > 0, total / np.maximum(count, 1), np.nan)
        return found

    def range(self) -> tuple[float, float]:
        """Bounds that every value lies between; tight when no two parts share a decision. NaN parts are left out."""
        low = high = self.constant
        for part in self.parts:
            known = part.table[~np.isnan(part.table)]
            if known.size:
                low, high = low + float(known.min()), high + float(known.max())
        return low, high


class MaxCost(_Tabular):
    """The largest of a constant and one look-up per part."""

    @classmethod
    def from_space(cls, space: SearchSpace, values: np.ndarray) -> MaxCost:
        """The largest per-block value, shape ``(len(space.catalog),)``, among the blocks of an architecture."""
        tables = [np.where(term.counts > 0, values, -np.inf).max(axis=1, initial=-np.inf) for term in space.terms]
        parts, fixed = _space_parts(space, tables)
        return cls(space.radices, parts, max(fixed, default=-np.inf))

    def values(self, architectures: np.ndarray) -> np.ndarray:
        """Price `architectures`, shape ``(n, decisions)``; returns ``(n,)``."""
        return self._reduce(architectures, np.maximum)

    def largest(self) -> float:
        """The largest value of any architecture."""
        return max([self.constant, *(float(part.table.max()) for part in self.parts)])

    def within(self, bound: float) -> AdditiveCost:
        """A cost that is 0 where the maximum is at most `bound`, and NaN elsewhere: a mask on the choices."""
        parts = (Part(part.decisions, np.where(part.table <= bound, 0.0, np.nan)) for part in self.parts)
        return AdditiveCost(self.radices, parts, 0.0 if self.constant <= bound else np.nan)


@dataclass(frozen=True, eq=False)
class RatioCost:
    """One additive cost divided by another, such as MACs per byte moved."""

    numerator: AdditiveCost
    denominator: AdditiveCost

    def values(self, architectures: np.ndarray) -> np.ndarray:
        """Price `architectures`, shape ``(n, decisions)``; returns ``(n,)``."""
        return np.asarray(self.numerator.values(architectures) / self.denominator.values(architectures))


class GraphCost:
    """A property of the lowered graph, read one architecture at a time and remembered.

    Parameters
    ----------
    space
        The space that lowers the architectures.
    attribute
        Name of the graph's property, such as ``"peak_memory"``.
    """

    def __init__(self, space: SearchSpace, attribute: str) -> None:
        self.space, self.attribute = space, attribute
        self.known: dict[tuple[int, ...], float] = {}

    def values(self, architectures: np.ndarray) -> np.ndarray:
        """Price `architectures`, shape ``(n, decisions)``; returns ``(n,)``. Milliseconds for each new one."""
        matrix = architecture_matrix(self.space.radices, architectures)
        result = np.empty(len(matrix))
        for index, row in enumerate(map(tuple, matrix.tolist())):
            if row not in self.known:
                self.known[row] = float(getattr(self.space.lower(row), self.attribute))
            result[index] = self.known[row]
        return result
